"""Linear maps with weights packed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _check
from attnx._core import _layers
from attnx._core._arrays import plain
from attnx._core._runtime import PANEL
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import NDArray

__all__ = ["PackedWeight", "linear", "linear_into", "pack_weight"]

ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2, "tanh": 3}
_FLOAT32 = np.dtype(np.float32)


class PackedWeight:
    """A weight (out_features, in_features) in the order of the kernel: panels of columns of its transpose."""

    __slots__ = ("in_features", "out_features", "panels")

    def __init__(self, panels: NDArray[np.float32], out_features: int) -> None:
        self.panels = panels  # (ceil(out / PANEL), in, PANEL), zero past the last output
        self.in_features = panels.shape[1]
        self.out_features = out_features

    def unpack(self) -> NDArray[np.float32]:
        """Return the weight, (out_features, in_features)."""
        columns = self.panels.transpose(0, 2, 1).reshape(-1, self.in_features)
        return np.ascontiguousarray(columns[: self.out_features])


def _aligned_zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return zeros that start on a cache line: a vector load that crosses lines costs two."""
    size = int(np.prod(shape))
    memory = np.zeros(size + 16, np.float32)
    start = -memory.ctypes.data // 4 % 16
    return memory[start : start + size].reshape(shape)


def pack_weight(weight: NDArray[np.float32]) -> PackedWeight:
    """Return a float32 weight (out_features, in_features) packed for `linear`."""
    weight = _check.floats("weight", weight)
    _check.same_dtype("weight", weight, _FLOAT32, "the layer")
    if weight.ndim != 2:
        raise ValueError(f"weight must have shape (out_features, in_features), got {weight.shape}")
    outs, ins = weight.shape
    panels = _aligned_zeros((-(-outs // PANEL), ins, PANEL))
    for p, panel in enumerate(panels):
        rows = weight[p * PANEL : (p + 1) * PANEL]
        panel[:, : len(rows)] = rows.T
    return PackedWeight(panels, outs)


def linear(
    x: NDArray[np.float32],
    weight: PackedWeight,
    bias: NDArray[np.float32] | None = None,
    *,
    activation: str | None = None,
    residual: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
    num_threads: int | None = None,
) -> NDArray[np.float32]:
    """Return activation(x W^T + bias) + residual, for x (..., in_features) and residual (..., out_features).

    A row's bits depend on that row alone, not on how many there are. activation is None, "relu", "gelu" (the exact
    one) or "tanh".
    """
    rows = _rows("x", x, weight.in_features)
    shape = (*x.shape[:-1], weight.out_features)
    if bias is not None and (
        bias.shape != (weight.out_features,) or bias.dtype != _FLOAT32 or bias.strides != (4,)
    ):
        raise ValueError(
            f"bias must be contiguous float32 ({weight.out_features},), got {bias.dtype} {bias.shape}"
        )
    if residual is not None and residual.shape != shape:
        raise ValueError(f"residual must have shape {shape}, got {residual.shape}")
    if activation not in ACTIVATIONS:
        raise ValueError(f'activation must be None, "relu", "gelu" or "tanh", got {activation!r}')
    added = None if residual is None else _rows("residual", residual, weight.out_features)
    result = (
        np.empty(shape, np.float32)
        if out is None
        else _check.output("out", out, shape, _FLOAT32, (x, residual))
    )
    target = result if out is None or result.flags.c_contiguous else np.empty(shape, np.float32)
    if result.size:
        _layers.linear(
            rows, weight.panels, bias, added, target.reshape(-1, weight.out_features), ACTIVATIONS[activation],
            threads_for(num_threads),
        )  # fmt: skip
    if target is not result:
        result[...] = target
    return result


def linear_into(
    x: NDArray[np.float32],
    weight: PackedWeight,
    bias: NDArray[np.float32] | None,
    out: NDArray[np.float32],
    *,
    activation: str | None = None,
    residual: NDArray[np.float32] | None = None,
) -> None:
    """Write `linear` of rows (n, in_features) to out (n, out_features), without a check.

    For layers, between buffers of their own: the checks of a short sentence's 24 linear maps took a tenth of its time.
    """
    _layers.linear(
        x, weight.panels, bias, residual, out, ACTIVATIONS[activation], threads_for(None)
    )


def _rows(name: str, x: NDArray[Any], items: int) -> NDArray[np.float32]:
    """Return x as float32 rows (n, items)."""
    if plain(x) and x.dtype is _FLOAT32 and 0 < items == x.shape[-1]:  # nearly always
        return x.reshape(-1, items)
    a = _check.floats(name, x)
    _check.same_dtype(name, a, _FLOAT32, "the layer")
    if not a.ndim or a.shape[-1] != items:
        raise ValueError(f"{name} must have shape (..., {items}), got {a.shape}")
    return (
        a
        if a.ndim == 2
        else a.reshape(-1, items)
        if items
        else a.reshape(int(np.prod(a.shape[:-1])), 0)
    )
