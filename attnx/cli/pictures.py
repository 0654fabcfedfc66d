"""Weights as text on the terminal, as a page, as a picture: what the commands share."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnx.output_file import check_output, open_output

if TYPE_CHECKING:
    from attnx.layers.module import FloatArray


def add_picture_options(command: argparse.ArgumentParser, what: str) -> None:
    """Add the options that ask for a page or a picture of something."""
    command.add_argument(
        "-o", "--html", metavar="FILE", help=f"write {what} as an interactive page; - for standard output"
    )  # fmt: skip
    command.add_argument(
        "--png", metavar="FILE", help=f"write {what} as a picture; - for standard output"
    )


def check_pictures(options: argparse.Namespace) -> bool:
    """Return whether a page or picture is asked for, or raise before any work if it cannot be written."""
    names = [name for name in (options.html, options.png) if name is not None]
    if len(names) > len({name if name == "-" else os.path.realpath(name) for name in names}):
        raise ValueError(f"a page and a picture need a file each, got {names[0]} for both")
    for name in names:
        check_output(name)
    return bool(names)


def write_pictures(
    options: argparse.Namespace,
    shown: FloatArray,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    title: str,
    layers: FloatArray | None = None,
    layer: int = -1,
    head: int | None = None,
) -> None:
    """Write what was asked for: a picture of what is shown, a page of all layers."""
    from attnx.view.page import to_html
    from attnx.view.picture import to_png

    # Both are made before either is written: a missing package leaves no half of what was asked.
    made: dict[str, bytes] = {}
    if options.html is not None:
        weights = shown if layers is None else layers
        page = to_html(weights, queries, keys, title=title, layer=layer, head=head)
        made[options.html] = page.encode()
    if options.png is not None:
        with warnings.catch_warnings(record=True) as caught:  # of characters that no font has
            made[options.png] = to_png(shown, queries, keys)
        for warning in caught:
            print(f"attnx: {options.png}: {warning.message}", file=sys.stderr)
    for name, data in made.items():
        with open_output(name) as file:
            file.write(data)
        if name != "-":
            print(f"attnx: {name}: {len(data) / 1e6:.2f} MB", file=sys.stderr)


def print_weights(weights: FloatArray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Print weights (L, S), or (H, L, S), as a terminal or a pipe can show them."""
    from attnx.view import to_text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    print(to_text(weights, rows, columns, width=width, ascii_only=plain))
