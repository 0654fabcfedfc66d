"""From arguments to checked calls: every error of the public functions is raised here.

A message names the argument, what was wanted and what came. Calls are plain tuples rather than dataclasses: at 3 microseconds
for everything around a kernel, twenty attribute assignments would be a fifth of the budget.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnx._core._arrays import plain

Array = NDArray[Any]

_FLOAT32, _FLOAT64, _BOOL = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)
_FLOATS = {_FLOAT32, _FLOAT64}


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
    causal: bool
    one_head: bool  # no array had an axis of heads, so the result has none


def array(name: str, x: ArrayLike) -> Array:
    """Return x as an array; the kinds of array whose meaning np.asarray would lose are refused."""
    if type(x) is np.ndarray:
        return x
    if isinstance(x, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name} must be a plain array, got numpy {type(x).__name__}")
    try:
        return np.asarray(x)
    except (ValueError, TypeError) as error:
        raise TypeError(f"{name} must be an array, got {type(x).__name__}: {error}") from None


def floats(name: str, x: ArrayLike) -> Array:
    """Return x as a native, aligned float array whose last axis has stride one."""
    a = array(name, x)
    if a.dtype not in _FLOATS or not a.dtype.isnative:
        raise TypeError(f"{name} must be float32 or float64 in native byte order, got {a.dtype}")
    if a.ndim and a.shape[-1] > 1 and a.strides[-1] != a.itemsize or not a.flags.aligned:
        return np.ascontiguousarray(a)
    return a


def strided_floats(name: str, a: Array) -> Array:
    """Return a native, aligned float array of any strides."""
    if a.dtype not in _FLOATS or not a.dtype.isnative:
        raise TypeError(f"{name} must be float32 or float64 in native byte order, got {a.dtype}")
    return a if a.flags.aligned else a.copy()


def same_dtype(name: str, a: Array, wanted: np.dtype[Any], of: str = "query") -> None:
    """Raise unless a has the dtype of another argument."""
    if a.dtype != wanted:
        raise TypeError(f"{name} must have the dtype of {of} ({wanted}), got {a.dtype}")


def boolean(name: str, x: object) -> bool:
    """Return x if it is a bool."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    raise TypeError(f"{name} must be a bool, got {type(x).__name__}")


def integer(name: str, x: object) -> int:
    """Return x as an int if it is one."""
    if not isinstance(x, (bool, np.bool_)):
        try:
            return operator.index(x)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name} must be an integer, got {type(x).__name__}")


