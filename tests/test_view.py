"""Weights as text and as pictures; test_view_page.py has the page."""

from __future__ import annotations

import doctest
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from matplotlib import image, pyplot

import attnx
from attnx.view import heatmap, to_text
from attnx.view.picture import to_png

WEIGHTS = np.array([[1.0, 0.0, 0.25], [0.5, 0.1, 0.4]], np.float32)


def test_a_small_matrix() -> None:
    text = to_text(WEIGHTS, ["a", "bcd"], ["x", "yy", "longer label"])
    assert text.split("\n") == [
        "     x          yy         longer la~",
        "a    ██1.00       0.00     ░░0.25",
        "bcd  ▒▒0.50       0.10     ▒▒0.40",
    ]
    assert attnx.view.to_text is to_text


def test_ascii_only() -> None:
    text = to_text(WEIGHTS, ["\u5b57", "\x1b[31m"], ["\n", "\u00e4", "ok"], ascii_only=True)
    assert text.isascii()
    assert "\x1b" not in text
    for part in (r"\u5b57", r"\x1b[31m", r"\n", r"\xe4", "##1.00", "..0.25", "::0.50"):
        assert part in text


def test_labels_cannot_move_the_cursor() -> None:
    text = to_text(WEIGHTS, ["a\rb", "\u202ec"], ["x\ny", "\t", "\x07"])
    assert len(text.split("\n")) == 3
    assert all(c.isprintable() or c == "\n" for c in text)


def test_default_labels_are_numbers() -> None:
    lines = to_text(WEIGHTS).split("\n")
    assert lines[0].split() == ["0", "1", "2"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1"]


@pytest.mark.parametrize("width", [1, 10, 20, 30, 80, 1000])
def test_no_line_is_wider_than_asked(width: int) -> None:
    weights = np.random.default_rng(0).random((5, 23))
    text = to_text(weights, list("abcde"), [str(k) for k in range(23)], width=width)
    blocks = text.split("\n\n")
    headings = " ".join(block.split("\n")[0] for block in blocks)
    assert headings.split() == [str(k) for k in range(23)]  # every key once, in order
    assert all(len(block.split("\n")) == 6 for block in blocks)
    longest = max(map(len, text.split("\n")))
    assert longest <= max(width, 9)  # one key at least, however narrow
    assert len(blocks) == 1 or longest > width - 9


def test_wide_characters_keep_the_columns_in_line() -> None:
    one, two = to_text(WEIGHTS, ["\u5b57\u5b57", "abcd"]).split("\n")[1:]
    assert one.index("██") == two.index("▒▒") - 2  # two characters that take four columns


def test_strange_numbers() -> None:
    text = to_text([[np.nan, np.inf], [-1.0, 0.5]], ascii_only=True)
    assert " nan" in text
    assert " inf" in text
    assert "0.00" in to_text(np.zeros((1, 1)))
    assert to_text(np.zeros((0, 3))).split() == ["0", "1", "2"]
    assert to_text(np.zeros((2, 0))).split() == ["0", "1"]


@pytest.mark.parametrize(("arguments", "message"), [
    ((np.zeros(3),), r"weights.*\(3,\)"),
    ((np.zeros((2, 2), int),), "weights.*int64"),
    ((np.zeros((1, 1, 2, 2)),), r"weights.*\(L, S\) or \(H, L, S\), got float64"),
    ((WEIGHTS, ["a"]), "queries must be 2 labels.*got 1"),
    ((WEIGHTS, None, "abc"), "keys must be 3 labels"),
])  # fmt: skip
def test_wrong_arguments(arguments: Any, message: str) -> None:
    for function in (to_text, heatmap, to_png):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


def test_heads_stand_one_under_the_other() -> None:
    heads = np.stack([WEIGHTS, WEIGHTS[::-1]])
    parts = to_text(heads, ["a", "b"], width=60).split("\n\n")
    assert parts == [
        "head 0",
        to_text(heads[0], ["a", "b"]),
        "head 1",
        to_text(heads[1], ["a", "b"]),
    ]


def test_halves_are_floats() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        assert to_text(WEIGHTS.astype(dtype)).count("0.50") == 1


# --- heatmap -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


def texts(labels: Any) -> list[str]:
    return [label.get_text() for label in labels]


def test_a_heatmap_has_the_weights_and_labels() -> None:
    figure = heatmap(WEIGHTS, ["a", "$x$"], ["the", "$y$ $z$", "\n"])
    ax, scale = figure.axes
    np.testing.assert_array_equal(ax.images[0].get_array(), WEIGHTS)
    assert ax.images[0].get_clim() == (0, 1)
    assert scale.get_ylim() == (0, 1)
    assert texts(ax.get_xticklabels()) == ["the", "$y$ $z$", "\\n"]
    assert texts(ax.get_yticklabels()) == ["a", "$x$"]
    assert not any(label.get_parse_math() for label in ax.get_xticklabels())
    assert ax.get_title() == ""
    # Row 0 is at the top, column 0 at the left.
    corners = ax.transData.transform([[0, 0], [2, 1]])
    assert corners[0, 0] < corners[1, 0]
    assert corners[0, 1] > corners[1, 1]


def test_more_is_darker() -> None:
    figure = heatmap(np.linspace(0, 1, 64)[None])
    colours = figure.axes[0].images[0].cmap(np.linspace(0, 1, 64))[:, :3]
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < 0).all()


