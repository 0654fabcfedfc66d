"""What an engine offers for a row: one or more forms of the same work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..work import Arrays, Attention


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


#: Queries at a time where each sees a window of keys, and an engine knows of no windows.
BLOCK = 256


class Block(NamedTuple):
    """Some queries, the keys that one of them sees at least, and which sees which."""

    rows: slice
    keys: slice
    visible: np.ndarray


def blocks(work: Attention) -> list[Block]:
    """Cut a windowed work into blocks of queries with little that they do not see."""
    found = []
    visible = work.visible()
    for start in range(0, work.queries, BLOCK):
        rows = slice(start, min(start + BLOCK, work.queries))
        seen = visible[rows].any(axis=0).nonzero()[0]
        keys = slice(int(seen[0]), int(seen[-1]) + 1)
        found.append(Block(rows, keys, np.ascontiguousarray(visible[rows, keys])))
    return found


def with_folded_heads(
    build: Callable[[Attention, Arrays], Forms], work: Attention, arrays: Arrays
) -> Forms:
    """Build the forms of this work; of grouped decoding also with a group's heads as rows.

    That is a view of the query, and spares an engine to know about groups.
    """
    forms = build(work, arrays)
    folded = work.folded()
    if folded is None:
        return forms
    shape = arrays["query"].shape
    rows = arrays["query"].reshape(shape[0], folded.heads, folded.queries, shape[3])
    for name, (call, read) in build(folded, arrays | {"query": rows}).items():

        def unfold(result: Any, read: Callable[[Any], np.ndarray] = read) -> np.ndarray:
            return read(result).reshape(shape)

        forms[f"{name}, heads folded into rows"] = Form(call, unfold)
    return forms
