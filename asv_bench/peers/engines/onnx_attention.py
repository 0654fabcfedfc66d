"""The ONNX graphs for attention: every operator of ONNX Runtime that can do the work."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..work import Arrays, Attention
from .form import blocks, join_heads
from .onnx_graph import MICROSOFT, Graph


class Feed(NamedTuple):
    """A finished graph and the arrays that go in; `heads_last` tells (B, L, H * E) results.

    `in_place` names inputs that the further outputs are written to, in order.
    """

    model: bytes
    arrays: Arrays
    heads_last: bool
    in_place: tuple[str, ...] = ()


def graphs(work: Attention, arrays: Arrays) -> dict[str, Feed]:
    """Return the graphs by name; some may be refused or wrong, the harness sorts them out."""
    if work.window:
        return _windowed(work, arrays)
    found = {"Attention": _standard(work, arrays), "MatMul, Softmax, MatMul": _plain(work, arrays)}
    if work.kv_heads:
        del found["MatMul, Softmax, MatMul"]  # it has no grouped heads
    else:
        found["MultiHeadAttention"] = _multi_head(work, arrays)
    if work.causal:
        found["GroupQueryAttention"] = _grouped(work, arrays)
    if work.kv_heads and work.queries == 1:
        found["GroupQueryAttention"] = _decoding(work, arrays)
    return found


def _windowed(work: Attention, arrays: Arrays) -> dict[str, Feed]:
    found = {"Attention": _standard(work, arrays), "block by block": _by_blocks(work, arrays)}
    left, right = work.window or (0, 0)
    if right == 0:
        found["GroupQueryAttention"] = _grouped(work, arrays, local_window_size=left + 1)
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


def _grouped(work: Attention, arrays: Arrays, **options: int) -> Feed:
    feed = _rows_of_heads(arrays)
    feed["last"] = np.full(work.batch, work.queries - 1, dtype=np.int32)
    feed["total"] = np.array(work.queries, dtype=np.int32)
    graph = _start(feed)
    groups = work.kv_heads or work.heads
    inputs = ("query", "key", "value", "", "", "last", "total")
    options |= {"num_heads": work.heads, "kv_num_heads": groups}
    result = graph.fused("GroupQueryAttention", *inputs, outputs=3, **options)
    return Feed(graph.serialize(result), feed, True)


def _decoding(work: Attention, arrays: Arrays) -> Feed:
    """One token behind a cache that it is written into: the step that the operator was made for."""
    newest = {name: arrays[name][:, :, -1:] for name in ("key", "value")}
    feed = _rows_of_heads(newest | {"query": arrays["query"]})
    feed |= {"past_key": arrays["key"].copy(), "past_value": arrays["value"].copy()}
    feed["last"] = np.full(work.batch, work.keys - 1, dtype=np.int32)
    feed["total"] = np.array(work.keys, dtype=np.int32)
    graph = _start(feed)
    inputs = ("query", "key", "value", "past_key", "past_value", "last", "total")
    options = {"num_heads": work.heads, "kv_num_heads": work.kv_heads}
    results = graph.nodes("GroupQueryAttention", *inputs, outputs=3, domain=MICROSOFT, **options)
    return Feed(graph.serialize(*results), feed, True, ("past_key", "past_value"))


def _standard(work: Attention, arrays: Arrays) -> Feed:
    feed = {name: arrays[name] for name in ("query", "key", "value")}
    mask = ""
    if work.float_mask:
        feed["mask"], mask = arrays["mask"], "mask"
    if work.ragged:
        visible = _visible(work, arrays)[:, None, None]
        feed["mask"], mask = np.repeat(visible, work.queries, axis=2), "mask"
    if work.window:
        feed["mask"], mask = work.visible()[None, None], "mask"
    graph = _start(feed)
    result = graph.op("Attention", "query", "key", "value", mask, is_causal=int(work.causal))
    return Feed(graph.serialize(result), feed, False)


def _by_blocks(work: Attention, arrays: Arrays) -> Feed:
    feed = {name: arrays[name] for name in ("query", "key", "value")}
    graph = _start(feed)
    axis = graph.constant(np.array([2]))

    def part(name: str, rows: slice) -> str:
        ends = (graph.constant(np.array([n])) for n in (rows.start, rows.stop))
        return graph.op("Slice", name, *ends, axis)

    outs = [
        graph.op(
            "Attention",
            part("query", rows),
            part("key", keys),
            part("value", keys),
            graph.constant(visible[None, None]),
        )
        for rows, keys, visible in blocks(work)
    ]
    return Feed(graph.serialize(graph.op("Concat", *outs, axis=2)), feed, False)


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
