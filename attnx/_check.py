"""From arguments to checked calls: every error of the public functions is raised here.

A message names the argument, what was wanted and what came. Nothing is written before everything is checked.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from attnx._core._arrays import apart, folded, plain

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]


_FLOAT32, _FLOAT64, _BOOL = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)
_FLOATS = {_FLOAT32, _FLOAT64}
_FLOAT16 = np.dtype(np.float16)


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
    if (a.ndim and a.shape[-1] > 1 and a.strides[-1] != a.itemsize) or not a.flags.aligned:
        return np.ascontiguousarray(a)
    return a


def any_floats(name: str, x: ArrayLike) -> Array:
    """Return x as `floats` does; float16 and bfloat16 may come too."""
    a = array(name, x)
    if not is_half(a.dtype):
        if a.dtype not in _FLOATS or not a.dtype.isnative:
            raise TypeError(
                f"{name} must be float32, float64, float16 or bfloat16 in native byte order, got {a.dtype}"
            )
    if (a.ndim and a.shape[-1] > 1 and a.strides[-1] != a.itemsize) or not a.flags.aligned:
        return np.ascontiguousarray(a)
    return a


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is float16 or ml_dtypes' bfloat16 (known by its name: nothing is imported for it)."""
    return (dtype == _FLOAT16 and dtype.isnative) or (
        dtype.itemsize == 2 and dtype.name == "bfloat16"
    )


def real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that a call computes in."""
    return _FLOAT64 if dtype == _FLOAT64 else _FLOAT32


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
    if type(x) is int:
        return x
    # Not isinstance(x, SupportsIndex), which took 5 microseconds.
    if hasattr(x, "__index__") and not isinstance(x, (bool, np.bool_)):
        try:
            return operator.index(x)
        except TypeError:  # arrays have the method, but not all of them are an integer
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
    if a.shape == shape:
        return a.astype(np.int64, order="C")
    try:
        copy = np.empty(shape, np.int64)
        copy[...] = np.broadcast_to(a, shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to the batch axes {shape}, got shape {a.shape}"
        ) from None
    return copy


def lengths(name: str, x: ArrayLike | None, shape: tuple[int, ...], most: int) -> Array | None:
    """Return lengths between 0 and `most`, one a batch entry, or None."""
    if x is None:
        return None
    a = integers(name, x, shape)
    if a.size and a.view(np.uint64).max() > most:  # negative ones are the largest
        raise ValueError(f"{name} must lie between 0 and {most}, got {a.min()} to {a.max()}")
    return a


def offsets(name: str, x: ArrayLike, shape: tuple[int, ...]) -> Array | None:
    """Return positions, one a batch entry, or None for 0."""
    if type(x) is int and x == 0:
        return None
    bound = 1 << 62
    if type(x) is int and -bound <= x <= bound:
        return np.full(shape, x, np.int64)
    a = integers(name, x, shape)
    if a.size and (a.min() < -bound or a.max() > bound):
        raise ValueError(f"{name} must lie between -2**62 and 2**62, got {a.min()} to {a.max()}")
    return a


def mask(
    name: str,
    x: ArrayLike,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    may_be_bool: bool = True,
) -> Array:
    """Return a bool mask, or a float one of `dtype`, that broadcasts to `shape`."""
    a = array(name, x)
    if a.dtype != _BOOL or not may_be_bool:
        if not is_half(a.dtype) and (a.dtype not in _FLOATS or not a.dtype.isnative):
            wanted = "bool (True: may attend) or float" if may_be_bool else "float"
            raise TypeError(f"{name} must be {wanted} (added to the scores), got {a.dtype}")
        if a.dtype != dtype:
            a = cast(a, dtype)
        elif not a.flags.aligned:
            a = a.copy()
    fits = a.ndim <= len(shape) and all(
        n in (1, m) for n, m in zip(a.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"{name} must broadcast to {shape}, got shape {a.shape}")
    return a


def cast(a: Array, dtype: np.dtype[Any]) -> Array:
    """Return a in another float type; what is finite stays finite, since -inf hides and -1e300 does not."""
    with np.errstate(over="ignore"):
        cast = a.astype(dtype)
    grown = np.isinf(cast) & np.isfinite(a)
    cast[grown] = np.copysign(np.finfo(dtype).max, cast[grown])
    return cast


def output(
    name: str,
    x: Array | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    inputs: Sequence[Array | None],
) -> Array:
    """Return a new array for a result, or x if it can take it."""
    if x is None:
        return np.empty(shape, dtype)
    if (
        type(x) is np.ndarray
        and x.dtype is dtype
        and x.shape == shape
        and len(inputs) <= 4
        and apart(x, *inputs)
    ):
        return x  # as nearly always; the questions below take 4 microseconds
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
    if folded(x):
        raise ValueError(
            f"{name} must not overlap itself, got strides {x.strides} for shape {x.shape}"
        )
    return x


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # NumPy's stub: -1 and 0 only
    except np.exceptions.TooHardError:
        return True


def writable(out: Array) -> Array:
    """Return out where a kernel can write into it, else a new array to be copied from."""
    if plain(out):
        return out
    if (
        out.ndim and out.shape[-1] > 1 and out.strides[-1] != out.itemsize
    ) or not out.flags.aligned:
        return np.empty(out.shape, out.dtype)
    return out
