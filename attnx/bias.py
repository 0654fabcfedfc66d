"""Biases that are computed inside the attention loop rather than read from an (L, S) array."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _check

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["ALiBi", "RelativePosition"]


class ALiBi:
    """Attention with linear biases: ``-slopes[h] * |p - j|`` for a query at position p and a key at j.

    Parameters
    ----------
    slopes : array_like
        (H,), real numbers, one a query head.

    Raises
    ------
    TypeError, ValueError
        If `slopes` is not one row of finite real numbers.

    Notes
    -----
    Press, Smith and Lewis, "Train short, test long" (2022). The paper's slopes for H heads, H a power of two, are
    ``2 ** (-8 * (h + 1) / H)``. FlashAttention's ``alibi_slopes`` measures from the end of both sequences; here p is
    the query's index plus `query_offset`.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> q = np.zeros((1, 3, 4), np.float32)
    >>> attnx.attention_weights(q, q, bias=attnx.bias.ALiBi([np.log(2)]))[0, 0].round(2)
    array([0.57, 0.29, 0.14], dtype=float32)
    """

    __slots__ = ("slopes",)

    def __init__(self, slopes: ArrayLike) -> None:
        self.slopes: NDArray[np.float64] = _finite("slopes", slopes, 1)

    def __repr__(self) -> str:
        return f"ALiBi({self.slopes.tolist()})"

    def resolved(self, heads: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the slopes of `heads` heads in the type of the kernel."""
        if self.slopes.shape != (heads,):
            raise ValueError(
                f"bias must have a slope for each of query's {heads} heads, got {len(self.slopes)}"
            )
        return _check.cast(self.slopes, dtype)


class RelativePosition:
    """T5's relative position bias: ``table[bucket(j - p), h]`` for a query at position p and a key at j.

    Parameters
    ----------
    table : array_like
        (num_buckets, H), real numbers: the model's ``relative_attention_bias.weight``.
    bidirectional : bool
        Whether keys after the query have buckets of their own (encoders) or share the first (decoders).
    max_distance : int
        From this distance on all keys share the last bucket. T5's is 128.

    Raises
    ------
    TypeError, ValueError
        If the table is not of that shape or has too few buckets, or `max_distance` does not exceed the exact buckets.

    Notes
    -----
    Raffel et al., "Exploring the limits of transfer learning" (2020), section 2.1. Half of the buckets (of a direction)
    hold one distance each, the others grow logarithmically. Peers fold this into a dense (H, L, S) mask.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> bias = attnx.bias.RelativePosition(np.zeros((32, 1)), True, 128)
    >>> q = np.ones((1, 2, 4), np.float32)
    >>> attnx.scaled_dot_product_attention(q, q, q, bias=bias).shape
    (1, 2, 4)
    """

    __slots__ = ("bidirectional", "max_distance", "table")

    def __init__(self, table: ArrayLike, bidirectional: bool, max_distance: int) -> None:
        self.table: NDArray[np.float64] = _finite("table", table, 2)
        self.bidirectional = _check.boolean("bidirectional", bidirectional)
        self.max_distance = _check.integer("max_distance", max_distance)
        buckets = len(self.table) // 2 if self.bidirectional else len(self.table)
        if buckets < 2:
            raise ValueError(
                f"table must have 2 buckets a direction or more, got {len(self.table)} in all"
            )
        if not buckets // 2 < self.max_distance <= 1 << 24:
            raise ValueError(
                f"max_distance must lie between {buckets // 2 + 1} and 2**24, got {max_distance}"
            )

    def __repr__(self) -> str:
        shape = self.table.shape
        return f"RelativePosition(<table {shape}>, {self.bidirectional}, {self.max_distance})"

    def buckets(self, apart: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bucket of each ``key position - query position``."""
        count = len(self.table)
        first = np.zeros_like(apart)
        if self.bidirectional:
            count //= 2
            first = np.where(apart > 0, count, 0)
            distance = np.abs(apart)
        else:
            distance = np.maximum(-apart, 0)
        exact = count // 2
        # float32 as in the model's own code: at distances such as 2 * exact the last bit decides the bucket.
        ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
        grown = ratio / np.float32(math.log(self.max_distance / exact)) * np.float32(count - exact)
        large = np.minimum(exact + grown.astype(np.int64), count - 1)
        return first + np.where(distance < exact, distance, large)

    def resolved(self, heads: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return (heads, 2 * max_distance + 1): the bias by ``key position - query position``."""
        if self.table.shape[1] != heads:
            raise ValueError(
                f"bias must have a column for each of query's {heads} heads, got {self.table.shape[1]}"
            )
        reach = self.max_distance
        rows = self.table[self.buckets(np.arange(-reach, reach + 1))]
        return np.ascontiguousarray(_check.cast(rows.T, dtype))


def _finite(name: str, x: ArrayLike, ndim: int) -> NDArray[np.float64]:
    a = _check.array(name, x)
    if (a.dtype.kind not in "fiu" and a.dtype.name != "bfloat16") or not a.dtype.isnative:
        raise TypeError(f"{name} must be real numbers in native byte order, got {a.dtype}")
    if a.ndim != ndim or not a.size:
        raise ValueError(f"{name} must have {ndim} axes and not be empty, got shape {a.shape}")
    copy = a.astype(np.float64)
    if not np.isfinite(copy).all():
        raise ValueError(f"{name} must be finite")
    return copy
