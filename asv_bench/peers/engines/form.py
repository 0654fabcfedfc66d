"""What an engine offers for a row: one or more forms of the same work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Form(NamedTuple):
    """One way to do a row's work.

    `call` is what is timed. `read` turns its result into the row's NumPy layout and is not timed:
    an engine may keep its arrays in the layout that it likes best.
    """

    call: Callable[[], Any]
    read: Callable[[Any], np.ndarray] = np.asarray


#: The forms by name. The harness keeps those whose result is right and measures the fastest.
Forms = dict[str, Form]


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """(B, L, H * E) to (B, H, L, E)."""
    batch, rows, width = x.shape
    return x.reshape(batch, rows, heads, width // heads).transpose(0, 2, 1, 3)


def join_heads(x: np.ndarray) -> np.ndarray:
    """(B, H, L, E) to a contiguous (B, L, H * E)."""
    batch, heads, rows, dim = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(batch, rows, heads * dim)
