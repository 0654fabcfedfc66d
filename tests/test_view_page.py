"""The file of an interactive page; test_view_browser.py opens it."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attnx
from attnx.models import Pronouncer
from attnx.view import AttentionView, to_html

RNG = np.random.default_rng(5)
QUERIES = ["the", "cat", "<b>sat</b>", "\u5b57", "."]
KEYS = ["a", "$$mat$$", "</script><script>alert(1)</script>", "&amp;", "\u202eb", "$title", "x"]


def random_weights(*shape: int) -> np.ndarray:
    return attnx.softmax(3 * RNG.standard_normal(shape, dtype=np.float32))


WEIGHTS = random_weights(2, 3, 5, 7)


def held(page: str) -> dict[str, Any]:
    """Return the data of a page, with its weights as the whole numbers that it holds."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert text
    data: dict[str, Any] = json.loads(text[1])
    for name in ("weights", "received"):
        planes = np.frombuffer(zlib.decompress(base64.b64decode(data[name])), np.uint8)
        data[name] = np.ascontiguousarray(planes.reshape(4, -1).T).view("<u4").ravel()
    return data


def shown(weight: float) -> str:
    return f"{weight:.4f}"


# --- the file ------------------------------------------------------------------------------------


def test_a_page_holds_the_digits_that_it_shows() -> None:
    data = held(to_html(WEIGHTS, QUERIES, KEYS))
    assert (data["layers"], data["heads"], data["layer"], data["head"]) == (2, 3, 1, 3)
    wide = WEIGHTS.astype(np.float64)
    expected = np.concatenate([wide, wide.mean(axis=1, keepdims=True)], axis=1)
    for name, values in (("weights", expected), ("received", expected.sum(axis=2))):
        digits = [shown(step / data["steps"]) for step in data[name]]
        assert digits == [shown(value) for value in values.ravel()]


@pytest.mark.parametrize(("weights", "layers", "heads"), [
    (WEIGHTS[0, 0], 1, 1), (WEIGHTS[0], 1, 3), (WEIGHTS, 2, 3), (list(WEIGHTS), 2, 3),
    (tuple(WEIGHTS.tolist()), 2, 3), (WEIGHTS[:, :1].astype(np.float16), 2, 1),
])  # fmt: skip
def test_forms_of_weights(weights: Any, layers: int, heads: int) -> None:
    data = held(to_html(weights))
    assert (data["layers"], data["heads"]) == (layers, heads)
    assert (data["queries"], data["keys"]) == ([*"01234"], [*"0123456"])
    maps = layers * (heads + (heads > 1))
    assert data["weights"].size == maps * 5 * 7


def test_an_alignment_of_the_pronouncer() -> None:
    phonemes, letters, weights = Pronouncer.load().align("attention")
    data = held(to_html(weights, phonemes, letters))
    assert data["queries"] == phonemes
    assert data["keys"] == letters
    np.testing.assert_array_equal(data["weights"], np.rint(weights.astype(float) * 1e4).ravel())


def test_missing_weights_stay_missing() -> None:
    weights = np.array([[[0.5, np.nan], [np.nan, np.nan]], [[0.25, 1], [np.nan, np.nan]]])
    data = held(to_html(weights))
    none = data["missing"]
    assert data["weights"].tolist() == [
        5000, none, none, none, 2500, 10000, none, none, 3750, 10000, none, none,
    ]  # fmt: skip
    assert data["received"].tolist() == [5000, none, 2500, 10000, 3750, 10000]


def test_text_is_escaped() -> None:
    page = to_html(WEIGHTS, QUERIES, KEYS, title="</title><script>alert('$data')</script>")
    assert page.count("<script") == page.count("</script") == 3
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<title>&lt;/title&gt;&lt;script&gt;alert(&#x27;$data&#x27;)" in page
    assert held(page)["keys"][2:6] == [KEYS[2], "&amp;", "\\u202eb", "$title"]
    page.encode()  # half a surrogate pair would not pass
    assert held(to_html([[1.0]], ["\ud800"]))["queries"] == ["\\ud800"]


def test_nothing_is_fetched() -> None:
    page = to_html(WEIGHTS)
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(", outside)
    assert "default-src 'none'" in page  # and the browser holds the scripts to it


@pytest.mark.parametrize(("length", "most"), [(9, 1.6e6), (40, 1.9e6), (128, 3e6)])
def test_size_of_a_model_s_page(length: int, most: float) -> None:
    assert len(to_html(random_weights(6, 12, length, length)).encode()) <= most


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((WEIGHTS[0, 0, 0],), {}, r"weights must be floats of shape \(L, S\), \(H, L, S\) or \(layers, H"),
    ((np.zeros((2, 2), int),), {}, "weights.*int64"),
    ((WEIGHTS[None],), {}, r"weights.*\(1, 2, 3, 5, 7\)"),
    ((-WEIGHTS,), {}, "weights must lie between 0 and 80000"),
    ((WEIGHTS * np.float32(1e6),), {}, "weights must lie between 0 and 80000"),
    ((WEIGHTS[:, :0],), {}, r"weights must have at least one.*\(2, 0, 5, 7\)"),
    ((WEIGHTS, ["a"]), {}, "queries must be 5 labels.*got 1"),
    ((WEIGHTS, None, "abcdefg"), {}, "keys must be 7 labels"),
    ((WEIGHTS,), {"layer": 2}, "layer must lie between 0 and 1, got 2"),
    ((WEIGHTS,), {"head": -1}, "head must lie between 0 and 2, got -1"),
    ((WEIGHTS,), {"head": 0.5}, "head must be an integer, got float"),
    ((WEIGHTS,), {"layer": "a"}, "layer must be an integer, got str"),
])  # fmt: skip
def test_wrong_arguments(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        to_html(*arguments, **options)


def test_layers_of_different_shapes_are_refused() -> None:
    with pytest.raises(TypeError, match="weights must be an array"):
        to_html([WEIGHTS[0], WEIGHTS[1, :2]])


def test_a_notebook_gets_the_page_in_a_frame(tmp_path: Path) -> None:
    view = AttentionView(WEIGHTS, QUERIES, KEYS, title="a 'title'", layer=0, head=2)
    page = to_html(WEIGHTS, QUERIES, KEYS, title="a 'title'", layer=0, head=2)
    frame = re.fullmatch(
        r'<iframe srcdoc="([^"]*)" [^<>]*></iframe>', view._repr_html_(), re.DOTALL
    )
    assert frame
    without_ids = re.compile(r'"(?:p\d+|[\da-f-]{36})"')
    assert without_ids.sub("", html.unescape(frame[1])) == without_ids.sub("", page)
    view.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == html.unescape(frame[1])
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
