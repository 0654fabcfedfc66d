"""Attention weights as a picture, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnx.view.labels import as_labels
from attnx.view.maps import Maps, as_maps, check_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# One hue from white to dark: what is darker is more, for every kind of colour vision and in print.
_COLOURS = "Blues"
# Inches of a cell with and without room for a label of its own, and of what stands around a matrix.
_CELL, _LEAST_CELL, _AROUND = 0.26, 0.13, 1.4
# A figure's side. Beyond, the labels would be read by nobody, and so only some are written.
_LARGEST = 20.0
_WIDEST_LABEL = 20


def heatmap(
    weights: npt.ArrayLike,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw weights as a heatmap, or as a grid of heatmaps with one for each head.

    The scale goes from 0 to the largest weight, of all heads, in one hue that every kind of colour
    vision can order. Missing weights (NaN) are hatched.

    Parameters
    ----------
    weights : array_like
        Shape (L, S), float: what each query (row) attends to; or (H, L, S), a grid of heads.
    queries, keys : sequence of str, optional
        L and S labels; default: their numbers.
    ax : matplotlib.axes.Axes, optional
        Where one matrix is drawn; default: a new figure of pyplot's, of a size that the labels need.

    Returns
    -------
    matplotlib.figure.Figure
        What it is drawn on; its ``axes`` are the matrices in the order of the heads, then the scale.

    Raises
    ------
    ImportError
        If matplotlib is not installed (``attnx[view]``).
    ValueError
        If `weights` are not floats of these shapes, negative or infinite, or the labels are not as
        many as queries and keys.

    Examples
    --------
    >>> from attnx.view import heatmap
    >>> figure = heatmap([[1.0, 0.0], [0.3, 0.7]], ["the", "cat"], ["the", "cat"])
    >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
    ['the', 'cat']
    >>> import matplotlib.pyplot
    >>> matplotlib.pyplot.close(figure)
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise _missing(error) from None

    maps, rows, columns = _checked(weights, queries, keys)
    if ax is None:
        made = pyplot.figure(figsize=_size(maps), layout="constrained")
        _draw(_grid(made, maps), maps, rows, columns)
        return made
    if len(maps) != 1:
        raise ValueError(f"ax takes one matrix of weights, got {len(maps)} heads")
    _draw([ax], maps, rows, columns)
    figure = ax.get_figure(root=True)
    assert figure is not None  # it was just drawn on
    return figure


def to_png(
    weights: npt.ArrayLike, queries: Sequence[str] | None = None, keys: Sequence[str] | None = None
) -> bytes:
    """Return what `heatmap` draws as a PNG file, without a display and without pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _missing(error) from None

    maps, rows, columns = _checked(weights, queries, keys)
    figure = Figure(figsize=_size(maps), layout="constrained")
    _draw(_grid(figure, maps), maps, rows, columns)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _missing(error: ImportError) -> ImportError:
    return ImportError(f"a heatmap needs matplotlib: pip install 'attnx[view]' ({error})")


def _checked(
    weights: npt.ArrayLike, queries: Sequence[str] | None, keys: Sequence[str] | None
) -> tuple[Maps, list[str], list[str]]:
    maps = as_maps(weights, most_axes=3)
    check_weights(maps, np.finfo(np.float64).max)
    if 0 in maps.shape:
        raise ValueError(f"weights must have at least one head, query and key, got {maps.shape}")
    rows = as_labels("queries", queries, maps.shape[1])
    columns = as_labels("keys", keys, maps.shape[2])
    return maps, [_cut(label) for label in rows], [_cut(label) for label in columns]


def _cut(label: str) -> str:
    return label if len(label) <= _WIDEST_LABEL else label[: _WIDEST_LABEL - 1] + "\u2026"


def _across(heads: int) -> int:
    """Return how many heatmaps stand side by side."""
    return math.ceil(math.sqrt(heads))


def _size(maps: Maps) -> tuple[float, float]:
    """Return the inches of a figure: cells that a label fits beside, while that is not too large."""
    heads, rows, columns = maps.shape
    across = _across(heads)
    down = math.ceil(heads / across)
    largest = max(rows * down, columns * across)
    cell = min(_CELL, max(_LEAST_CELL, (_LARGEST - _AROUND) / largest))
    sides = (across * columns * cell + _AROUND, down * rows * cell + _AROUND)
    return min(max(sides[0], 3.0), _LARGEST), min(max(sides[1], 2.4), _LARGEST)


def _grid(figure: Figure, maps: Maps) -> list[Axes]:
    across = _across(len(maps))
    down = math.ceil(len(maps) / across)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for unused in grid[len(maps) :]:
        unused.remove()
    return list(grid[: len(maps)])


def _draw(grid: list[Axes], maps: Maps, rows: list[str], columns: list[str]) -> None:
    largest = float(np.nanmax(maps, initial=0)) or 1.0
    image: Any = None
    for head, (ax, matrix) in enumerate(zip(grid, maps, strict=True)):
        ax.patch.set(hatch="xxx", edgecolor="0.7")  # seen where nothing is drawn on it
        image = ax.imshow(matrix, cmap=_COLOURS, vmin=0, vmax=largest, aspect="auto")
        if len(maps) > 1:
            ax.set_title(f"head {head}", fontsize="small")
    figure, across = grid[0].figure, _across(len(maps))
    for head, ax in enumerate(grid):
        # In a grid matplotlib shows the labels at its left and lower edge, but not above a gap.
        _label(ax.yaxis, rows, ax.bbox.height / figure.dpi, rotation=0)
        _label(ax.xaxis, columns, ax.bbox.width / figure.dpi, rotation=90)
        if head + across >= len(maps):
            ax.xaxis.set_tick_params(labelbottom=True)
    figure.colorbar(image, ax=grid, label="weight", aspect=max(20, figure.bbox.height / 25))


def _label(axis: Axis, labels: list[str], inches: float, rotation: int) -> None:
    step = math.ceil(len(labels) * _LEAST_CELL / max(inches, _LEAST_CELL))
    points = 72 * 0.8 * inches / len(labels) * step
    axis.set_ticks(
        range(0, len(labels), step), labels[::step], rotation=rotation,
        fontsize=min(points, 9), parse_math=False,
    )  # fmt: skip
