"""Attention weights as a page: one file, interactive, that fetches nothing."""

from __future__ import annotations

import base64
import html
import json
import os
import zlib
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from attnx import _check
from attnx.output_file import open_output
from attnx.view.labels import as_labels, printable
from attnx.view.maps import Maps, as_maps, check_weights, mean_of_heads, received

# A page holds each weight as a whole number of these, the four digits that it shows.
_STEPS = 10_000
_MISSING = 2**32 - 1
_LARGEST = 400_000.0


def to_html(
    weights: npt.ArrayLike,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    title: str = "Attention",
    layer: int = -1,
    head: int | None = None,
) -> str:
    """Return an interactive page that shows weights; it is one file, and fetches nothing.

    It shows the matrix of one layer and head, or of the mean of the heads, with the exact weight
    of each cell; lines from each token to those it attends to; the weight that each key receives
    from all queries; and all heads as small maps. Everything can be reached with the keyboard.

    Parameters
    ----------
    weights : array_like
        Shape (L, S), (H, L, S) or (layers, H, L, S), or a sequence of layers (H, L, S); float: what
        each query (row) attends to. NaN is shown as missing.
    queries, keys : sequence of str, optional
        L and S labels; default: their numbers.
    title : str, default "Attention"
        The page's heading.
    layer : int, default -1
        The layer that the page opens with.
    head : int, optional
        The head that the page opens with; default: the mean of the heads.

    Returns
    -------
    str
        HTML. Its size is that of Bokeh's JavaScript, 0.5 MB, and one to one and a half bytes a weight.

    Raises
    ------
    ImportError
        If Bokeh is not installed (``attnx[view]``).
    ValueError
        If `weights` are not floats of these shapes, negative or so large (400,000 / L) that four
        digits have no room, if the labels are not as many as queries and keys, or there is no such
        layer or head.

    Notes
    -----
    Weights are kept with the four digits that are shown, rounded from the given ones; the mean
    of the heads and what a key receives are computed before rounding.

    The head view is that of Vig, A Multiscale Visualization of Attention in the Transformer Model,
    2019.

    Examples
    --------
    >>> from attnx.models import Pronouncer
    >>> from attnx.view import to_html
    >>> phonemes, letters, weights = Pronouncer.load().align("attention")
    >>> page = to_html(weights, phonemes, letters, title="attention")
    >>> page.startswith("<!DOCTYPE html>"), len(page) < 2e6
    (True, True)
    """
    maps = as_maps(weights, most_axes=4)
    layers, heads, length, keys_length = maps.shape
    if 0 in maps.shape:
        raise ValueError(
            f"weights must have at least one layer, head, query and key, got {maps.shape}"
        )
    check_weights(maps, _LARGEST / length)  # so that what a key receives is not larger either
    layer = _check.integer("layer", layer)
    if not -layers <= layer < layers:
        raise ValueError(f"layer must lie between 0 and {layers - 1}, got {layer}")
    head = None if head is None else _check.integer("head", head)
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head must lie between 0 and {heads - 1}, got {head}")
    if heads > 1:
        maps = np.concatenate([maps, mean_of_heads(maps)], axis=1)
    data = {
        "queries": as_labels("queries", queries, length),
        "keys": as_labels("keys", keys, keys_length),
        "layers": layers,
        "heads": heads,
        "layer": layer % layers,
        "head": head if head is not None else maps.shape[1] - 1,
        "steps": _STEPS,
        "missing": _MISSING,
        "weights": _packed(maps),
        "received": _packed(received(maps)),
    }
    return _page(printable(title), data, maps.shape[1])


class AttentionView:
    """Weights that a notebook shows as the page of `to_html`.

    Parameters
    ----------
    weights, queries, keys, title, layer, head
        As in `to_html`.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.view import AttentionView
    >>> view = AttentionView(np.full((2, 3, 3), 1 / 3), ["the", "cat", "sat"], ["the", "cat", "sat"])
    >>> view.save("page.html")  # doctest: +SKIP
    """

    def __init__(
        self,
        weights: npt.ArrayLike,
        queries: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        *,
        title: str = "Attention",
        layer: int = -1,
        head: int | None = None,
    ) -> None:
        self._page = to_html(weights, queries, keys, title=title, layer=layer, head=head)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, which appears, or is replaced, when all is written."""
        with open_output(os.path.abspath(path)) as file:  # a file, also where it is called "-"
            file.write(self._page.encode())

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, so that its style and script stay inside."""
        return (
            f'<iframe srcdoc="{html.escape(self._page)}" title="Attention" '
            'style="width: 100%; height: 720px; border: 0"></iframe>'
        )


def _packed(values: Maps) -> str:
    """Return numbers as text: rounded to steps, the lowest bytes of all first, compressed."""
    steps = np.rint(values.astype(np.float64) * _STEPS)
    whole = np.where(np.isnan(steps), _MISSING, steps).astype("<u4").ravel()
    planes = np.ascontiguousarray(whole.view(np.uint8).reshape(-1, 4).T)
    return _compressed(planes.tobytes())


def _compressed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode("ascii")


def _page(title: str, data: dict[str, Any], maps: int) -> str:
    try:
        from attnx.view import figures
    except ImportError as error:
        raise ImportError(f"a page needs Bokeh: pip install 'attnx[view]' ({error})") from None

    made = figures.figures(data["queries"], data["keys"], data["layers"], maps)
    library = _compressed(figures.library().encode())
    data = data | {"library": library, "palettes": figures.PALETTES, "figures": made}
    files = resources.files("attnx.view")
    return Template(files.joinpath("page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        style=files.joinpath("page.css").read_text("utf-8"),
        # A script's data ends at the first "</script", whatever JSON it is in.
        data=json.dumps(data).replace("<", "\\u003c"),
        weights=files.joinpath("weights.js").read_text("utf-8"),
        script=files.joinpath("page.js").read_text("utf-8"),
    )
