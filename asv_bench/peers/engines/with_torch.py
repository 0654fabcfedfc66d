"""PyTorch: scaled_dot_product_attention, nn.MultiheadAttention, transformers' BertModel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import flex_attention

from ..spelling import tokens_of
from ..work import Additive, Arrays, Attention, Layer, Sentences, Softmax, Words, Work
from . import torch_spelling
from .form import Form, Forms, blocks, with_folded_heads
from .text import Batches

ATTEND = functional.scaled_dot_product_attention


def version(threads: int) -> str:
    """Set the number of threads and return the version."""
    torch.set_num_threads(threads)
    return str(torch.__version__)


def prepare(work: Work, arrays: Arrays) -> Forms:
    """Return the forms of this work."""
    match work:
        case Attention():
            return {} if work.stored else with_folded_heads(_attention, work, arrays)
        case Layer():
            forms = _layer(work, arrays)
        case Additive():
            forms = _additive(work, arrays)
        case Softmax():
            x = torch.from_numpy(arrays["x"])
            out = torch.empty_like(x)
            forms = {
                "softmax": lambda: torch.softmax(x, dim=-1),
                "softmax, out given": lambda: torch.softmax(x, dim=-1, out=out),
            }
        case Sentences():
            forms = _sentences(arrays)
        case Words():
            calls = torch_spelling.forms(work.model, arrays["words"].tolist())
            return {n: Form(_without_gradients(c), tokens_of) for n, c in calls.items()}
    return _forms(forms)


def _forms(calls: dict[str, Callable[[], Any]]) -> Forms:
    return {name: Form(_without_gradients(call), _to_numpy) for name, call in calls.items()}


def _without_gradients(call: Callable[[], Any]) -> Callable[[], Any]:
    return torch.inference_mode()(call)


def _to_numpy(result: Any) -> np.ndarray:
    return np.asarray(result)


def _attention(work: Attention, arrays: Arrays) -> Forms:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    query, key, value = (tensors[n] for n in ("query", "key", "value"))
    if work.ragged:
        return _forms(_ragged(query, key, value, arrays["lengths"].tolist()))
    if work.window:
        return _forms(_windowed(work, query, key, value))
    options = {"is_causal": work.causal, "enable_gqa": bool(work.kv_heads)}
    options["attn_mask"] = tensors.get("mask")
    return _forms({"scaled_dot_product_attention": lambda: ATTEND(query, key, value, **options)})


def _ragged(query: Any, key: Any, value: Any, lengths: list[int]) -> dict[str, Callable[[], Any]]:
    visible = torch.arange(key.shape[2]) < torch.tensor(lengths)[:, None, None, None]

    def row_by_row() -> torch.Tensor:
        out = torch.zeros_like(query)
        for b, n in enumerate(lengths):
            part = slice(b, b + 1), slice(None), slice(n)
            out[part] = ATTEND(query[part], key[part], value[part])
        return out

    return {
        "bool mask": lambda: ATTEND(query, key, value, attn_mask=visible),
        "row by row": row_by_row,
    }


def _windowed(work: Attention, query: Any, key: Any, value: Any) -> dict[str, Callable[[], Any]]:
    visible = torch.from_numpy(work.visible())
    parts = [(rows, keys, torch.from_numpy(seen)) for rows, keys, seen in blocks(work)]

    def block_by_block() -> torch.Tensor:
        out = torch.empty_like(query)
        for rows, keys, seen in parts:
            part = query[:, :, rows], key[:, :, keys], value[:, :, keys]
            out[:, :, rows] = ATTEND(*part, attn_mask=seen)
        return out

    left, right = work.window or (0, 0)

    def sees(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (k >= q - left) & (k <= q + right)

    rows, keys = visible.shape
    mask = flex_attention.create_block_mask(sees, None, None, rows, keys, device="cpu")
    flex = torch.compile(flex_attention.flex_attention)
    return {
        "bool mask": lambda: ATTEND(query, key, value, attn_mask=visible),
        "bool mask, block by block": block_by_block,
        "flex_attention": lambda: flex(query, key, value, block_mask=mask),
    }


def _layer(work: Layer, arrays: Arrays) -> dict[str, Callable[[], Any]]:
    layer = torch.nn.MultiheadAttention(work.width, work.heads, batch_first=True).eval()
    weights = {n: torch.from_numpy(a) for n, a in arrays.items() if n != "x"}
    layer.load_state_dict(weights)
    x = torch.from_numpy(arrays["x"])
    by_head = (work.batch, work.queries, 3, work.heads, work.width // work.heads)

    def by_hand() -> torch.Tensor:
        packed = functional.linear(x, weights["in_proj_weight"], weights["in_proj_bias"])
        query, key, value = packed.view(by_head).permute(2, 0, 3, 1, 4).unbind(0)
        joined = functional.scaled_dot_product_attention(query, key, value)
        joined = joined.transpose(1, 2).reshape(x.shape)
        return functional.linear(joined, weights["out_proj.weight"], weights["out_proj.bias"])

    return {
        "nn.MultiheadAttention": lambda: layer(x, x, x, need_weights=False)[0],
        "linear and scaled_dot_product_attention": by_hand,
    }


def _additive(work: Additive, arrays: Arrays) -> dict[str, Callable[[], Any]]:
    a = {name: torch.from_numpy(array) for name, array in arrays.items()}
    query, key, score_weight = a["query"], a["key"], a["score_weight"]
    before = functional.linear(key, a["key_weight"]) if work.projected else None
    kept = torch.empty(work.batch, work.queries, work.keys, work.units)

    def attend(out: torch.Tensor | None) -> torch.Tensor:
        keys = functional.linear(key, a["key_weight"]) if before is None else before
        rows = functional.linear(query, a["query_weight"])
        units = torch.add(rows[:, :, None], keys[:, None], out=out)
        return torch.bmm(torch.softmax(units.tanh_() @ score_weight, dim=-1), key)

    return {"tanh": lambda: attend(None), "tanh, out given": lambda: attend(kept)}


def _sentences(arrays: Arrays) -> dict[str, Callable[[], Any]]:
    from transformers import BertModel

    folder = str(arrays["folder"])
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval().float()
    batches = Batches(folder, arrays["texts"].tolist())

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        tensors = torch.from_numpy(ids), torch.from_numpy(mask)
        return model(*tensors).last_hidden_state.numpy()

    return {"BertModel": lambda: batches.encode(run)}
