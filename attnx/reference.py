"""The oracle: what each function of attnx means, in plain NumPy, as briefly as it can be said.

Tests and benchmarks compare against it; attnx never calls it. Every function computes in ``dtype``,
float64 unless told otherwise: the same text in float32 is the plain NumPy that the accuracy
promise is measured against. Letters: H query heads, G key/value heads, L queries, S keys,
E query/key head dim, D value head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]

__all__ = [
    "attention_weights",
    "gelu",
    "layer_norm",
    "linear",
    "relu",
    "scaled_dot_product_attention",
    "scores_and_visibility",
    "softmax",
    "varlen_attention",
]


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    layout: str = "bhld",
    return_lse: bool = False,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> Any:
    """Attention in four passes; ``options`` are those of :func:`scores_and_visibility`."""
    one_head = all(np.ndim(x) == 2 for x in (query, key, value))
    heads_first = [_heads_first(x, layout, dtype) for x in (query, key, value)]
    with np.errstate(all="ignore"):
        # 1. and 2. every score, and whether its query may see its key
        scores, seen = scores_and_visibility(heads_first[0], heads_first[1], attn_mask, **options)
        # 3. softmax over the keys that are seen
        weights, lse = _normalise(scores, seen)
        # 4. the weighted sum of the values
        out = _weighted_sum(weights, seen, _repeat_heads(heads_first[2], scores.shape[-3]))
    if one_head:
        out, lse = out[..., 0, :, :], lse[..., 0, :]
    elif layout == "blhd":
        out = np.swapaxes(out, -2, -3)
    return (out, lse) if return_lse else out


def attention_weights(
    query: ArrayLike,
    key: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    layout: str = "bhld",
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> Array:
    """Stop after pass 3 of attention: the weights (..., H, L, S)."""
    one_head = np.ndim(query) == 2 and np.ndim(key) == 2
    heads_first = [_heads_first(x, layout, dtype) for x in (query, key)]
    with np.errstate(all="ignore"):
        scores, seen = scores_and_visibility(heads_first[0], heads_first[1], attn_mask, **options)
        weights, _ = _normalise(scores, seen)
    return weights[..., 0, :, :] if one_head else weights


def scores_and_visibility(
    query: Array,
    key: Array,
    attn_mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    key_lengths: ArrayLike | None = None,
    query_lengths: ArrayLike | None = None,
    scale: float | None = None,
) -> tuple[Array, Array]:
    """Scores and visibility (..., H, L, S) of (..., H, L, E) queries and (..., G, S, E) keys."""
    (num_heads, num_queries, head_dim), num_keys = query.shape[-3:], key.shape[-2]
    # 1. scores, one step a line, in the order of the contract
    scale = (1.0 / math.sqrt(head_dim) if head_dim else 1.0) if scale is None else scale
    keys = np.swapaxes(_repeat_heads(key, num_heads), -1, -2)
    scores = np.asarray(np.matmul(query, keys) * float(scale))
    # 2. who sees whom: every restriction intersects
    i = np.arange(num_queries)[:, None]
    j = np.arange(num_keys)
    position = i + _per_batch(query_offset)
    seen = np.ones(scores.shape, dtype=bool)
    if is_causal:
        seen = seen & (j <= position)
    if key_lengths is not None:
        seen = seen & (j < _per_batch(key_lengths))
    if query_lengths is not None:
        seen = seen & (i < _per_batch(query_lengths))
    if attn_mask is not None:
        mask = np.asarray(attn_mask)
        if mask.dtype == bool:
            seen = seen & mask
        else:
            scores = scores + mask.astype(scores.dtype)
            seen = seen & (mask != -np.inf)
    return scores, seen


def varlen_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    query_starts: ArrayLike,
    key_starts: ArrayLike,
    *,
    query_offset: ArrayLike = 0,
    return_lse: bool = False,
    **options: Any,
) -> Any:
    """Attention of each packed sequence by itself: rows (total, H, E), lse (total, H)."""
    query, key, value = np.asarray(query), np.asarray(key), np.asarray(value)
    query_starts, key_starts = np.asarray(query_starts), np.asarray(key_starts)
    out = np.zeros((len(query), query.shape[1], value.shape[2]))
    lse = np.full(query.shape[:2], -np.inf)
    offsets = np.broadcast_to(query_offset, len(query_starts) - 1)
    for b, offset in enumerate(offsets):
        rows = slice(query_starts[b], query_starts[b + 1])
        keys = slice(key_starts[b], key_starts[b + 1])
        out[rows], lse_heads_first = scaled_dot_product_attention(
            query[rows], key[keys], value[keys], query_offset=offset, layout="blhd",
            return_lse=True, **options,
        )  # fmt: skip
        lse[rows] = lse_heads_first.T
    return (out, lse) if return_lse else out


def softmax(
    x: ArrayLike, *, axis: int = -1, mask: ArrayLike | None = None, dtype: DTypeLike = np.float64
) -> Array:
    """Softmax along ``axis`` over what ``mask`` leaves; a slice that is all masked is 0."""
    scores = np.asarray(x, dtype=dtype)
    seen = np.ones(scores.shape, dtype=bool)
    if mask is not None:
        seen &= np.asarray(mask)
    with np.errstate(all="ignore"):
        weights, _ = _normalise(np.moveaxis(scores, axis, -1), np.moveaxis(seen, axis, -1))
    return np.moveaxis(weights, -1, axis)


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


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "relu": relu}


def _heads_first(x: ArrayLike, layout: str, dtype: DTypeLike) -> Array:
    array = np.asarray(x, dtype=dtype)
    if array.ndim == 2:
        return array[None]
    return np.swapaxes(array, -2, -3) if layout == "blhd" else array


def _repeat_heads(x: Array, num_heads: int) -> Array:
    """Query head h uses key/value head h // (H // G)."""
    return np.repeat(x, num_heads // x.shape[-3], axis=-3) if x.shape[-3] else x


def _per_batch(x: ArrayLike) -> Array:
    """One number a batch row, against (..., H, L, S)."""
    return np.asarray(x)[..., None, None, None]


def _normalise(scores: Array, seen: Array) -> tuple[Array, Array]:
    """Weights, and the log-sum-exp; 0 and -inf for a row that sees nothing."""
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    powers = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = powers.sum(axis=-1, keepdims=True)
    weights = np.where(seen, powers / total, 0)
    return weights.astype(scores.dtype), (top + np.log(total))[..., 0]


def _weighted_sum(weights: Array, seen: Array, value: Array) -> Array:
    """``weights @ value``, but what is not finite counts only for the queries that see it."""
    finite = np.isfinite(value)
    out = np.asarray(np.matmul(weights, np.where(finite, value, 0)))
    for j in _keys_with(~finite):
        odd = np.where(finite, 0, value)[..., j : j + 1, :]
        out = out + np.where(seen[..., j : j + 1], weights[..., j : j + 1] * odd, 0)
    return out


def _keys_with(flags: Array) -> Iterable[int]:
    """Which keys have a flag set, in any batch row, head or column."""
    return [int(j) for j in np.unique(np.nonzero(flags)[-2])]
