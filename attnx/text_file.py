"""Texts from a file, one a line."""

from __future__ import annotations

import sys
from pathlib import Path


def read_lines(name: str) -> list[str]:
    """Return the lines of a file or of standard input, or raise naming the first bad one."""
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name}: line {line} is not UTF-8 text") from None
    # Line ends are those of files; str.splitlines would also split at a form feed or U+2028.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
