"""The ONNX graphs for attention: every operator of ONNX Runtime that can do the work."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..work import Arrays, Attention
from .form import join_heads
from .onnx_graph import Graph


class Feed(NamedTuple):
    """A finished graph and the arrays that go in; `heads_last` tells (B, L, H * E) results."""

    model: bytes
    arrays: Arrays
    heads_last: bool


def graphs(work: Attention, arrays: Arrays) -> dict[str, Feed]:
    """Return the graphs by name; some may be refused or wrong, the harness sorts them out."""
    found = {"Attention": _standard(work, arrays), "MatMul, Softmax, MatMul": _plain(work, arrays)}
    if work.kv_heads:
        del found["MatMul, Softmax, MatMul"]  # it has no grouped heads
    else:
        found["MultiHeadAttention"] = _multi_head(work, arrays)
    if work.causal:
        found["GroupQueryAttention"] = _grouped(work, arrays)
    return found


def _start(arrays: Arrays) -> Graph:
    graph = Graph()
    for name, array in arrays.items():
        graph.input(name, array.dtype, array.shape)
    return graph


def _rows_of_heads(arrays: Arrays) -> Arrays:
    return {name: join_heads(arrays[name]) for name in ("query", "key", "value")}


def _visible(work: Attention, arrays: Arrays) -> np.ndarray:
    return np.arange(work.keys or work.queries) < arrays["lengths"][:, None]


def _added_mask(work: Attention, arrays: Arrays) -> np.ndarray | None:
    """Everything that hides a pair as one float mask to add."""
    if work.float_mask:
        return arrays["mask"]
    if work.ragged:
        visible = _visible(work, arrays)[:, None, None]
    elif work.causal:
        visible = np.tri(work.queries, work.keys or work.queries, dtype=bool)[None, None]
    else:
        return None
    return np.where(visible, np.float32(0), np.float32(-1e30))


def _multi_head(work: Attention, arrays: Arrays) -> Feed:
    feed = _rows_of_heads(arrays)
    padding = bias = ""
    if work.ragged:
        feed["padding"] = _visible(work, arrays).astype(np.int32)
        padding = "padding"
    if work.float_mask:
        feed["mask"] = arrays["mask"]
        bias = "mask"
    graph = _start(feed)
    inputs = ("query", "key", "value", "", padding, bias)
    causal = int(work.causal)
    result = graph.fused("MultiHeadAttention", *inputs, num_heads=work.heads, unidirectional=causal)
    return Feed(graph.serialize(result), feed, True)


def _grouped(work: Attention, arrays: Arrays) -> Feed:
    feed = _rows_of_heads(arrays)
    feed["last"] = np.full(work.batch, work.queries - 1, dtype=np.int32)
    feed["total"] = np.array(work.queries, dtype=np.int32)
    graph = _start(feed)
    groups = work.kv_heads or work.heads
    inputs = ("query", "key", "value", "", "", "last", "total")
    result = graph.fused(
        "GroupQueryAttention", *inputs, outputs=3, num_heads=work.heads, kv_num_heads=groups
    )
    return Feed(graph.serialize(result), feed, True)


def _standard(work: Attention, arrays: Arrays) -> Feed:
    feed = {name: arrays[name] for name in ("query", "key", "value")}
    mask = ""
    if work.float_mask:
        feed["mask"], mask = arrays["mask"], "mask"
    if work.ragged:
        visible = _visible(work, arrays)[:, None, None]
        feed["mask"], mask = np.repeat(visible, work.queries, axis=2), "mask"
    graph = _start(feed)
    result = graph.op("Attention", "query", "key", "value", mask, is_causal=int(work.causal))
    return Feed(graph.serialize(result), feed, False)


def _plain(work: Attention, arrays: Arrays) -> Feed:
    feed = {name: arrays[name] for name in ("query", "key", "value")}
    mask = _added_mask(work, arrays)
    if mask is not None:
        feed["mask"] = mask
    graph = _start(feed)
    scale = work.head_dim**-0.5
    scores = graph.fused("FusedMatMul", "query", "key", transB=1, alpha=scale)
    if mask is not None:
        scores = graph.op("Add", scores, "mask")
    result = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), "value")
    return Feed(graph.serialize(result), feed, False)
