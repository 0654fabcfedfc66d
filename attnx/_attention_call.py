"""An attention call: checked arguments in the order in which the core takes them.

A plain tuple rather than a frozen dataclass: everything around a kernel has 3 microseconds, and twenty attribute
assignments would be two of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnx import _check
from attnx._core._arrays import plain
from attnx.bias import ALiBi, RelativePosition

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]


class Attention(NamedTuple):
    """One attention call; arrays end in (head, row, item), whatever layout and number of axes the caller used."""

    query: Array
    key: Array
    value: Array | None
    mask: Array | None
    batch_shape: tuple[int, ...]
    query_starts: Array | None
    key_starts: Array | None
    query_lengths: Array | None
    key_lengths: Array | None
    query_offsets: Array | None
    heads: int
    group: int
    query_len: int
    key_len: int
    head_dim: int
    value_dim: int
    scale: float
    window_left: int  # -1: unbounded; causal: window_right is 0
    window_right: int
    options: tuple[Any, ...] | None  # bias, slopes, relative, its reach, sinks, softcap
    one_head: bool  # no array had an axis of heads, so the result has none

    def inputs(self) -> tuple[Array | None, ...]:
        """Return all that a result may not overlap."""
        arrays = (self.query, self.key, self.value, self.mask)
        if self.options is None:
            return arrays
        bias, slopes, relative, _, sinks, _ = self.options
        return tuple(x for x in (*arrays, bias, slopes, relative, sinks) if x is not None)


def heads_first(name: str, x: ArrayLike, swap: bool) -> Array:
    """Return a float array of at least three axes that ends in (head, row, item)."""
    if plain(x):
        return x.swapaxes(-3, -2) if swap else x
    a = _check.any_floats(name, x)
    if a.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes (rows, dim), got shape {a.shape}")
    if a.ndim == 2:
        return a[np.newaxis]
    return a.swapaxes(-3, -2) if swap else a


def swapped(layout: str) -> bool:
    """Whether a layout has the rows before the heads."""
    if layout == "bhld":
        return False
    if layout == "blhd":
        return True
    raise ValueError(f'layout must be "bhld" or "blhd", got {layout!r}')


def dense(
    arrays: tuple[ArrayLike, ...],
    attn_mask: ArrayLike | None,
    *,
    is_causal: bool,
    query_offset: ArrayLike,
    window: tuple[int | None, int | None] | None,
    key_lengths: ArrayLike | None,
    query_lengths: ArrayLike | None,
    scale: float | None,
    options: tuple[Any, ...],
    layout: str,
) -> Attention:
    """Check a call on (query, key, value), or on (query, key) for the weights; `options`: bias, softcap, sinks."""
    first, second, last = arrays[0], arrays[1], arrays[-1]
    if layout == "bhld" and plain(first) and plain(second) and plain(last):
        query, key, value = first, second, last
    else:
        swap = swapped(layout)
        query, key = heads_first("query", arrays[0], swap), heads_first("key", arrays[1], swap)
        value = key if len(arrays) == 2 else heads_first("value", arrays[2], swap)
    query_shape, key_shape, value_shape = query.shape, key.shape, value.shape
    batch = query_shape[:-3]
    heads, query_len, head_dim = query_shape[-3:]
    _, key_len, value_dim = value_shape[-3:]
    _check_dtypes(query, key, value)
    group = _group(query_shape, key_shape, value_shape)
    if key_shape[-2] != key_len:
        raise ValueError(f"value must have the {key_shape[-2]} rows of key, got {key_len}")
    if key_shape[:-3] != batch or value_shape[:-3] != batch:
        batch = _broadcast(query, key, value)
    one_head = not batch and query is not arrays[0] and all(np.ndim(x) == 2 for x in arrays)
    scores = None
    if attn_mask is not None or options[0] is not None:
        scores = (*batch, heads, query_len, key_len)[one_head:]
    if attn_mask is not None and scores is not None:
        attn_mask = _check.mask("attn_mask", attn_mask, scores, _check.real_dtype(query.dtype))
    if window is None and type(is_causal) is bool:
        left, right = -1, 0 if is_causal else -1
    else:
        left, right = _window(window, is_causal)
    # By tuple's own constructor: half the time of a named one's, whose fields stand here in their order.
    return tuple.__new__(Attention, (
        query, key, None if len(arrays) == 2 else value, attn_mask, batch, None, None,
        None if query_lengths is None else _check.lengths("query_lengths", query_lengths, batch, query_len),
        None if key_lengths is None else _check.lengths("key_lengths", key_lengths, batch, key_len),
        _check.offsets("query_offset", query_offset, batch),
        heads, group, query_len, key_len, head_dim, value_dim,
        default_scale(head_dim) if scale is None else _check.real("scale", scale),
        left, right,
        _options(options, heads, query.dtype, scores), one_head,
    ))  # fmt: skip


def packed(
    arrays: tuple[ArrayLike, ArrayLike, ArrayLike],
    starts: tuple[ArrayLike, ArrayLike],
    *,
    is_causal: bool,
    query_offset: ArrayLike,
    window: tuple[int | None, int | None] | None,
    scale: float | None,
    options: tuple[Any, ...],
) -> Attention:
    """Check an attention call on packed rows (total, heads, dim)."""
    query, key, value = (
        _check.any_floats(name, x)
        for name, x in zip(("query", "key", "value"), arrays, strict=True)
    )
    for name, a in (("query", query), ("key", key), ("value", value)):
        if a.ndim != 3:
            raise ValueError(f"{name} must have shape (rows, heads, dim), got {a.shape}")
    if value.shape[0] != key.shape[0]:
        raise ValueError(f"value must have the {key.shape[0]} rows of key, got {value.shape[0]}")
    query, key, value = query.swapaxes(0, 1), key.swapaxes(0, 1), value.swapaxes(0, 1)
    heads, head_dim, value_dim = query.shape[0], query.shape[2], value.shape[2]
    _check_dtypes(query, key, value)
    group = _group(query.shape, key.shape, value.shape)
    query_starts = row_starts("query_starts", starts[0], query.shape[1])
    same = starts[1] is starts[0] and query.shape[1] == key.shape[1]
    key_starts = query_starts if same else row_starts("key_starts", starts[1], key.shape[1])
    if len(key_starts) != len(query_starts):
        raise ValueError(
            f"key_starts must have the length of query_starts ({len(query_starts)}), got {len(key_starts)}"
        )
    batch = (len(query_starts) - 1,)
    left, right = _window(window, is_causal)
    return Attention(
        query, key, value, None, batch, query_starts, key_starts, None, None,
        _check.offsets("query_offset", query_offset, batch),
        heads, group, longest(query_starts), longest(key_starts), head_dim, value_dim,
        default_scale(head_dim) if scale is None else _check.real("scale", scale),
        left, right, _options(options, heads, query.dtype, None), False,
    )  # fmt: skip


def _options(
    options: tuple[Any, ...], heads: int, dtype: np.dtype[Any], scores: tuple[int, ...] | None
) -> tuple[Any, ...] | None:
    """Return bias, slopes, relative, reach, sinks and softcap; `scores` is what a bias array broadcasts to."""
    bias, softcap, sinks = options
    if bias is None and softcap is None and sinks is None:
        return None
    real = _check.real_dtype(dtype)
    added = slopes = relative = None
    reach = 0
    if isinstance(bias, ALiBi):
        slopes = bias.resolved(heads, real)
    elif isinstance(bias, RelativePosition):
        relative, reach = bias.resolved(heads, real), bias.max_distance
    elif bias is not None:
        if scores is None:
            raise TypeError(
                f"bias must be an object of attnx.bias for packed rows, got {type(bias).__name__}"
            )
        added = _check.mask("bias", bias, scores, real, may_be_bool=False)
    if sinks is not None:
        sinks = _check.mask("sinks", sinks, (heads,), real, may_be_bool=False)
        if sinks.shape != (heads,):
            raise ValueError(f"sinks must have shape ({heads},), got {sinks.shape}")
        sinks = np.ascontiguousarray(sinks)
    if softcap is not None:
        softcap = _check.real("softcap", softcap)
        if softcap <= 0:
            raise ValueError(f"softcap must be positive, got {softcap}")
    return added, slopes, relative, reach, sinks, softcap or 0.0


def _window(window: tuple[int | None, int | None] | None, is_causal: bool) -> tuple[int, int]:
    """Return how many keys to the left and right of its own position a query sees, -1 for all."""
    causal = _check.boolean("is_causal", is_causal)
    if window is None:
        return -1, 0 if causal else -1
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise TypeError(f"window must be a pair (left, right), got {window!r}")
    sides = [-1 if side is None else _check.integer("window", side) for side in window]
    if any(side is not None and n < 0 for side, n in zip(window, sides, strict=True)):
        raise ValueError(f"window must not be negative, got {tuple(window)}")
    left, right = (min(n, 1 << 62) for n in sides)
    return left, 0 if causal else right


def default_scale(head_dim: int) -> float:
    """Return 1 / sqrt(E)."""
    return 1.0 / math.sqrt(head_dim) if head_dim else 1.0


def row_starts(name: str, x: ArrayLike, total: int) -> Array:
    """Return a private copy of cumulative row numbers 0 = s_0 <= ... <= s_B = total."""
    a = _check.array(name, x)
    if a.ndim != 1 or not a.size:
        raise ValueError(f"{name} must have shape (B + 1,), got {a.shape}")
    a = _check.integers(name, a, a.shape)
    if a[0] != 0 or a[-1] != total or (a[1:] < a[:-1]).any():
        raise ValueError(f"{name} must rise from 0 to the {total} rows, got {a}")
    return a


def longest(starts: Array) -> int:
    """Return the length of the longest of the packed sequences."""
    return int((starts[1:] - starts[:-1]).max(initial=0))


def _check_dtypes(query: Array, key: Array, value: Array) -> None:
    dtype = query.dtype
    if key.dtype is dtype and value.dtype is dtype:
        return
    for name, a in (("key", key), ("value", value)):
        if a.dtype != dtype and a.dtype.itemsize >= dtype.itemsize:
            raise TypeError(
                f"{name} must have the dtype of query ({dtype}) or a smaller one, got {a.dtype}"
            )


def _group(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> int:
    """Return H // G, once the head dims and heads of three shapes agree."""
    heads, head_dim = query[-3], query[-1]
    kv_heads = key[-3]
    if key[-1] != head_dim:
        raise ValueError(f"key must have the head dim of query ({head_dim}), got {key[-1]}")
    if value[-3] != kv_heads:
        raise ValueError(f"value must have the {kv_heads} heads of key, got {value[-3]}")
    if heads == kv_heads:
        return 1
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"key must have a number of heads that divides query's {heads}, got {kv_heads}"
        )
    return int(heads // kv_heads)


def _broadcast(query: Array, key: Array, value: Array) -> tuple[int, ...]:
    shapes = [a.shape[:-3] for a in (query, key, value)]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        names = ", ".join(str(shape) for shape in shapes)
        raise ValueError(
            f"key and value must have batch axes that broadcast with query's, got {names}"
        ) from None
