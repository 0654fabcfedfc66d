"""Layer normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnx import _check
from attnx._core import _layers
from attnx.linear import _rows
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import NDArray

__all__ = ["layer_norm", "layer_norm_into"]

_FLOAT32 = np.dtype(np.float32)


def layer_norm(
    x: NDArray[np.float32],
    weight: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    *,
    eps: float = 1e-5,
    residual: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
    num_threads: int | None = None,
) -> NDArray[np.float32]:
    """Return (z - mean(z)) / sqrt(var(z) + eps) * weight + bias over the last axis of z = x + residual, float32."""
    items = x.shape[-1] if x.ndim else 0
    rows = _rows("x", x, items)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and (
            a.shape != (items,) or a.dtype != _FLOAT32 or (items > 1 and a.strides != (4,))
        ):
            raise ValueError(
                f"{name} must be contiguous float32 of shape ({items},), got {a.dtype} {a.shape}"
            )
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual must have the shape of x {x.shape}, got {residual.shape}")
    added = None if residual is None else _rows("residual", residual, items)
    result = (
        np.empty(x.shape, np.float32)
        if out is None
        else _check.output("out", out, x.shape, _FLOAT32, (x, residual))
    )
    target = result if result.flags.c_contiguous else np.empty(x.shape, np.float32)
    if result.size:
        _layers.layer_norm(
            rows, added, weight, bias, target.reshape(-1, items), eps, threads_for(num_threads)
        )
    if target is not result:
        result[...] = target
    return result


def layer_norm_into(
    x: NDArray[np.float32],
    weight: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    eps: float,
    out: NDArray[np.float32],
) -> None:
    """Write `layer_norm` of rows (n, items) to out, without a check: for layers, between buffers of their own."""
    _layers.layer_norm(x, None, weight, bias, out, eps, threads_for(None))
