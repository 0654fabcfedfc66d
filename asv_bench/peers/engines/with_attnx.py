"""attnx itself, through its public functions."""

from __future__ import annotations

import numpy as np

import attnx

from ..work import Arrays, Attention, Layer, Sentences, Softmax, Work
from .form import Form, Forms


def version(threads: int) -> str:
    """Set the number of threads and return the version."""
    attnx.set_num_threads(threads)
    return f"{attnx.__version__} ({attnx.isa()})"


def prepare(work: Work, arrays: Arrays) -> Forms:
    """Return the forms of this work."""
    match work:
        case Attention():
            return _attention(work, arrays)
        case Layer():
            return _layer(work, arrays)
        case Softmax():
            x, out = arrays["x"], np.empty_like(arrays["x"])
            return {
                "softmax": Form(lambda: attnx.softmax(x)),
                "softmax, out given": Form(lambda: attnx.softmax(x, out=out)),
            }
        case Sentences():
            return _sentences(arrays)


def _attention(work: Attention, arrays: Arrays) -> Forms:
    query, key, value = arrays["query"], arrays["key"], arrays["value"]
    mask, lengths = arrays.get("mask"), arrays.get("lengths")

    def call(out: np.ndarray | None = None) -> np.ndarray:
        return attnx.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            is_causal=work.causal,
            key_lengths=lengths,
            query_lengths=lengths,
            out=out,
        )

    name, kept = "scaled_dot_product_attention", np.empty_like(query)
    return {name: Form(call), f"{name}, out given": Form(lambda: call(kept))}


def _layer(work: Layer, arrays: Arrays) -> Forms:
    layer = attnx.layers.MultiHeadAttention(work.width, work.heads)
    layer.load_state_dict({name: array for name, array in arrays.items() if name != "x"})
    x = arrays["x"]
    return {"MultiHeadAttention": Form(lambda: layer(x))}


def _sentences(arrays: Arrays) -> Forms:
    model = attnx.models.TextEncoder.from_pretrained(str(arrays["folder"]))
    texts = arrays["texts"].tolist()
    return {"TextEncoder.encode": Form(lambda: model.encode(texts))}
