"""The oracle: what each function of attnx means, in plain NumPy, as briefly as it can be said.

Tests and benchmarks compare against it; attnx never calls it. Every function computes in ``dtype``,
float64 unless told otherwise: the same text in float32 is the plain NumPy that the accuracy
promise is measured against. Letters: H query heads, G key/value heads, L queries, S keys,
E query/key head dim, D value head dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from attnx.reference_layers import gelu, gru_step, layer_norm, linear, lstm_step, relu

Array = NDArray[Any]

__all__ = [
    "apply_rotary",
    "attention_weights",
    "gelu",
    "gru_step",
    "layer_norm",
    "linear",
    "lstm_step",
    "merge_attention",
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
    sinks: ArrayLike | None = None,
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
        # 3. softmax over the keys that are seen, and the sink
        weights, lse = _normalise(scores, seen, sinks)
        # 4. the weighted sum of the values
        out = _weighted_sum(weights, seen, _repeat_heads(heads_first[2], scores.shape[-3]))
    if options.get("query_lengths") is not None:  # a row past them has not even a sink
        computed = np.arange(lse.shape[-1]) < _per_batch(options["query_lengths"])[..., 0]
        lse = np.where(computed, lse, -np.inf)
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
    sinks: ArrayLike | None = None,
    stage: str = "weights",
    layout: str = "bhld",
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> Array:
    """Stop after pass 3 of attention, or at an earlier ``stage``: (..., H, L, S)."""
    one_head = np.ndim(query) == 2 and np.ndim(key) == 2
    heads_first = [_heads_first(x, layout, dtype) for x in (query, key)]
    if stage != "weights":
        options["stage"] = stage
    with np.errstate(all="ignore"):
        scores, seen = scores_and_visibility(heads_first[0], heads_first[1], attn_mask, **options)
        if stage == "weights":
            result, _ = _normalise(scores, seen, sinks)
        else:
            result = np.where(seen, scores, -np.inf if stage == "biased" else 0)
    return result[..., 0, :, :] if one_head else result


def scores_and_visibility(
    query: Array,
    key: Array,
    attn_mask: ArrayLike | None = None,
    *,
    bias: Any = None,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    window: tuple[int | None, int | None] | None = None,
    key_lengths: ArrayLike | None = None,
    query_lengths: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    stage: str = "biased",
) -> tuple[Array, Array]:
    """Scores and visibility (..., H, L, S) of (..., H, L, E) queries and (..., G, S, E) keys.

    The stages "scores" and "capped" come before bias and masks: all is visible but for lengths.
    """
    (num_heads, num_queries, head_dim), num_keys = query.shape[-3:], key.shape[-2]
    # 1. scores, one step a line, in the order of the contract
    scale = (1.0 / math.sqrt(head_dim) if head_dim else 1.0) if scale is None else scale
    keys = np.swapaxes(_repeat_heads(key, num_heads), -1, -2)
    scores = np.asarray(np.matmul(query, keys) * float(scale))
    if softcap is not None and stage != "scores":
        scores = float(softcap) * np.tanh(scores / float(softcap))
    # 2. who sees whom: every restriction intersects
    i, j = np.arange(num_queries)[:, None], np.arange(num_keys)
    seen = np.ones(scores.shape, dtype=bool)
    if key_lengths is not None:
        seen = seen & (j < _per_batch(key_lengths))
    if query_lengths is not None:
        seen = seen & (i < _per_batch(query_lengths))
    if stage != "biased":
        return scores, seen
    position = i + _per_batch(query_offset)
    if is_causal:
        seen = seen & (j <= position)
    left, right = (None, None) if window is None else window
    if left is not None:
        seen = seen & (j >= position - left)
    if right is not None:
        seen = seen & (j <= position + right)
    for added in (attn_mask, _bias_array(bias, position, j)):
        if added is not None and np.asarray(added).dtype == bool:
            seen = seen & np.asarray(added)
        elif added is not None:
            scores = scores + np.asarray(added).astype(scores.dtype)
            seen = seen & (np.asarray(added) != -np.inf)
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


def merge_attention(
    outputs: Iterable[ArrayLike], lses: Iterable[ArrayLike], *, dtype: DTypeLike = np.float64
) -> tuple[Array, Array]:
    """Attention over the union of disjoint sets of keys: the parts weigh as a softmax of their lse."""
    logs = np.stack([np.asarray(lse, dtype=dtype) for lse in lses], axis=-1)
    parts = np.stack([np.asarray(out, dtype=dtype) for out in outputs], axis=-1)
    seen = logs != -np.inf
    with np.errstate(all="ignore"):
        weights, lse = _normalise(logs, seen)
        seen, weights = seen[..., None, :], weights[..., None, :]
        return np.where(seen, parts * weights, 0).sum(axis=-1), lse


def apply_rotary(
    x: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    *,
    interleaved: bool = False,
    positions: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Each pair (a, b) of a row, as a + bi, times cos + i sin of its position."""
    out, pairs = np.array(x, dtype=dtype), np.shape(cos)[-1]
    at = np.arange(out.shape[-2]) if positions is None else np.asarray(positions)
    c, s = (np.asarray(table, dtype=dtype)[at] for table in (cos, sin))
    if at.ndim > 1:  # positions have no axis of heads
        c, s = c[..., None, :, :], s[..., None, :, :]
    first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    if interleaved:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    a, b = out[..., first].copy(), out[..., second].copy()
    out[..., first] = a * c - b * s
    out[..., second] = b * c + a * s
    return out


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
    return np.moveaxis(weights, -1, axis).reshape(scores.shape)


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


def _bias_array(bias: Any, position: Array, j: Array) -> Any:
    """What a bias object stands for, (..., H, L, S); an array is what it is."""
    if hasattr(bias, "slopes"):
        return -np.asarray(bias.slopes, float)[:, None, None] * np.abs(position - j)
    if hasattr(bias, "table"):
        table = np.asarray(bias.table, float)
        bucket = _bucket(j - position, len(table), bias.bidirectional, bias.max_distance)
        return np.moveaxis(table[bucket[..., 0, :, :]], -1, -3)
    return bias


def _bucket(offset: Array, buckets: int, bidirectional: bool, max_distance: int) -> Array:
    """T5's bucket of j - p: near distances one each, far ones by their logarithm."""
    first: Any = 0
    distance = np.maximum(-offset, 0)
    if bidirectional:
        buckets //= 2
        first, distance = np.where(offset > 0, buckets, 0), np.abs(offset)
    near = buckets // 2
    ratio = np.log(np.maximum(distance, near) / near) / math.log(max_distance / near)
    far = np.minimum(near + (ratio * (buckets - near)).astype(int), buckets - 1)
    return np.asarray(first + np.where(distance < near, distance, far))


def _normalise(scores: Array, seen: Array, sinks: ArrayLike | None = None) -> tuple[Array, Array]:
    """Weights, and the log-sum-exp; without a sink 0 and -inf for a row that sees nothing."""
    scores = np.where(seen, scores, -np.inf)
    sink = np.asarray(-np.inf if sinks is None else sinks, scores.dtype)[..., None, None]
    top = np.maximum(scores.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    shift = np.where(top == -np.inf, 0, top)
    powers = np.exp(scores - shift)
    total = powers.sum(axis=-1, keepdims=True) + np.exp(sink - shift)
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
