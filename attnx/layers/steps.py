"""Sequences as rows that lie step by step, for layers that go through them one step at a time.

All rows of a step stand together, those of the longest sequences first. So the sequences that are
still going on are the first rows of every step, and padding takes neither memory nor time: the
order of PyTorch's packed sequences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnx.layers.module import FloatArray

Indices = npt.NDArray[np.int64]


class Steps:
    """Where the rows of B sequences of at most L steps lie.

    Attributes
    ----------
    counts : ndarray
        How many sequences have each step, int64.
    order : ndarray or None
        (B,), the sequences from the longest to the shortest; None where all are equally long.
    """

    __slots__ = ("_at", "_shape", "counts", "order")

    def __init__(self, batch: int, length: int, lengths: Indices | None) -> None:
        self._shape = batch, length
        self.order: Indices | None = None
        self.counts: Indices = np.full(length, batch, np.int64)
        if lengths is None or (lengths == length).all():
            return
        self.order = np.argsort(-lengths, kind="stable")
        has_step = lengths[:, None] > np.arange(lengths.max(initial=0))
        self.counts = counts = np.count_nonzero(has_step, axis=0).astype(np.int64)
        step = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        self._at = self.order[np.arange(len(step)) - first] * length + step

    def pack(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the rows (T, F) of sequences (B, L, F)."""
        batch, length = self._shape
        if self.order is None:
            return padded.swapaxes(0, 1).reshape(batch * length, padded.shape[2])
        rows = padded.reshape(batch * length, padded.shape[2])
        packed: npt.NDArray[Any] = np.take(rows, self._at, axis=0)
        return packed

    def unpack(self, packed: FloatArray) -> FloatArray:
        """Return sequences (B, L, F) of rows (T, F), 0 past their ends."""
        batch, length = self._shape
        if self.order is None:
            shape = (length, batch, packed.shape[1])
            return np.ascontiguousarray(packed.reshape(shape).swapaxes(0, 1))
        padded = np.zeros((batch * length, packed.shape[1]), np.float32)
        padded[self._at] = packed
        return padded.reshape(batch, length, packed.shape[1])

    def sort(self, states: FloatArray) -> FloatArray:
        """Return a copy of states (N, B, H) in the order of the rows."""
        return states.copy() if self.order is None else np.take(states, self.order, axis=1)

    def restore(self, states: FloatArray) -> FloatArray:
        """Return sorted states in the order of the sequences."""
        if self.order is None:
            return states
        restored = np.empty_like(states)
        restored[:, self.order] = states
        return restored