def real(name: str, x: object) -> float:
    """Return x as a finite float."""
    if isinstance(x, (bool, np.bool_, str, bytes)) or not hasattr(x, "__float__"):
        raise TypeError(f"{name} must be a real number, got {type(x).__name__}")
    try:
        number = float(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {type(x).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def integers(name: str, x: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return a private int64 copy of x, broadcast to `shape` (the batch axes)."""
    a = array(name, x)
    if a.dtype.kind not in "iu" or not a.dtype.isnative:
        raise TypeError(f"{name} must be integers, got {a.dtype}")
    try:
        copy = np.empty(shape, np.int64)
        copy[...] = np.broadcast_to(a, shape)
    except ValueError:
        raise ValueError(f"{name} must broadcast to the batch axes {shape}, got shape {a.shape}") from None
    return copy


def lengths(name: str, x: ArrayLike | None, shape: tuple[int, ...], most: int) -> Array | None:
    """Return lengths between 0 and `most`, one a batch entry, or None."""
    if x is None:
        return None
    a = integers(name, x, shape)
    if a.size and (a.min() < 0 or a.max() > most):
        raise ValueError(f"{name} must lie between 0 and {most}, got {a.min()} to {a.max()}")
    return a


def offsets(name: str, x: ArrayLike, shape: tuple[int, ...]) -> Array | None:
    """Return positions, one a batch entry, or None for 0."""
    if type(x) is int and x == 0:
        return None
    a = integers(name, x, shape)
    bound = 1 << 62
    if a.size and (a.min() < -bound or a.max() > bound):
        raise ValueError(f"{name} must lie between -2**62 and 2**62, got {a.min()} to {a.max()}")
    return a


def mask(name: str, x: ArrayLike | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """Return a bool mask, or a float one of `dtype`, that broadcasts to `shape`."""
    if x is None:
        return None
    a = array(name, x)
    if a.dtype != _BOOL:
        if a.dtype not in _FLOATS or not a.dtype.isnative:
            raise TypeError(
                f"{name} must be bool (True: may attend) or float (added to the scores), got {a.dtype}"
            )
        if a.dtype != dtype:
            a = _cast(a, dtype)
        elif not a.flags.aligned:
            a = a.copy()
    fits = a.ndim <= len(shape) and all(
        n in (1, m) for n, m in zip(a.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"{name} must broadcast to {shape}, got shape {a.shape}")
    return a


def _cast(a: Array, dtype: np.dtype[Any]) -> Array:
    """Return a in another float type; what is finite stays finite, since -inf hides and -1e300 does not."""
    with np.errstate(over="ignore"):
        cast = a.astype(dtype)
    grown = np.isinf(cast) & np.isfinite(a)
    cast[grown] = np.copysign(np.finfo(dtype).max, cast[grown])
    return cast


def output(name: str, x: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[Array | None]) -> Array:
    """Return a new array for a result, or x if it can take it."""
    if x is None:
        return np.empty(shape, dtype)
    if not isinstance(x, np.ndarray) or isinstance(x, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name} must be a numpy array, got {type(x).__name__}")
    if x.dtype != dtype or not x.dtype.isnative:
        raise TypeError(f"{name} must have dtype {dtype}, got {x.dtype}")
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {x.shape}")
    if not x.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    if any(other is not None and _overlap(x, other) for other in inputs):
        raise ValueError(f"{name} must not overlap an input")
    if _overlap_itself(x):
        raise ValueError(f"{name} must not overlap itself, got strides {x.strides} for shape {x.shape}")
    return x


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


def _overlap_itself(a: Array) -> bool:
    """Whether two elements may share memory: exact for every view that slicing and transposing make."""
    reach = a.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if stride < reach:
            return a.size > 0
        reach += stride * (n - 1)
    return False


def writable(out: Array) -> Array:
    """Return out where a kernel can write into it, else a new array to be copied from."""
    if (out.ndim and out.shape[-1] > 1 and out.strides[-1] != out.itemsize) or not out.flags.aligned:
        return np.empty(out.shape, out.dtype)
    return out


def heads_first(name: str, x: ArrayLike, swap: bool) -> Array:
    """Return a float array of at least three axes that ends in (head, row, item)."""
    if plain(x):
        return x.swapaxes(-3, -2) if swap else x  # type: ignore[return-value, union-attr]
    a = floats(name, x)
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


def attention(
    arrays: tuple[ArrayLike, ArrayLike, ArrayLike | None],
    attn_mask: ArrayLike | None,
    *,
    is_causal: bool,
    query_offset: ArrayLike,
    key_lengths: ArrayLike | None,
    query_lengths: ArrayLike | None,
    scale: float | None,
    layout: str,
) -> Attention:
    """Check an attention call on dense arrays; a value of None asks for the weights."""
    swap = layout != "bhld" and swapped(layout)
    query, key = heads_first("query", arrays[0], swap), heads_first("key", arrays[1], swap)
    value = key if arrays[2] is None else heads_first("value", arrays[2], swap)
    query_shape, key_shape, value_shape = query.shape, key.shape, value.shape
    batch = query_shape[:-3]
    heads, query_len, head_dim = query_shape[-3:]
    _, key_len, value_dim = value_shape[-3:]
    group = _group(query, key, value)
    if key_shape[-2] != key_len:
        raise ValueError(f"value must have the {key_shape[-2]} rows of key, got {key_len}")
    if key_shape[:-3] != batch or value_shape[:-3] != batch:
        batch = _broadcast(query, key, value)
    one_head = query is not arrays[0] and all(x is None or np.ndim(x) == 2 for x in arrays)
    if attn_mask is not None:
        attn_mask = mask("attn_mask", attn_mask, (*batch, heads, query_len, key_len)[one_head:], query.dtype)
    return Attention(
        query, key, None if arrays[2] is None else value, attn_mask, batch, None, None,
        None if query_lengths is None else lengths("query_lengths", query_lengths, batch, query_len),
        None if key_lengths is None else lengths("key_lengths", key_lengths, batch, key_len),
        None if query_offset == 0 and type(query_offset) is int else offsets("query_offset", query_offset, batch),
        heads, group, query_len, key_len, head_dim, value_dim,
        default_scale(head_dim) if scale is None else real("scale", scale),
        is_causal if type(is_causal) is bool else boolean("is_causal", is_causal),
        one_head,
    )  # fmt: skip


def packed_attention(
    arrays: tuple[ArrayLike, ArrayLike, ArrayLike],
    starts: tuple[ArrayLike, ArrayLike],
    *,
    is_causal: bool,
    query_offset: ArrayLike,
    scale: float | None,
) -> Attention:
    """Check an attention call on packed rows (total, heads, dim)."""
    query, key, value = (floats(name, x) for name, x in zip(("query", "key", "value"), arrays, strict=True))
    for name, a in (("query", query), ("key", key), ("value", value)):
        if a.ndim != 3:
            raise ValueError(f"{name} must have shape (rows, heads, dim), got {a.shape}")
    if value.shape[0] != key.shape[0]:
        raise ValueError(f"value must have the {key.shape[0]} rows of key, got {value.shape[0]}")
    query, key, value = query.swapaxes(0, 1), key.swapaxes(0, 1), value.swapaxes(0, 1)
    heads, head_dim, value_dim = query.shape[0], query.shape[2], value.shape[2]
    group = _group(query, key, value)
    query_starts = row_starts("query_starts", starts[0], query.shape[1])
    key_starts = query_starts if starts[1] is starts[0] and query.shape[1] == key.shape[1] else row_starts("key_starts", starts[1], key.shape[1])
    if len(key_starts) != len(query_starts):
        raise ValueError(f"key_starts must have the length of query_starts ({len(query_starts)}), got {len(key_starts)}")
    batch = (len(query_starts) - 1,)
    return Attention(
        query, key, value, None, batch, query_starts, key_starts, None, None,
        offsets("query_offset", query_offset, batch),
        heads, group, longest(query_starts), longest(key_starts), head_dim, value_dim,
        default_scale(head_dim) if scale is None else real("scale", scale),
        is_causal if type(is_causal) is bool else boolean("is_causal", is_causal),
        False,
    )  # fmt: skip


def default_scale(head_dim: int) -> float:
    """Return 1 / sqrt(E)."""
    return 1.0 / math.sqrt(head_dim) if head_dim else 1.0


def row_starts(name: str, x: ArrayLike, total: int) -> Array:
    """Return a private copy of cumulative row numbers 0 = s_0 <= ... <= s_B = total."""
    a = array(name, x)
    if a.ndim != 1 or not a.size:
        raise ValueError(f"{name} must have shape (B + 1,), got {a.shape}")
    a = integers(name, a, a.shape)
    if a[0] != 0 or a[-1] != total or (a[1:] < a[:-1]).any():
        raise ValueError(f"{name} must rise from 0 to the {total} rows, got {a}")
    return a


def longest(starts: Array) -> int:
    """Return the length of the longest of the packed sequences."""
    return int((starts[1:] - starts[:-1]).max(initial=0))


def _group(query: Array, key: Array, value: Array) -> int:
    """Return H // G, once dtypes, head dims and heads agree."""
    if key.dtype is not query.dtype or value.dtype is not query.dtype:
        same_dtype("key", key, query.dtype)
        same_dtype("value", value, query.dtype)
    heads, head_dim = query.shape[-3], query.shape[-1]
    kv_heads = key.shape[-3]
    if key.shape[-1] != head_dim:
        raise ValueError(f"key must have the head dim of query ({head_dim}), got {key.shape[-1]}")
    if value.shape[-3] != kv_heads:
        raise ValueError(f"value must have the {kv_heads} heads of key, got {value.shape[-3]}")
    if heads == kv_heads:
        return 1
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"key must have a number of heads that divides query's {heads}, got {kv_heads}")
    return heads // kv_heads


def _broadcast(query: Array, key: Array, value: Array) -> tuple[int, ...]:
    shapes = [a.shape[:-3] for a in (query, key, value)]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        names = ", ".join(str(shape) for shape in shapes)
        raise ValueError(f"key and value must have batch axes that broadcast with query's, got {names}") from None
