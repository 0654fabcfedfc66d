"""Plain NumPy, as a careful user writes it: batched matmul, in place where it can be."""

from __future__ import annotations

import math

import numpy as np

from ..work import Additive, Arrays, Attention, Layer, Softmax, Work
from .form import Form, Forms, blocks, join_heads, split_heads, with_folded_heads


def version(threads: int) -> str:
    """Return the version; the number of threads is set by the environment."""
    return str(np.__version__)


def prepare(work: Work, arrays: Arrays) -> Forms:
    """Return the forms of this work."""
    match work:
        case Attention():
            return {} if work.stored else with_folded_heads(_attention, work, arrays)
        case Layer():
            return {"matmul": Form(lambda: layer(arrays["x"], arrays, work.heads))}
        case Additive():
            return _additive(work, arrays)
        case Softmax():
            return _softmax(arrays["x"])
        case _:
            return {}


def softmax_in_place(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, overwriting its argument."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _softmax(x: np.ndarray) -> Forms:
    out = np.empty_like(x)

    def out_given() -> np.ndarray:
        np.copyto(out, x)
        return softmax_in_place(out)

    return {"exp": Form(lambda: softmax_in_place(x.copy())), "exp, out given": Form(out_given)}


def attend(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Attention with an added float mask."""
    scores = (query * query.dtype.type(1 / math.sqrt(query.shape[-1]))) @ key.swapaxes(-1, -2)
    if mask is not None:
        scores += mask
    return softmax_in_place(scores) @ value


def layer(x: np.ndarray, weights: Arrays, heads: int) -> np.ndarray:
    """Multi-head self-attention."""
    packed = x @ weights["in_proj_weight"].T + weights["in_proj_bias"]
    query, key, value = (split_heads(part, heads) for part in np.split(packed, 3, axis=-1))
    joined = join_heads(attend(query, key, value))
    return joined @ weights["out_proj.weight"].T + weights["out_proj.bias"]


def _additive(work: Additive, arrays: Arrays) -> Forms:
    query, key, score_weight = arrays["query"], arrays["key"], arrays["score_weight"]
    query_weight, key_weight = (
        np.ascontiguousarray(arrays[n].T) for n in ("query_weight", "key_weight")
    )
    before = key @ key_weight if work.projected else None
    kept = np.empty((work.batch, work.queries, work.keys, work.units), query.dtype)

    def call(units: np.ndarray | None) -> np.ndarray:
        keys = key @ key_weight if before is None else before
        units = np.add((query @ query_weight)[:, :, None], keys[:, None], out=units)
        np.tanh(units, out=units)
        return softmax_in_place(units @ score_weight) @ key

    return {"tanh": Form(lambda: call(None)), "tanh, out given": Form(lambda: call(kept))}


def _attention(work: Attention, arrays: Arrays) -> Forms:
    query, key, value = arrays["query"], arrays["key"], arrays["value"]
    mask = arrays.get("mask")
    if work.ragged:
        return _ragged(arrays)
    if work.window:
        return _windowed(work, query, key, value)
    if work.kv_heads:  # heads of a group side by side share their keys by broadcasting
        groups = (work.batch, work.kv_heads, work.heads // work.kv_heads)
        query = query.reshape(*groups, work.queries, work.head_dim)
        key, value = key[:, :, None], value[:, :, None]
    if work.causal:
        size = (work.queries, key.shape[-2])
        mask = np.triu(np.full(size, -np.inf, dtype=query.dtype), 1)
    shape = arrays["query"].shape
    return {"matmul": Form(lambda: attend(query, key, value, mask), lambda out: out.reshape(shape))}


def _windowed(work: Attention, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> Forms:
    parts = [
        (rows, keys, np.where(visible, 0, -np.inf).astype(query.dtype))
        for rows, keys, visible in blocks(work)
    ]

    def block_by_block() -> np.ndarray:
        out = np.empty_like(query)
        for rows, keys, mask in parts:
            out[:, :, rows] = attend(query[:, :, rows], key[:, :, keys], value[:, :, keys], mask)
        return out

    return {"block by block": Form(block_by_block)}


def _ragged(arrays: Arrays) -> Forms:
    query, key, value = arrays["query"], arrays["key"], arrays["value"]
    lengths = arrays["lengths"]
    visible = np.arange(key.shape[2]) < lengths[:, None, None, None]
    mask = np.where(visible, 0, -np.inf).astype(query.dtype)

    def row_by_row() -> np.ndarray:
        out = np.zeros_like(query)
        for b, n in enumerate(lengths):
            out[b, :, :n] = attend(query[b, :, :n], key[b, :, :n], value[b, :, :n])
        return out

    return {
        "mask": Form(lambda: attend(query, key, value, mask)),
        "row by row": Form(row_by_row),
    }
