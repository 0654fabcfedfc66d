"""OpenVINO on graphs of its opset 13: one stream, float32 forced, static shapes but for texts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops
from safetensors.numpy import load_file

from ..work import Additive, Arrays, Attention, Layer, Sentences, Softmax, Work
from .form import Form, Forms, blocks, with_folded_heads
from .text import Batches

CORE = openvino.Core()


def version(threads: int) -> str:
    """Return the version; the number of threads is given to each model."""
    return str(openvino.__version__).split("-", maxsplit=1)[0]


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
            x = ops.parameter(arrays["x"].shape, np.float32)
            return {"softmax": Form(_bound(ops.softmax(x, 1), {x: arrays["x"]}))}
        case Sentences():
            return _sentences(arrays)
        case _:
            return {}


def _compile(result: Any, parameters: list[Any]) -> Any:
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]),
        "NUM_STREAMS": 1,
    }
    model = openvino.Model([result], parameters, "work")
    return CORE.compile_model(model, "CPU", options).create_infer_request()


def _bound(result: Any, feed: dict[Any, np.ndarray]) -> Callable[[], np.ndarray]:
    """Run with the inputs set once, sharing their memory: the least that a call can cost."""
    request = _compile(result, list(feed))
    for place, array in enumerate(feed.values()):
        request.set_input_tensor(place, openvino.Tensor(array, shared_memory=True))

    def call(keep: Any = feed) -> Any:  # the tensors only share these arrays
        request.infer()
        return request.get_output_tensor().data

    return call


def _mask(work: Attention, arrays: Arrays) -> np.ndarray | None:
    if work.float_mask:
        return arrays["mask"]
    if work.ragged:
        visible = np.arange(work.keys or work.queries) < arrays["lengths"][:, None, None, None]
        return np.where(visible, np.float32(0), np.float32(-np.inf))
    if work.window:
        return _added(work.visible())
    return None


def _added(visible: np.ndarray) -> np.ndarray:
    return np.where(visible, np.float32(0), np.float32(-np.inf))[None, None]


def _attention(work: Attention, arrays: Arrays) -> Forms:
    mask = _mask(work, arrays)
    named = {name: arrays[name] for name in ("query", "key", "value")}
    if mask is not None:
        named["mask"] = mask

    def form(build: Callable[..., Any]) -> Form:
        parameters = {name: ops.parameter(a.shape, np.float32) for name, a in named.items()}
        feed = {parameters[name]: a for name, a in named.items()}
        return Form(_bound(build(work, **parameters), feed))

    forms = {"scaled_dot_product_attention": form(_fused)}
    if work.window:
        del named["mask"]
        forms["scaled_dot_product_attention, block by block"] = form(_by_blocks)
    elif not work.causal and not work.kv_heads:
        forms["matmul, softmax, matmul"] = form(_plain)
    return forms


def _fused(work: Attention, query: Any, key: Any, value: Any, mask: Any = None) -> Any:
    if work.kv_heads:  # it has no grouped heads: repeat them inside the graph
        key, value = (_repeat(work, part) for part in (key, value))
    options = {} if mask is None else {"attention_mask": mask}
    return ops.scaled_dot_product_attention(query, key, value, causal=work.causal, **options)


def _by_blocks(work: Attention, query: Any, key: Any, value: Any) -> Any:
    def part(x: Any, rows: slice) -> Any:
        return ops.slice(x, *(np.array([n]) for n in (rows.start, rows.stop, 1, 2)))

    return ops.concat(
        [
            ops.scaled_dot_product_attention(
                part(query, rows),
                part(key, keys),
                part(value, keys),
                attention_mask=ops.constant(_added(seen)),
                causal=False,
            )
            for rows, keys, seen in blocks(work)
        ],
        2,
    )


def _repeat(work: Attention, x: Any) -> Any:
    keys, group = work.keys or work.queries, work.heads // work.kv_heads
    apart = ops.reshape(x, [work.batch, work.kv_heads, 1, keys, work.head_dim], False)
    wide = ops.broadcast(apart, [work.batch, work.kv_heads, group, keys, work.head_dim])
    return ops.reshape(wide, [work.batch, work.heads, keys, work.head_dim], False)


def _plain(work: Attention, query: Any, key: Any, value: Any, mask: Any = None) -> Any:
    scaled = ops.multiply(query, np.float32(work.head_dim**-0.5))
    scores = ops.matmul(scaled, key, False, True)
    if mask is not None:
        scores = ops.add(scores, mask)
    return ops.matmul(ops.softmax(scores, -1), value, False, False)


def _linear(x: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    return ops.add(ops.matmul(x, ops.constant(weight), False, True), ops.constant(bias))


def _split(x: Any, heads: int, width: int) -> Any:
    """(B, L, H * E) to (B, H, L, E)."""
    return ops.transpose(ops.reshape(x, [0, 0, heads, width // heads], True), [0, 2, 1, 3])


def _join(x: Any, width: int) -> Any:
    """(B, H, L, E) to (B, L, H * E)."""
    return ops.reshape(ops.transpose(x, [0, 2, 1, 3]), [0, 0, width], True)


def _layer(work: Layer, arrays: Arrays) -> Forms:
    def form(packed: bool) -> Form:
        x = ops.parameter(arrays["x"].shape, np.float32)
        weight, bias = arrays["in_proj_weight"], arrays["in_proj_bias"]
        if packed:
            parts = ops.split(_linear(x, weight, bias), 2, 3).outputs()
        else:
            pairs = zip(np.split(weight, 3), np.split(bias, 3), strict=True)
            parts = [_linear(x, *pair) for pair in pairs]
        heads = [_split(part, work.heads, work.width) for part in parts]
        joined = _join(ops.scaled_dot_product_attention(*heads), work.width)
        result = _linear(joined, arrays["out_proj.weight"], arrays["out_proj.bias"])
        return Form(_bound(result, {x: arrays["x"]}))

    return {"packed projection": form(packed=True), "three projections": form(packed=False)}


def _additive(work: Additive, arrays: Arrays) -> Forms:
    query, key = (ops.parameter(arrays[n].shape, np.float32) for n in ("query", "key"))
    feed = {query: arrays["query"], key: arrays["key"]}
    query_weight, key_weight = (ops.constant(arrays[n]) for n in ("query_weight", "key_weight"))
    if work.projected:
        before = arrays["key"] @ arrays["key_weight"].T
        keys = ops.parameter(before.shape, np.float32)
        feed[keys] = before
    else:
        keys = ops.matmul(key, key_weight, False, True)
    rows = ops.unsqueeze(ops.matmul(query, query_weight, False, True), [2])
    units = ops.tanh(ops.add(rows, ops.unsqueeze(keys, [1])))
    scores = ops.matmul(units, ops.constant(arrays["score_weight"]), False, False)
    return {"tanh": Form(_bound(ops.matmul(ops.softmax(scores, -1), key, False, False), feed))}


def _sentences(arrays: Arrays) -> Forms:
    folder = str(arrays["folder"])
    batches = Batches(folder, arrays["texts"].tolist())
    request = _bert(folder)

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        request.infer([ids, mask.astype(np.float32)], share_inputs=True)
        hidden: np.ndarray = request.get_output_tensor().data
        return hidden

    return {"scaled_dot_product_attention": Form(lambda: batches.encode(run))}


def _bert(folder: str) -> Any:
    """BERT with any batch and length."""
    config = json.loads((Path(folder) / "config.json").read_text())
    weights = load_file(str(Path(folder) / "model.safetensors"))
    w = {name.removeprefix("bert."): array for name, array in weights.items()}
    width, heads = config["hidden_size"], config["num_attention_heads"]

    def linear(x: Any, name: str) -> Any:
        return _linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        x = ops.mvn(x, [-1], True, config["layer_norm_eps"], "inside_sqrt")
        return ops.add(ops.multiply(x, w[f"{name}.weight"]), w[f"{name}.bias"])

    ids = ops.parameter([-1, -1], np.int64)
    mask = ops.parameter([-1, -1], np.float32)
    # 1 for a token, 0 for padding, to 0 and a number that no score comes near, (B, 1, 1, L).
    hidden = ops.unsqueeze(
        ops.multiply(ops.subtract(mask, np.float32(1)), np.float32(1e30)), [1, 2]
    )
    e = "embeddings"
    length = ops.gather(ops.shape_of(ids), np.int64(1), np.int64(0))
    positions = ops.range(np.int64(0), length, np.int64(1), output_type="i64")
    x = ops.gather(w[f"{e}.word_embeddings.weight"], ids, np.int64(0))
    places = ops.gather(w[f"{e}.position_embeddings.weight"], positions, np.int64(0))
    kind = w[f"{e}.token_type_embeddings.weight"][0]
    x = norm(ops.add(ops.add(x, places), kind), f"{e}.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        parts = (linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        split = (_split(part, heads, width) for part in parts)
        joined = _join(ops.scaled_dot_product_attention(*split, attention_mask=hidden), width)
        attended = linear(joined, f"{name}.attention.output.dense")
        x = norm(ops.add(x, attended), f"{name}.attention.output.LayerNorm")
        inner = ops.gelu(linear(x, f"{name}.intermediate.dense"), "erf")
        x = norm(ops.add(x, linear(inner, f"{name}.output.dense")), f"{name}.output.LayerNorm")
    return _compile(x, [ids, mask])
