"""ONNX Runtime on small graphs, with its own fused operators wherever it has them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states
from safetensors.numpy import load_file

from ..work import Additive, Arrays, Attention, Layer, Sentences, Softmax, Work
from .form import Form, Forms, split_heads, with_folded_heads
from .onnx_attention import graphs
from .onnx_graph import Graph
from .text import Batches

#: What an operator answers to a graph or to arrays that it has no kernel for.
REFUSALS = (
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.NotImplemented,
    states.RuntimeException,
)


def version(threads: int) -> str:
    """Return the version; the number of threads is given to each session."""
    return str(onnxruntime.__version__)


def prepare(work: Work, arrays: Arrays) -> Forms:
    """Return the forms of this work."""
    if work.dtype != "float32":
        return {}
    match work:
        case Attention():
            return {} if work.stored else with_folded_heads(_attention, work, arrays)
        case Layer():
            return _layer(work, arrays)
        case Additive():
            return _additive(work, arrays)
        case Softmax():
            graph = Graph()
            x = graph.input("x", "float32", arrays["x"].shape)
            model = graph.serialize(graph.op("Softmax", x, axis=-1))
            return {"Softmax": Form(_bound(model, arrays))}
        case Sentences():
            return _sentences(arrays)
        case _:
            return {}


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bound(model: bytes, feed: Arrays, in_place: tuple[str, ...] = ()) -> Callable[[], np.ndarray]:
    """Run with inputs and outputs bound once: the least that a call can cost.

    Outputs after the first are written where the inputs named in `in_place` lie.
    """
    session = _session(model)
    binding = session.io_binding()
    shape = session.run(None, feed)[0].shape
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in feed.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
    places = [output, *(held[name] for name in in_place)]
    for node, value in zip(session.get_outputs(), places, strict=True):
        binding.bind_ortvalue_output(node.name, value)

    def call(keep: Any = held) -> Any:  # a binding does not own what is bound
        session.run_with_iobinding(binding)
        return output

    return call


def _attention(work: Attention, arrays: Arrays) -> Forms:
    forms = {}
    for name, (model, feed, heads_last, in_place) in graphs(work, arrays).items():
        try:
            call = _bound(model, feed, in_place)
        except REFUSALS as error:  # an operator that refuses is no form
            print(f"{name}: {error}")
            continue

        def read(output: Any, heads_last: bool = heads_last) -> np.ndarray:
            return split_heads(output.numpy(), work.heads) if heads_last else output.numpy()

        forms[name] = Form(call, read)
    return forms


def _layer(work: Layer, arrays: Arrays) -> Forms:
    out = arrays["out_proj.weight"], arrays["out_proj.bias"]
    feed = {"x": arrays["x"]}

    one = Graph()
    weight = one.constant(arrays["in_proj_weight"].T)
    x = one.input("x", "float32", feed["x"].shape)
    packed = (x, weight, one.constant(arrays["in_proj_bias"]))
    joined = one.fused("Attention", *packed, num_heads=work.heads)
    attention = one.serialize(one.linear(joined, *out))

    apart = Graph()
    x = apart.input("x", "float32", feed["x"].shape)
    parts = (
        apart.linear(x, *part)
        for part in zip(
            np.split(arrays["in_proj_weight"], 3), np.split(arrays["in_proj_bias"], 3), strict=True
        )
    )
    joined = apart.fused("MultiHeadAttention", *parts, num_heads=work.heads)
    multi_head = apart.serialize(apart.linear(joined, *out))

    models = {"Attention, MatMul": attention, "MatMul, MultiHeadAttention, MatMul": multi_head}
    return {
        name: Form(_bound(model, feed), lambda output: output.numpy())
        for name, model in models.items()
    }


def _additive(work: Additive, arrays: Arrays) -> Forms:
    graph = Graph()
    feed = {"query": arrays["query"], "key": arrays["key"]}
    query, key = (graph.input(name, "float32", array.shape) for name, array in feed.items())
    if work.projected:
        feed["projected"] = arrays["key"] @ arrays["key_weight"].T
        keys = graph.input("projected", "float32", feed["projected"].shape)
    else:
        keys = graph.linear(key, arrays["key_weight"])
    rows = graph.op(
        "Unsqueeze", graph.linear(query, arrays["query_weight"]), graph.constant(np.array([2]))
    )
    units = graph.op(
        "Tanh", graph.op("Add", rows, graph.op("Unsqueeze", keys, graph.constant(np.array([1]))))
    )
    scores = graph.op("MatMul", units, graph.constant(arrays["score_weight"]))
    model = graph.serialize(graph.op("MatMul", graph.op("Softmax", scores, axis=-1), key))
    return {"Tanh": Form(_bound(model, feed), lambda output: output.numpy())}


def _sentences(arrays: Arrays) -> Forms:
    folder = str(arrays["folder"])
    batches = Batches(folder, arrays["texts"].tolist())
    forms = {}
    for operator in ("Attention", "MultiHeadAttention"):
        session = _session(_bert(folder, operator))

        def run(ids: np.ndarray, mask: np.ndarray, session: Any = session) -> np.ndarray:
            feed = {"ids": ids.astype(np.int32), "mask": mask.astype(np.int32)}
            hidden: np.ndarray = session.run(None, feed)[0]
            return hidden

        forms[operator] = Form(lambda run=run: batches.encode(run))
    return forms


def _bert(folder: str, operator: str) -> bytes:
    """BERT in the fused operators that ONNX Runtime's own optimizer arrives at."""
    config = json.loads((Path(folder) / "config.json").read_text())
    weights = load_file(str(Path(folder) / "model.safetensors"))
    w = {name.removeprefix("bert."): array for name, array in weights.items()}
    graph = Graph()
    ids = graph.input("ids", "int32", ("B", "L"))
    mask = graph.input("mask", "int32", ("B", "L"))
    e, eps = "embeddings", config["layer_norm_eps"]
    tables = [
        graph.constant(w[f"{e}.{name}"])
        for name in (
            "word_embeddings.weight",
            "position_embeddings.weight",
            "token_type_embeddings.weight",
            "LayerNorm.weight",
            "LayerNorm.bias",
        )
    ]
    kinds = graph.op("Sub", ids, ids)  # all tokens are of kind 0
    x = graph.fused("EmbedLayerNormalization", ids, kinds, *tables, outputs=2, epsilon=eps)
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        heads = config["num_attention_heads"]
        if operator == "Attention":
            weight = np.concatenate([w[f"{part}.weight"] for part in parts]).T
            packed = np.concatenate([w[f"{part}.bias"] for part in parts])
            inputs = [x, graph.constant(weight), graph.constant(packed), mask]
        else:
            inputs = [graph.linear(x, w[f"{p}.weight"], w[f"{p}.bias"]) for p in parts]
            inputs += ["", mask]
        joined = graph.fused(operator, *inputs, num_heads=heads)
        x = _skip_norm(graph, w, f"{name}.attention.output", joined, x, eps)
        inner = graph.linear(x, w[f"{name}.intermediate.dense.weight"])
        bias = graph.constant(w[f"{name}.intermediate.dense.bias"])
        inner = graph.fused("BiasGelu", inner, bias)
        x = _skip_norm(graph, w, f"{name}.output", inner, x, eps)
    return graph.serialize(x)


def _skip_norm(graph: Graph, w: Arrays, name: str, x: str, skip: str, eps: float) -> str:
    product = graph.linear(x, w[f"{name}.dense.weight"])
    rest = ("LayerNorm.weight", "LayerNorm.bias", "dense.bias")
    constants = [graph.constant(w[f"{name}.{part}"]) for part in rest]
    return graph.fused("SkipLayerNormalization", product, skip, *constants, epsilon=eps)
