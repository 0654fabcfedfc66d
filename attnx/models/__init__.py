"""Whole models: text encoders from folders, and a pronouncer that comes with the package.

Text encoders are read in the Hugging Face convention and need the extra ``attnx[models]``; the
pronouncer needs NumPy alone, and so does importing this module.
"""

from attnx.models.pronouncer import Pronouncer
from attnx.models.text_encoder import TextEncoder

__all__ = ["Pronouncer", "TextEncoder"]
