"""The attention matrix as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnx
from attnx.view import to_text

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
    ((WEIGHTS, ["a"]), "queries must be 2 labels.*got 1"),
    ((WEIGHTS, None, "abc"), "keys must be 3 labels"),
])  # fmt: skip
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_text(*arguments)
