"""The part of the oracle that is no attention: what the layers are made of, in plain NumPy.

Like the rest of :mod:`attnx.reference`, which hands these on, it computes in ``dtype``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]

__all__ = ["gelu", "gru_step", "layer_norm", "linear", "lstm_step", "relu"]


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
) -> Array:
    """``activation(x @ weight.T + bias) + residual``; weight (out_features, in_features)."""
    out: Array = np.asarray(x, dtype=dtype) @ np.asarray(weight, dtype=dtype).T
    if bias is not None:
        out = out + np.asarray(bias, dtype=dtype)
    if activation is not None:
        out = _ACTIVATIONS[activation](out)
    if residual is not None:
        out = out + np.asarray(residual, dtype=dtype)
    return out


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Mean 0 and variance 1 over the last axis of ``x + residual``, then ``* weight + bias``."""
    rows = np.asarray(x, dtype=dtype)
    if residual is not None:
        rows = rows + np.asarray(residual, dtype=dtype)
    centred = rows - rows.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    out: Array = centred / np.sqrt(variance + eps)
    if weight is not None:
        out = out * np.asarray(weight, dtype=dtype)
    if bias is not None:
        out = out + np.asarray(bias, dtype=dtype)
    return out


def gelu(x: Array) -> Array:
    """``x * P(X <= x)`` of the standard normal: the exact form, by erf."""
    erf = np.vectorize(math.erf, otypes=[x.dtype])
    return np.asarray(x * (1 + erf(x / math.sqrt(2.0))) / 2)


def relu(x: Array) -> Array:
    """``max(x, 0)``."""
    return np.asarray(np.maximum(x, 0))


def gru_step(x: ArrayLike, state: ArrayLike, weights: dict[str, Array]) -> Array:
    """Return the state after one step; in the dtype of x, weights named as in ``torch.nn.GRUCell``."""
    state = np.asarray(state)
    x_reset, x_update, x_new = np.split(_gates(x, weights, "ih"), 3, axis=-1)
    h_reset, h_update, h_new = np.split(_gates(state, weights, "hh"), 3, axis=-1)
    reset, update = sigmoid(x_reset + h_reset), sigmoid(x_update + h_update)
    candidate = np.tanh(x_new + reset * h_new)
    return np.asarray((1 - update) * candidate + update * state)


def lstm_step(
    x: ArrayLike, state: ArrayLike, cell: ArrayLike, weights: dict[str, Array]
) -> tuple[Array, Array]:
    """Return state and cell after one step; weights named as in ``torch.nn.LSTMCell``."""
    gates = _gates(x, weights, "ih") + _gates(state, weights, "hh")
    enter, forget, candidate, leave = np.split(gates, 4, axis=-1)
    cell = sigmoid(forget) * np.asarray(cell) + sigmoid(enter) * np.tanh(candidate)
    return sigmoid(leave) * np.tanh(cell), np.asarray(cell)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``."""
    return np.asarray(1 / (1 + np.exp(-x)))


def _gates(x: ArrayLike, weights: dict[str, Array], which: str) -> Array:
    dtype = np.asarray(x).dtype
    return linear(x, weights[f"weight_{which}"], weights.get(f"bias_{which}"), dtype=dtype)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "relu": relu, "tanh": np.tanh}
