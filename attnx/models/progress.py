"""A progress bar for whoever watches a terminal."""

from __future__ import annotations

import sys
from typing import Any, Self


def progress_bar(total: int, wanted: bool) -> Any:
    """Return a bar that counts texts, or one that shows nothing.

    The package tqdm is imported where a bar is wanted and standard error is a terminal, only.
    """
    if wanted and sys.stderr is not None and sys.stderr.isatty():
        from tqdm import tqdm

        return tqdm(total=total, unit="text", file=sys.stderr)
    return _Silent()


class _Silent:
    """What a progress bar is where nobody watches."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, count: int) -> None:
        """Count texts, for nobody."""
