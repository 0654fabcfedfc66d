"""Softmax along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _check
from attnx._core import _softmax
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import ArrayLike, NDArray

__all__ = ["softmax", "softmax_into"]


def softmax(
    x: ArrayLike,
    *,
    axis: int = -1,
    mask: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Return exp(x) / sum(exp(x)) along an axis, over what a mask shows.

    Parameters
    ----------
    x : array_like
        float32, float64, float16 or bfloat16 (computed in float32), any shape.
    axis : int
        The axis that sums to 1.
    mask : array_like of bool, optional
        Broadcasts to the shape of x. True takes part; where it is False the result is 0, and what x holds there, NaN
        included, has no influence. A row with nothing visible is 0.
    out : ndarray, optional
        Takes the result; may not overlap an input.
    num_threads : int, optional
        At most so many threads; default `get_num_threads`.

    Returns
    -------
    ndarray
        The shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape; the message names it.

    Notes
    -----
    The maximum is subtracted first, so large x do not overflow. Differs from `scipy.special.softmax` and
    ``torch.softmax`` by the mask. A row's bits depend on the row alone, not on its place, its strides or the threads.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> attnx.softmax(np.float32([0, 0, 5]), mask=[True, True, False])
    array([0.5, 0.5, 0. ], dtype=float32)
    """
    a = _check.array("x", x)
    if a.ndim == 0:
        raise ValueError("x must have at least 1 axis, got a scalar")
    if _check.is_half(a.dtype):
        result = _check.output("out", out, a.shape, a.dtype, (a,))
        result[...] = softmax(a.astype(np.float32), axis=axis, mask=mask, num_threads=num_threads)
        return result
    a = _check.strided_floats("x", a)
    axis = _check.integer("axis", axis)
    if not -a.ndim <= axis < a.ndim:
        raise ValueError(f"axis must lie between {-a.ndim} and {a.ndim - 1}, got {axis}")
    shown = None
    if mask is not None:
        shown = _check.array("mask", mask)
        if shown.dtype != bool:
            raise TypeError(f"mask must be bool (True: takes part), got {shown.dtype}")
        try:
            shown = np.broadcast_to(shown, a.shape)
        except ValueError:
            raise ValueError(
                f"mask must broadcast to the shape of x {a.shape}, got {shown.shape}"
            ) from None
    out = _check.output("out", out, a.shape, a.dtype, (a, shown))
    target = out if out.flags.aligned else np.empty(out.shape, out.dtype)
    if a.size:
        last = a.ndim - 1 if axis == -1 else axis
        if last % a.ndim != a.ndim - 1:
            a, to = a.swapaxes(axis, -1), target.swapaxes(axis, -1)
            shown = None if shown is None else shown.swapaxes(axis, -1)
        else:
            to = target
        _softmax.softmax(a, shown, to, threads_for(num_threads))
    if target is not out:
        out[...] = target
    return out


def softmax_into(x: NDArray[Any], out: NDArray[Any]) -> None:
    """Write `softmax` over the last axis to out, another array, without a check: for buffers of float32 or float64."""
    if x.size:
        _softmax.softmax(x, None, out, threads_for(None))
