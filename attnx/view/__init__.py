"""Attention to look at: a matrix of weights as text for the terminal."""

from attnx.view.text import to_text

__all__ = ["to_text"]
