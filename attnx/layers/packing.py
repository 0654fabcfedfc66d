"""Sequences in padded arrays (..., L, E), as packed rows (T, E), and attention over either."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from attnx.attention import scaled_dot_product_attention
from attnx.layers.module import FloatArray
from attnx.layers.workspace import Workspace
from attnx.varlen import prepared_varlen_attention

# Takes the query, key and value of a workspace to its `attended`.
Attend = Callable[[Workspace], None]


def as_lengths(
    name: str, lengths: npt.ArrayLike, batch: tuple[int, ...], longest: int
) -> npt.NDArray[np.int64]:
    """Return the lengths of all sequences in one axis, or raise naming the argument."""
    # Copied before they are checked: another thread may go on writing to them.
    given = np.array(lengths)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {given.dtype}")
    try:
        spread = np.broadcast_to(given, batch)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to the batch shape {batch}, got {given.shape}"
        ) from None
    if spread.size and (spread.min() < 0 or spread.max() > longest):
        raise ValueError(
            f"{name} must lie between 0 and {longest}, got {spread.min()} to {spread.max()}"
        )
    return spread.astype(np.int64).reshape(-1)


def starts_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each sequence begins in packed rows, and where the last one ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def attend_packed(starts: npt.NDArray[np.int64], is_causal: bool) -> Attend:
    """Return self-attention inside each of the packed sequences."""
    runs: dict[Workspace, Callable[[], None]] = {}

    def attend(work: Workspace) -> None:
        if work not in runs:
            runs[work] = prepared_varlen_attention(
                work.query, work.key, work.value, starts, work.attended_heads, is_causal=is_causal
            )
        runs[work]()

    return attend


def attend_padded(
    shape: tuple[int, ...],
    mask: npt.ArrayLike | None,
    lengths: npt.NDArray[np.int64] | None,
    is_causal: bool,
) -> Attend:
    """Return self-attention over rows that are a padded array of shape (..., L)."""
    limits = None if lengths is None else lengths.reshape(shape[:-1])

    def split(rows: FloatArray) -> FloatArray:
        return rows.reshape(*shape, *rows.shape[1:])

    def attend(work: Workspace) -> None:
        scaled_dot_product_attention(
            split(work.query), split(work.key), split(work.value), mask, is_causal=is_causal,
            key_lengths=limits, query_lengths=limits, layout="blhd",
            out=split(work.attended_heads),
        )  # fmt: skip

    return attend
