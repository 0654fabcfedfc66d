"""Attention to look at: as text for the terminal, as a picture, as an interactive page."""

from attnx.view.page import AttentionView, to_html
from attnx.view.picture import heatmap
from attnx.view.text import to_text

__all__ = ["AttentionView", "heatmap", "to_html", "to_text"]
