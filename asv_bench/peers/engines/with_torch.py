"""PyTorch: scaled_dot_product_attention, nn.MultiheadAttention, transformers' BertModel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..work import Arrays, Attention, Layer, Sentences, Softmax, Work
from .form import Form, Forms
from .text import Batches


def version(threads: int) -> str:
    """Set the number of threads and return the version."""
    torch.set_num_threads(threads)
    return str(torch.__version__)


def prepare(work: Work, arrays: Arrays) -> Forms:
    """Return the forms of this work."""
    match work:
        case Attention():
            forms = _attention(work, arrays)
        case Layer():
            forms = _layer(work, arrays)
        case Softmax():
            x = torch.from_numpy(arrays["x"])
            out = torch.empty_like(x)
            forms = {
                "softmax": lambda: torch.softmax(x, dim=-1),
                "softmax, out given": lambda: torch.softmax(x, dim=-1, out=out),
            }
        case Sentences():
            forms = _sentences(arrays)
    return {name: Form(_without_gradients(call), _to_numpy) for name, call in forms.items()}


def _without_gradients(call: Callable[[], Any]) -> Callable[[], Any]:
    return torch.inference_mode()(call)


def _to_numpy(result: Any) -> np.ndarray:
    return np.asarray(result)


def _attention(work: Attention, arrays: Arrays) -> dict[str, Callable[[], Any]]:
    query, key, value = (torch.from_numpy(arrays[n]) for n in ("query", "key", "value"))
    attend = functional.scaled_dot_product_attention
    options: dict[str, Any] = {"is_causal": work.causal, "enable_gqa": bool(work.kv_heads)}
    if work.float_mask:
        options["attn_mask"] = torch.from_numpy(arrays["mask"])
    if not work.ragged:
        return {"scaled_dot_product_attention": lambda: attend(query, key, value, **options)}

    lengths = arrays["lengths"].tolist()
    visible = torch.arange(key.shape[2]) < torch.tensor(lengths)[:, None, None, None]

    def row_by_row() -> torch.Tensor:
        out = torch.zeros_like(query)
        for b, n in enumerate(lengths):
            part = slice(b, b + 1), slice(None), slice(n)
            out[part] = attend(query[part], key[part], value[part])
        return out

    return {
        "bool mask": lambda: attend(query, key, value, attn_mask=visible),
        "row by row": row_by_row,
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


def _sentences(arrays: Arrays) -> dict[str, Callable[[], Any]]:
    from transformers import BertModel

    folder = str(arrays["folder"])
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval().float()
    batches = Batches(folder, arrays["texts"].tolist())

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        tensors = torch.from_numpy(ids), torch.from_numpy(mask)
        return model(*tensors).last_hidden_state.numpy()

    return {"BertModel": lambda: batches.encode(run)}
