"""Attention weights in the terminal: shading to see it, numbers to read it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attnx.view.labels import as_labels
from attnx.view.maps import Maps, as_maps

# From nothing to everything, in fifths; the second for terminals and pipes that are not Unicode.
_SHADES = " ░▒▓█"
_SHADES_ASCII = " .:+#"
_WIDEST_LABEL = 20
_NARROWEST_CELL = 6


def to_text(
    weights: npt.ArrayLike,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    width: int | None = None,
    ascii_only: bool = False,
) -> str:
    """Return weights as lines of text, one a query.

    Each cell shows a weight as two shaded characters and as a number with two digits. The shade
    grows from blank below a fifth of the largest weight to full in the last fifth.

    Parameters
    ----------
    weights : array_like
        Shape (L, S), float: what each query (row) attends to; or (H, L, S): one matrix a head, each
        under its number.
    queries, keys : sequence of str, optional
        L and S labels; default: their numbers. Labels too long for their place are cut, and
        characters that a terminal would obey are shown by their code.
    width : int, optional
        Most columns of a line. A wider matrix is cut into blocks of keys, one under the other;
        by default it is not cut.
    ascii_only : bool, default False
        Whether to use ASCII characters alone.

    Returns
    -------
    str
        Without a line end after the last line.

    Examples
    --------
    >>> from attnx.view import to_text
    >>> print(to_text([[1.0, 0.0], [0.3, 0.7]], ["the", "cat"], ["the", "cat"], ascii_only=True))
         the    cat
    the  ##1.00   0.00
    cat  ..0.30 ++0.70
    """
    maps = as_maps(weights, most_axes=3)
    rows = as_labels("queries", queries, maps.shape[1], ascii_only=ascii_only)
    columns = as_labels("keys", keys, maps.shape[2], ascii_only=ascii_only)
    texts = [_matrix(matrix, rows, columns, width, ascii_only) for matrix in maps]
    if np.ndim(weights) == 2:
        return texts[0]
    return "\n\n".join(f"head {head}\n\n{text}" for head, text in enumerate(texts))


def _matrix(
    matrix: Maps, rows: list[str], columns: list[str], width: int | None, ascii_only: bool
) -> str:
    margin = min(max(map(_columns, rows), default=0), _WIDEST_LABEL)
    cell = max(_NARROWEST_CELL, min(max(map(_columns, columns), default=0), _WIDEST_LABEL // 2))
    rows = [_fit(label, margin) for label in rows]
    columns = [_fit(label, cell) for label in columns]
    cells = _cells(matrix, _SHADES_ASCII if ascii_only else _SHADES)
    across = matrix.shape[1]
    if width is not None:
        across = max(1, (width - margin - 1) // (cell + 1))
    blocks = []
    for begin in range(0, max(matrix.shape[1], 1), max(across, 1)):
        part = slice(begin, begin + across)
        lines = [_line(" " * margin, columns[part])]
        for label, texts in zip(rows, cells, strict=True):
            lines.append(_line(label, [text.ljust(cell) for text in texts[part]]))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label}  {' '.join(cells)}".rstrip()


def _cells(matrix: Maps, shades: str) -> list[list[str]]:
    """Return each weight as its shade and its number."""
    finite = np.abs(np.where(np.isfinite(matrix), matrix, 0)).astype(np.float64)
    largest = float(finite.max(initial=0))
    steps = np.zeros(matrix.shape, np.int64)
    if largest > 0:
        steps = np.minimum(finite / largest * len(shades), len(shades) - 1).astype(np.int64)
    return [
        [
            shades[step] * 2 + f"{weight:4.2f}"
            for step, weight in zip(row_steps, row.tolist(), strict=True)
        ]
        for row_steps, row in zip(steps, matrix, strict=True)
    ]


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(_character_columns(c) for c in text)


def _character_columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(label: str, columns: int) -> str:
    """Return a label cut, with a mark, or filled to exactly this many columns."""
    if _columns(label) > columns:
        kept, used = "", 0
        for character in label:
            used += _character_columns(character)
            if used > columns - 1:
                break
            kept += character
        label = kept + "~"
    return label + " " * (columns - _columns(label))
