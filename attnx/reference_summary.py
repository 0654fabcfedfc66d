"""The oracle of what attention looks at: from the whole matrix of weights, in plain NumPy; see reference.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from attnx import reference

Array = NDArray[Any]

__all__ = ["attention_rollout", "attention_summary", "top", "value_norm_weights"]


def attention_summary(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike | None = None,
    attn_mask: ArrayLike | None = None,
    *,
    top_k: int = 0,
    rows: ArrayLike = (),
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> dict[str, Array]:
    """Everything there is to know, by the names of the attributes, and the ``weights`` themselves."""
    weights = reference.attention_weights(query, key, attn_mask, dtype=dtype, **options)
    seen = visibility(query, key, attn_mask, **options)
    found = {"weights": weights, "seen": seen}
    found["top_indices"], found["top_weights"] = top(weights, seen, top_k)
    found["entropy"] = -np.where(
        weights > 0, weights * np.log(np.where(weights > 0, weights, 1)), 0
    ).sum(-1)
    found["entropy"] = np.where(np.isnan(weights).any(-1), np.nan, found["entropy"])
    found["received"] = weights.sum(axis=-2)
    found["rows"] = weights[..., np.asarray(rows, int), :]
    found["output"], found["lse"] = reference.scaled_dot_product_attention(
        query,
        key,
        key if value is None else value,
        attn_mask,
        return_lse=True,
        dtype=dtype,
        **options,
    )
    return found


def visibility(
    query: ArrayLike,
    key: ArrayLike,
    attn_mask: ArrayLike | None,
    *,
    layout: str = "bhld",
    **options: Any,
) -> Array:
    """Which query sees which key, (..., H, L, S)."""
    queries, keys = (reference._heads_first(x, layout, np.float64) for x in (query, key))
    options.pop("sinks", None)
    with np.errstate(all="ignore"):
        seen = reference.scores_and_visibility(queries, keys, attn_mask, **options)[1]
    return seen[..., 0, :, :] if np.ndim(query) == 2 and np.ndim(key) == 2 else seen


def top(weights: Array, seen: Array, count: int) -> tuple[Array, Array]:
    """Each row's largest weights and where they are: falling, equal ones by index; -1 and 0 if fewer."""
    keys = weights.shape[-1]
    order = np.argsort(np.where(seen, -weights, np.inf), axis=-1, kind="stable")[..., :count]
    indices = np.full((*weights.shape[:-1], count), -1)
    largest = np.zeros(indices.shape, weights.dtype)
    fewer = np.take_along_axis(seen, order, -1)
    indices[..., : min(count, keys)] = np.where(fewer, order, -1)
    largest[..., : min(count, keys)] = np.where(fewer, np.take_along_axis(weights, order, -1), 0)
    return indices, largest


def attention_rollout(weights: ArrayLike, *, residual: float = 0.5) -> Array:
    """Abnar and Zuidema's rollout of (N, H, L, L), layer by layer."""
    layers = np.asarray(weights, np.float64).mean(axis=1)
    flow = np.eye(layers.shape[-1])
    for layer in layers:
        mixed = (1 - residual) * layer + residual * np.eye(len(layer))
        flow = mixed / mixed.sum(axis=1, keepdims=True) @ flow
    return flow


def value_norm_weights(weights: ArrayLike, value: ArrayLike, out_weight: ArrayLike) -> Array:
    """Kobayashi's norms of (H, L, S) weights on (G, S, D) values, vector by vector."""
    weights, value, out_weight = (np.asarray(x, np.float64) for x in (weights, value, out_weight))
    (heads, queries, keys), (kv_heads, _, dim) = weights.shape, value.shape
    sized = np.zeros(weights.shape)
    for h, i, j in np.ndindex(heads, queries, keys):
        vector = out_weight[:, h * dim : (h + 1) * dim] @ value[h // (heads // kv_heads), j]
        sized[h, i, j] = np.linalg.norm(weights[h, i, j] * vector)
    return sized
