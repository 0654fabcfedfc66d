"""docs/conventions.md: its examples run, its table is whole, what it names is there."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

import attnx

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conventions.md"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def sections() -> dict[str, str]:
    """Return the examples' sections by heading."""
    text = PAGE.read_text().partition("## Examples")[2]
    parts = re.split(r"^### (.+)$", text, flags=re.M)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_example_runs() -> None:
    failed, run = doctest.testfile(str(PAGE), module_relative=False, optionflags=FLAGS)
    assert failed == 0
    assert run > 30


@pytest.mark.parametrize("heading", list(sections()))
def test_every_section_has_an_example(heading: str) -> None:
    assert ">>> " in sections()[heading]


def test_a_wrong_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text().replace("[1, 2, 3, 3, 3, 3]", "[1, 2, 3, 4, 4, 4]"))
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    test = doctest.DocTestParser().get_doctest(page.read_text(), {}, "page", None, 0)
    assert runner.run(test, out=lambda text: None).failed == 1


def test_the_table_is_whole() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.M)
    assert len(tables) == 2
    for table in tables:
        cells = [row.count("|") for row in table.splitlines()]
        assert len(cells) > 10
        assert set(cells) == {cells[0]}


def test_the_options_it_names_are_options() -> None:
    """The second column of the second table is written in attnx's arguments."""
    known = {"stage"}
    for function in (attnx.scaled_dot_product_attention, attnx.varlen_attention):
        known |= set(inspect.signature(function).parameters)
    table = PAGE.read_text().partition("| peer's argument | attnx |")[2].partition("## ")[0]
    ours = "".join(row.rpartition(" | ")[2] for row in table.splitlines())
    named = set(re.findall(r"(\w+)=", ours))
    assert {"query_offset", "window", "key_lengths", "bias", "scale", "stage"} <= named
    assert named <= known
    for name in re.findall(r"attnx\.(\w+)\.(\w+)", ours):
        assert hasattr(getattr(attnx, name[0]), name[1])


def test_the_files_it_names_are_there() -> None:
    names = re.findall(r"`((?:tests|docs|attnx)/[\w/.]+)`", PAGE.read_text())
    assert names
    for name in names:
        assert (ROOT / name).exists()
