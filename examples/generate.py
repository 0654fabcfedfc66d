#!/usr/bin/env python3
"""Generate text with glassllm, a causal language model of 4 layers, on attnx alone.

The model: RMS norm, rotary positions, 4 query heads on 2 key heads, SwiGLU. What attnx has is used: `Linear`,
`apply_rotary`, `KVCache`; the rest is a line of NumPy each.

    python tools/fetch_glassllm.py
    python examples/generate.py "Alice was" --tokens 64
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnx import KVCache, apply_rotary, rotary_tables
from attnx.layers import Linear

Array = NDArray[Any]


class Layer:
    """One layer: attention over the cache, then the gated feed-forward network."""

    def __init__(self, arrays: Mapping[str, Array], config: Mapping[str, Any]) -> None:
        self.heads, self.eps = config["n_heads"], config["eps"]
        names = ("attn.W_Q", "attn.W_K", "attn.W_V")
        # One matrix for what reads the same input; glassllm stores (in, out), Linear (out, in).
        self.query_key_value = linear(np.concatenate([arrays[name] for name in names], axis=1))
        self.output = linear(arrays["attn.W_O"])
        self.gate_up = linear(np.concatenate([arrays["ffn.W1"], arrays["ffn.W3"]], axis=1))
        self.down = linear(arrays["ffn.W2"])
        self.norms = [arrays["norm1.gamma"], arrays["norm2.gamma"]]

    def __call__(
        self, x: Array, cache: KVCache, tables: tuple[Array, Array], positions: Array
    ) -> Array:
        """Take the new rows (L, d_model), at these positions, through the layer."""
        projected = self.query_key_value(rms_norm(x, self.norms[0], self.eps))
        dim = cache.key.shape[-1]
        heads = projected.reshape(1, len(x), -1, dim).swapaxes(1, 2)
        kv_heads = cache.key.shape[1]
        query, key, value = np.split(heads, [self.heads, self.heads + kv_heads], axis=1)
        query, key = (
            apply_rotary(part, *tables, interleaved=True, positions=positions)
            for part in (query, key)
        )
        cache.append(key, value)
        attended = cache.attend(query)  # causal by position, two query heads on each key head
        x = x + self.output(attended.swapaxes(1, 2).reshape(len(x), -1))
        gate, up = np.split(self.gate_up(rms_norm(x, self.norms[1], self.eps)), 2, axis=1)
        return x + self.down(gate / (1 + np.exp(-gate)) * up)


class Model:
    """Token ids to the logits of the next token."""

    def __init__(self, arrays: Mapping[str, Array], config: Mapping[str, Any]) -> None:
        self.config = config
        self.embedding = arrays["E"]
        self.logits = linear(self.embedding.T)
        self.norm = arrays["norm_f.gamma"]
        self.layers = []
        for number in range(config["n_layers"]):
            start = f"blocks.{number}."
            own = {name.removeprefix(start): array for name, array in arrays.items()}
            self.layers.append(Layer(own, config))
        head_dim = config["d_model"] // config["n_heads"]
        self.tables = rotary_tables(config["max_len"], head_dim, base=config["rope_base"])

    def new_caches(self) -> list[KVCache]:
        """Return an empty cache for each layer."""
        head_dim = self.config["d_model"] // self.config["n_heads"]
        return [KVCache(1, self.config["n_kv_heads"], self.config["max_len"], head_dim)
                for _ in self.layers]  # fmt: skip

    def __call__(self, tokens: list[int], caches: list[KVCache]) -> Array:
        """Append tokens to the caches; return the logits (vocab_size,) after the last."""
        x = self.embedding[tokens]
        positions = caches[0].lengths[0] + np.arange(len(tokens))
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache, self.tables, positions)
        return self.logits(rms_norm(x[-1], self.norm, self.config["eps"]))


def linear(weight: Array) -> Linear:
    """Return the layer x W for a weight (in, out)."""
    layer = Linear(*weight.shape, bias=False)
    layer.load_state_dict({"weight": weight.T})
    return layer


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Return x over its root mean square, times the weight."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight


def generate(model: Model, tokens: list[int], count: int) -> Iterator[int]:
    """Yield `count` tokens, each time the likeliest."""
    caches, capacity = model.new_caches(), model.config["max_len"]
    tokens = tokens[-capacity:]
    pending = tokens
    for _ in range(count):
        if caches[0].lengths[0] + len(pending) > capacity:
            for cache in caches:
                cache.truncate(0)
            pending = tokens  # the context is full: read its newest part again
        token = int(model(pending, caches).argmax())
        tokens, pending = [*tokens, token][-capacity:], [token]
        yield token


class Tokenizer:
    """Byte-pair encoding on characters; words keep the space before them."""

    special = ("<pad>", "<unk>", "<bos>", "<eos>")

    def __init__(self, file: Path) -> None:
        data = json.loads(file.read_text(encoding="utf-8"))
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(data["merges"])}
        self.words = [*self.special, *data["alphabet"], *("".join(pair) for pair in self.ranks)]
        self.ids = {word: number for number, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        text = unicodedata.normalize("NFC", text).replace(" ", "▁")
        unknown = self.ids["<unk>"]
        chunks = re.findall(r"\n|▁*[^▁\n]+|▁+", text)
        return [self.ids.get(part, unknown) for chunk in chunks for part in self.merge(chunk)]

    def merge(self, chunk: str) -> list[str]:
        """Join neighbours, the pair that was learnt first before the others."""
        parts = list(chunk)
        while True:
            ranked = [(self.ranks[pair], pair) for pair in pairwise(parts)
                      if pair in self.ranks]  # fmt: skip
            if not ranked:
                return parts
            pair, joined, at = min(ranked)[1], [], 0
            while at < len(parts):
                step = 2 if tuple(parts[at : at + 2]) == pair else 1
                joined.append("".join(parts[at : at + step]))
                at += step
            parts = joined

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        words = ("" if self.words[t] in self.special else self.words[t] for t in tokens)
        return "".join(words).replace("▁", " ")


def load(folder: Path, language: str) -> tuple[Model, Tokenizer]:
    """Return the model and the tokenizer in a folder of `tools/fetch_glassllm.py`."""
    weights = folder / "glassllm" / "weights"
    with np.load(weights / f"{language}.npz", allow_pickle=False) as file:
        config = json.loads(str(file["__config__"]))
        arrays = {name: file[name].astype(np.float32) for name in file.files if name[0] != "_"}
    return Model(arrays, config), Tokenizer(weights / f"{language}.tokenizer.json")


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Generate text with glassllm, a tiny causal language model, on attnx."
    )
    parser.add_argument("prompt", nargs="?", default="Alice was", help='default: "Alice was"')
    parser.add_argument("--tokens", type=int, default=64, help="how many tokens (default: 64)")
    parser.add_argument("--language", choices=("en", "pt"), default="en", help="default: en")
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        type=Path,
        default=Path(".cache/glassllm"),
        help="where tools/fetch_glassllm.py put it (default: .cache/glassllm)",
    )
    options = parser.parse_args(arguments)
    try:
        model, tokenizer = load(options.model, options.language)
    except OSError as error:
        parser.error(f"{error}; run tools/fetch_glassllm.py first")
    prompt = tokenizer.encode(options.prompt)
    if not prompt:
        parser.error("the prompt is empty")
    start = time.perf_counter()
    tokens = list(generate(model, prompt, options.tokens))
    seconds = time.perf_counter() - start
    print(options.prompt + tokenizer.decode(tokens))
    print(f"{len(tokens)} tokens, {len(tokens) / seconds:.0f} tokens/s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