def test_a_heatmap_on_given_axes() -> None:
    figure, (left, right) = pyplot.subplots(1, 2)
    assert heatmap(WEIGHTS, ax=right) is figure
    assert not left.images
    assert texts(right.get_xticklabels()) == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"ax takes one matrix.*2 heads"):
        heatmap(np.stack([WEIGHTS, WEIGHTS]), ax=left)


def test_a_grid_of_heads_shares_one_scale() -> None:
    heads = np.stack([WEIGHTS * part for part in (0.5, 0.2, 0.1, 0.8, 0.3)])
    figure = heatmap(heads, ["a", "b"], ["x", "y", "z"])
    *grid, scale = figure.axes
    assert [ax.get_title() for ax in grid] == [f"head {head}" for head in range(5)]
    for ax, matrix in zip(grid, heads, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), matrix)
        assert ax.images[0].get_clim() == (0, np.float32(0.8))
    assert scale.get_ylim() == (0, np.float32(0.8))
    figure.canvas.draw()
    seen = [
        [label.get_visible() and label.get_text() for label in ax.get_xticklabels()] for ax in grid
    ]
    assert [labels == ["x", "y", "z"] for labels in seen] == [False, False, True, True, True]


def test_missing_weights_are_hatched() -> None:
    figure = heatmap([[np.nan, 0.5]])
    ax = figure.axes[0]
    assert np.ma.getmaskarray(ax.images[0].get_array()).tolist() == [[True, False]]
    assert ax.images[0].cmap(np.ma.masked)[3] == 0  # so that the hatch behind it is seen
    assert ax.patch.get_hatch()
    assert heatmap(np.full((1, 2), np.nan)).axes[0].images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (128, 128), (700, 500), (12, 9, 9), (1, 2, 2)])
def test_a_png_of_any_size(shape: tuple[int, ...]) -> None:
    picture = image.imread(io.BytesIO(to_png(np.random.default_rng(0).random(shape))))
    assert 200 <= min(picture.shape[:2]) <= max(picture.shape[:2]) <= 2500
    assert pyplot.get_fignums() == []


def test_labels_do_not_overlap() -> None:
    figure = heatmap(
        np.random.default_rng(0).random((128, 300)), [f"token {i}" for i in range(128)]
    )
    figure.canvas.draw()
    ax = figure.axes[0]
    for labels, side in ((ax.get_yticklabels(), "y"), (ax.get_xticklabels(), "x")):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert len(boxes) > 60
        lows = sorted((getattr(box, f"{side}0"), getattr(box, f"{side}1")) for box in boxes)
        assert all(this[1] <= following[0] + 1 for this, following in pairwise(lows))


@pytest.mark.parametrize("bad", [-0.5, np.inf, -np.inf])
def test_a_heatmap_takes_weights_alone(bad: float) -> None:
    with pytest.raises(ValueError, match="weights must lie between 0"):
        heatmap([[0.5, bad]])
    with pytest.raises(ValueError, match=r"weights must have.*\(1, 0, 3\)"):
        heatmap(np.zeros((0, 3)))


@pytest.mark.parametrize(("package", "call"), [
    ("matplotlib", "heatmap([[1.0]])"), ("bokeh", "to_html([[1.0]])"),
])  # fmt: skip
def test_a_missing_package_is_named_with_its_extra(package: str, call: str) -> None:
    code = f"""
import sys
sys.modules["{package}"] = None
from attnx.view import heatmap, to_html, to_text
to_text([[1.0]])
try:
    {call}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'attnx[view]'" in done.stdout


def test_importing_brings_no_plotting_library() -> None:
    code = "import attnx.view, sys; print({'matplotlib', 'bokeh', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_page_in_docs_is_true() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs"
    failed, run = doctest.testfile(
        str(docs / "view.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert (failed, run > 8) == (0, True)
    named = set(re.findall(r"\((images/[\w-]+\.png)\)", (docs / "view.md").read_text("utf-8")))
    assert named == {f"images/{path.name}" for path in (docs / "images").iterdir()}
    assert all((docs / name).stat().st_size < 150_000 for name in named)
