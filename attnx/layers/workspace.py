"""The buffers that one pass through a stack of encoder layers writes to.

All layers of a stack work on the same packed rows (T, d_model), one after the other, so they share
their buffers, and all views of them are made once a pass instead of once a layer. A pass that
allocates nothing touches no new pages, which would cost as much as some of its arithmetic.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from attnx.layers.module import FloatArray
from attnx.linear import linear_into
from attnx.norm import layer_norm_into

# Rows of the feed-forward part worked on at a time: its widest array then stays in the cache and
# does not grow with the batch. Rows do not depend on each other, so the bits are the same. With 256 and
# 1024 rows a sentence took 7 and 3 % longer.
_CHUNK = 512


class Workspace:
    """Views of buffers for exactly `rows` packed rows.

    Attributes
    ----------
    result, other : ndarray
        Shape (rows, d_model); a layer leaves its output in `result`.
    query, key, value : ndarray
        Shape (rows, num_heads, head_dim), views of the fused projection `projected`.
    attended, attended_heads : ndarray
        Shapes (rows, d_model) and (rows, num_heads, head_dim) of one buffer.
    linear, layer_norm : callable
        `linear_into` and `layer_norm_into`, or what writes such calls down to run them later.
    chunks : list of tuple of ndarray
        For each chunk of rows: its part of `result`, `other` and `attended`, and a buffer
        (chunk, dim_feedforward).
    """

    __slots__ = (
        "_capacity", "attended", "attended_heads", "chunks", "key", "layer_norm", "linear", "other", "projected",
        "query", "result", "value",
    )  # fmt: skip

    def __init__(self, rows: int, d_model: int, num_heads: int, dim_feedforward: int) -> None:
        self._capacity = (
            np.empty((rows, d_model), np.float32),
            np.empty((rows, d_model), np.float32),
            np.empty((rows, d_model), np.float32),
            np.empty((rows, 3 * num_heads, d_model // num_heads), np.float32),
            np.empty((min(rows, _CHUNK), dim_feedforward), np.float32),
        )
        self._view(rows)

    def first(self, rows: int) -> Self:
        """Return a workspace of fewer rows in the same memory."""
        part = object.__new__(type(self))
        part._capacity = self._capacity
        part._view(rows)
        return part

    def _view(self, rows: int) -> None:
        self.linear, self.layer_norm = linear_into, layer_norm_into
        result, other, attended, projected, hidden = self._capacity
        self.result, self.other, self.attended = result[:rows], other[:rows], attended[:rows]
        heads, head_dim = projected.shape[1] // 3, projected.shape[2]
        projected = projected[:rows]
        self.query = projected[:, :heads]
        self.key = projected[:, heads : 2 * heads]
        self.value = projected[:, 2 * heads :]
        self.projected = projected.reshape(rows, 3 * heads * head_dim)
        self.attended_heads = self.attended.reshape(rows, heads, head_dim)
        self.chunks: list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = [
            (
                self.result[begin : begin + _CHUNK],
                self.other[begin : begin + _CHUNK],
                self.attended[begin : begin + _CHUNK],
                hidden[: min(_CHUNK, rows - begin)],
            )
            for begin in range(0, rows, _CHUNK)
        ]
