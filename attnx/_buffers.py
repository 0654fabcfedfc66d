"""The arrays of a cache: how they are made, what may be one, what may be written into them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _check

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from attnx._filled import Filled

    Array = NDArray[Any]

_STORED = ("float32", "float64", "float16", "bfloat16")


def new(shape: tuple[object, ...], head_dim: object, value_dim: object, dtype: DTypeLike) -> Any:
    """Return buffers of keys and of values for (batch, num_kv_heads, capacity)."""
    first = [
        size(name, x) for name, x in zip(("batch", "num_kv_heads", "capacity"), shape, strict=True)
    ]
    dims = [size("head_dim", head_dim)]
    dims.append(dims[0] if value_dim is None else size("value_dim", value_dim))
    stored = storage("dtype", dtype)
    return [np.zeros((*first, dim), stored) for dim in dims]


def given(key: Array, value: Array) -> tuple[Array, Array]:
    """Return the caller's own arrays, if they can be the buffers of a cache."""
    for name, buffer in (("key", key), ("value", value)):
        if not isinstance(buffer, np.ndarray):
            raise TypeError(f"{name} must be a numpy array, got {type(buffer).__name__}")
        storage(name, buffer.dtype)
        _check.output(name, buffer, buffer.shape, key.dtype, () if buffer is key else (key,))
        if buffer.ndim != 4:
            raise ValueError(
                f"{name} must have shape (batch, heads, capacity, dim), got {buffer.shape}"
            )
        if not buffer.flags.aligned:
            raise ValueError(f"{name} must be aligned")
        if buffer.size and buffer.shape[3] > 1 and buffer.strides[3] != buffer.itemsize:
            raise ValueError(
                f"{name} must have a last axis of stride one, got strides {buffer.strides}"
            )
    if value is key:
        raise ValueError("value must not be the key's own array")
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value must have shape {key.shape[:3]} and dim, got {value.shape}")
    return np.asarray(key), np.asarray(value)


def rows(name: str, x: ArrayLike, buffer: Array) -> Array:
    """Return an argument that holds rows (B, G, L, D) for a buffer."""
    a = _check.any_floats(name, x)
    batch, heads, _, dim = buffer.shape
    if a.ndim != 4 or a.shape[:2] != (batch, heads) or a.shape[3] != dim:
        raise ValueError(f"{name} must have shape ({batch}, {heads}, length, {dim}), got {a.shape}")
    return a


def write(buffer: Array, new_rows: Array, before: Filled, after: Filled) -> None:
    """Put rows behind those that a buffer holds."""
    if before.even and after.even:
        begin, end = before.longest, after.longest
        buffer[:, :, begin:end] = new_rows[:, :, : end - begin]
        return
    ends = zip(before.lengths.tolist(), after.lengths.tolist(), strict=True)
    for b, (begin, end) in enumerate(ends):
        buffer[b, :, begin:end] = new_rows[b, :, : end - begin]


def size(name: str, x: object) -> int:
    """Return x if it is an integer of at least 0."""
    number = _check.integer(name, x)
    if number < 0:
        raise ValueError(f"{name} must not be negative, got {number}")
    return number


def storage(name: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype that caches are stored in."""
    wanted = dtype
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:  # no type of NumPy's own: only here is its package needed
            wanted = importlib.import_module("ml_dtypes").bfloat16
        except ImportError as error:
            raise ImportError(f"{name} bfloat16 needs the package ml_dtypes: {error}") from error
    try:
        found = None if wanted is None else np.dtype(wanted)
    except TypeError:
        found = None
    if found is None or found.name not in _STORED or not found.isnative:
        raise TypeError(
            f"{name} must be one of {', '.join(_STORED)}, in native byte order, got {dtype!r}"
        )
    return found
