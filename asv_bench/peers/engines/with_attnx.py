"""attnx itself, through its public functions."""

from __future__ import annotations

import numpy as np

import attnx

from ..spelling import tokens_of
from ..work import Additive, Arrays, Attention, Layer, Sentences, Softmax, Words, Work
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
        case Additive():
            return _additive(work, arrays)
        case Softmax():
            x, out = arrays["x"], np.empty_like(arrays["x"])
            return {
                "softmax": Form(lambda: attnx.softmax(x)),
                "softmax, out given": Form(lambda: attnx.softmax(x, out=out)),
            }
        case Sentences():
            return _sentences(arrays)
        case Words():
            return _words(work, arrays)


def _attention(work: Attention, arrays: Arrays) -> Forms:
    if work.stored:
        return _cached(work, arrays)
    query, key, value = arrays["query"], arrays["key"], arrays["value"]
    mask, lengths = arrays.get("mask"), arrays.get("lengths")

    def call(out: np.ndarray | None = None) -> np.ndarray:
        return attnx.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            is_causal=work.causal,
            window=work.window,
            key_lengths=lengths,
            query_lengths=lengths,
            out=out,
        )

    name, kept = "scaled_dot_product_attention", np.empty_like(query)
    forms = {name: Form(call), f"{name}, out given": Form(lambda: call(kept))}
    if work.ragged:
        forms |= _packed(arrays)
    return forms | _cached(work, arrays) if work.queries == 1 else forms


def _cached(work: Attention, arrays: Arrays) -> Forms:
    query, key, value = arrays["query"], arrays["key"], arrays["value"]
    stored = work.stored or work.dtype
    cache = attnx.KVCache(*key.shape, dtype=stored)
    cache.append(key, value)
    kept = np.empty_like(query)
    return {
        f"KVCache.attend, {stored}": Form(lambda: cache.attend(query)),
        f"KVCache.attend, {stored}, out given": Form(lambda: cache.attend(query, out=kept)),
    }


def _packed(arrays: Arrays) -> Forms:
    lengths = arrays["lengths"]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    real = np.arange(arrays["query"].shape[2]) < lengths[:, None]  # (B, L)
    packed = [arrays[name].swapaxes(1, 2)[real] for name in ("query", "key", "value")]
    kept = np.empty_like(packed[0])

    def call(out: np.ndarray | None = None) -> np.ndarray:
        return attnx.varlen_attention(*packed, starts, starts, out=out)

    def padded(rows: np.ndarray) -> np.ndarray:
        out = np.zeros_like(arrays["query"])
        out.swapaxes(1, 2)[real] = rows
        return out

    return {
        "varlen_attention": Form(call, padded),
        "varlen_attention, out given": Form(lambda: call(kept), padded),
    }


def _layer(work: Layer, arrays: Arrays) -> Forms:
    layer = attnx.layers.MultiHeadAttention(work.width, work.heads)
    layer.load_state_dict({name: array for name, array in arrays.items() if name != "x"})
    x = arrays["x"]
    return {"MultiHeadAttention": Form(lambda: layer(x))}


def _additive(work: Additive, arrays: Arrays) -> Forms:
    layer = attnx.layers.AdditiveAttention(work.width, work.width, work.units)
    layer.load_state_dict({n: array for n, array in arrays.items() if n.endswith("weight")})
    query, key = arrays["query"], arrays["key"]
    if not work.projected:
        return {"AdditiveAttention": Form(lambda: layer(query, key))}
    memory = layer.project(key)
    return {"AdditiveAttention, project": Form(lambda: layer(query, memory))}


def _sentences(arrays: Arrays) -> Forms:
    model = attnx.models.TextEncoder.from_pretrained(str(arrays["folder"]))
    texts = arrays["texts"].tolist()
    return {"TextEncoder.encode": Form(lambda: model.encode(texts))}


def _words(work: Words, arrays: Arrays) -> Forms:
    model, words = attnx.models.Pronouncer.load(work.model), arrays["words"].tolist()
    forms = {"pronounce_batch": Form(lambda: model.pronounce_batch(words), tokens_of)}
    if work.count == 1:
        forms["pronounce"] = Form(lambda: [model.pronounce(words[0])], tokens_of)
    return forms
