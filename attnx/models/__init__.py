"""Whole models, read from folders in the Hugging Face convention.

Reading one needs the extra ``attnx[models]``; importing this module does not.
"""

from attnx.models.text_encoder import TextEncoder

__all__ = ["TextEncoder"]
