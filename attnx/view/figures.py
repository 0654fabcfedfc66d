"""The figures of a page, made with Bokeh; page.js fills them with the weights that are chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, FixedTicker, LinearColorMapper, NoOverlap, PlainText
from bokeh.models.annotations import ColorBar
from bokeh.models.glyphs import Image
from bokeh.palettes import Blues9, Blues256, interp_palette
from bokeh.plotting import figure
from bokeh.resources import Resources

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

# From the colour of the paper through one hue, which every kind of colour vision can order.
PALETTES = {
    "light": tuple(reversed(Blues256)),
    "dark": tuple(interp_palette(("#131a24", *Blues9), 256)),
}
_WIDEST_LABEL = 16


def library() -> str:
    """Return BokehJS, without the widgets: the page has the browser's own controls."""
    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)


def figures(queries: list[str], keys: list[str], layers: int, maps: int) -> dict[str, Any]:
    """Return the figures for so many layers and maps in each, as BokehJS's embed_item takes them."""
    made = {"matrix": _matrix(queries, keys), "lines": _lines()}
    if layers * maps > 1:
        made["overview"] = _overview(layers, maps, len(queries), len(keys))
    return {name: json_item(plot) for name, plot in made.items()}


def _figure(name: str, **options: Any) -> Figure:
    """Return a figure of the data alone, without tools; the page sets its size."""
    plot = figure(
        name=name, tools="", toolbar_location=None, frame_width=100, frame_height=100,
        min_border=0, outline_line_color=None, background_fill_color=None,
        border_fill_color=None, **options,
    )  # fmt: skip
    plot.grid.visible = False
    plot.axis.axis_line_color = None
    plot.axis.major_tick_line_color = None
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_standoff = 2
    plot.axis.axis_label_text_font_style = "normal"
    return plot


def _source(*columns: str) -> ColumnDataSource:
    """Return what the page puts numbers into."""
    return ColumnDataSource({column: [] for column in columns})


def _add_maps(
    plot: Figure, name: str, length: int, keys_length: int, width: float, height: float
) -> LinearColorMapper:
    """Add what draws weights as cells of colour, and return the scale."""
    colours = LinearColorMapper(
        palette=PALETTES["light"], low=0, high=1, nan_color="#00000000", name=f"{name} colours"
    )
    weights = np.zeros((length, keys_length), np.float32)
    source = ColumnDataSource({"image": [weights], "x": [0], "y": [0]})
    image = Image(image="image", x="x", y="y", dw=width, dh=height, color_mapper=colours)
    plot.add_glyph(source, image, name=name)
    return colours


def _label(axis: Any, labels: list[str], places: list[float]) -> None:
    """Put labels beside rows or columns. As plain text: Bokeh would fetch what it needs for TeX."""
    axis.ticker = FixedTicker(ticks=places)
    axis.major_label_overrides = {
        place: PlainText(
            text=label if len(label) <= _WIDEST_LABEL else label[: _WIDEST_LABEL - 1] + "\u2026"
        )
        for place, label in zip(places, labels, strict=True)
    }


def _matrix(queries: list[str], keys: list[str]) -> Figure:
    """Return the matrix: query i lies between i and i + 1 on an axis that goes down."""
    length, keys_length = len(queries), len(keys)
    plot = _figure("matrix", x_range=(0, keys_length), y_range=(length, 0), x_axis_location="above")
    _label(plot.xaxis, keys, [column + 0.5 for column in range(keys_length)])
    _label(plot.yaxis, queries, [row + 0.5 for row in range(length)])
    plot.rect(
        "x", "y", 1, 1, source=_source("x", "y"), name="missing", fill_color=None, line_color=None,
        hatch_pattern="diagonal_cross", hatch_scale=10,
    )  # fmt: skip
    colours = _add_maps(plot, "cells", length, keys_length, keys_length, length)
    plot.quad(
        "left", "right", "bottom", "top", source=_source("left", "right", "bottom", "top", "width"),
        name="cursor", fill_color=None, line_width="width",
    )  # fmt: skip
    scale = ColorBar(
        color_mapper=colours, height=8, padding=4, title="weight", title_text_font_style="normal",
        name="scale",
    )  # fmt: skip
    plot.add_layout(scale, "below")
    return plot


def _lines() -> Figure:
    """Return the head view; its units are pixels from the upper left."""
    plot = _figure("lines", x_range=(0, 100), y_range=(100, 0))
    plot.axis.visible = False
    plot.rect(
        "x", "y", "width", "height", source=_source("x", "y", "width", "height", "alpha"), name="marks",
        fill_alpha="alpha", line_color=None,
    )  # fmt: skip
    plot.segment(
        "x0", "y0", "x1", "y1", source=_source("x0", "y0", "x1", "y1", "alpha"), name="links",
        line_alpha="alpha", line_width=1.5,
    )  # fmt: skip
    plot.hbar(
        "y", "height", "right", "left", source=_source("y", "height", "right", "left"), name="received",
        line_color=None,
    )  # fmt: skip
    plot.text(
        "x", "y", "text", source=_source("x", "y", "text", "align", "style"), name="tokens",
        text_align="align", text_baseline="middle", text_font_style="style",
    )  # fmt: skip
    return plot


def _overview(layers: int, maps: int, length: int, keys_length: int) -> Figure:
    """Return the small maps: that of layer l and head h lies from (h, l) to (h + 1, l + 1)."""
    plot = _figure(
        "overview", x_range=(0, maps), y_range=(layers, 0), x_axis_location="above",
        x_axis_label="head", y_axis_label="layer",
    )  # fmt: skip
    middles = [index + 0.5 for index in range(max(layers, maps))]
    heads = [*map(str, range(maps - 1)), "mean"] if maps > 1 else ["0"]
    _label(plot.xaxis, heads, middles[:maps])
    _label(plot.yaxis, [*map(str, range(layers))], middles[:layers])
    plot.axis.major_label_policy = NoOverlap(min_distance=2)
    _add_maps(plot, "maps", length, keys_length, 0.92, 0.92)
    plot.rect(
        "x", "y", 0.98, 0.98, source=_source("x", "y"), name="chosen", fill_color=None, line_width=3
    )
    return plot
