"""The oracle of additive and Luong attention; like :mod:`attnx.reference`, on which it stands.

Letters: L queries, S keys, U units, D value dim. These functions have no axis of heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from attnx.reference import Array, _normalise, _weighted_sum

__all__ = ["additive_attention", "luong_attention"]


def additive_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    score_weight: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> Any:
    """Scores ``score_weight . tanh(query_i + key_j)`` of (..., L, U) queries and (..., S, U) keys."""
    q, k, v, w = (np.asarray(x, dtype=dtype) for x in (query, key, value, score_weight))
    with np.errstate(all="ignore"):
        units = np.tanh(q[..., :, None, :] + k[..., None, :, :])
        return _attend((units * w).sum(axis=-1), v, attn_mask, **options)


def luong_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    score: str = "dot",
    weight: ArrayLike | None = None,
    score_weight: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> Any:
    """Scores ``q . k``, ``q . W k`` or ``score_weight . tanh(W [q; k])`` of each query and key."""
    q, k, v = (np.asarray(x, dtype=dtype) for x in (query, key, value))
    w, u = (np.asarray([] if x is None else x, dtype=dtype) for x in (weight, score_weight))
    with np.errstate(all="ignore"):
        if score == "concat":
            pair = np.broadcast_arrays(q[..., :, None, :1], k[..., None, :, :1])[0].shape[:-1]
            both = (q[..., :, None, :], k[..., None, :, :])
            joined = [np.broadcast_to(x, (*pair, x.shape[-1])) for x in both]
            scores = np.tanh(np.concatenate(joined, axis=-1) @ w.T) @ u
        else:
            scores = (q if score == "dot" else q @ w) @ np.swapaxes(k, -1, -2)
        return _attend(scores, v, attn_mask, **options)


def _attend(
    scores: Array,
    value: Array,
    attn_mask: ArrayLike | None = None,
    *,
    key_lengths: ArrayLike | None = None,
    return_weights: bool = False,
) -> Any:
    """Softmax over the keys that are seen, and the weighted sum of their values."""
    batch = np.broadcast_shapes(scores.shape[:-2], value.shape[:-2])
    scores = np.broadcast_to(scores, (*batch, *scores.shape[-2:]))
    seen = np.ones(scores.shape, dtype=bool)
    if key_lengths is not None:
        seen &= np.arange(scores.shape[-1]) < np.asarray(key_lengths)[..., None, None]
    if attn_mask is not None and np.asarray(attn_mask).dtype == bool:
        seen &= np.asarray(attn_mask)
    elif attn_mask is not None:
        added = np.asarray(attn_mask).astype(scores.dtype)
        seen, scores = seen & (added != -np.inf), scores + added
    weights, _ = _normalise(scores, seen)
    out = _weighted_sum(weights, seen, value)
    return (out, weights) if return_weights else out
