"""The float64 answers that every engine's result is held against, in plain NumPy.

They share no line with attnx, so that an error there cannot hide here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

#: Rows of scores held at a time: bounds the memory of long sequences.
ROWS = 1024


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    lengths: np.ndarray | None = None,
) -> np.ndarray:
    """Attention (B, H, L, E) on (B, G, S, E); rows past their length are 0."""
    batch, heads, queries, head_dim = query.shape
    group = heads // key.shape[1]
    out = np.zeros((batch, heads, queries, value.shape[-1]))
    for b in range(batch):
        rows = queries if lengths is None else int(lengths[b])
        keys = key.shape[2] if lengths is None else int(lengths[b])
        for h in range(heads):
            k, v = (a[b, h // group, :keys].astype(np.float64) for a in (key, value))
            for start in range(0, rows, ROWS):
                stop = min(start + ROWS, rows)
                scores = query[b, h, start:stop].astype(np.float64) @ k.T / math.sqrt(head_dim)
                if mask is not None:
                    scores += mask[b, h, start:stop, :keys]
                apart = np.arange(keys) - np.arange(start, stop)[:, None]
                if causal:
                    scores[apart > 0] = -np.inf
                if window is not None:
                    scores[(apart < -window[0]) | (apart > window[1])] = -np.inf
                out[b, h, start:stop] = softmax(scores) @ v
    return out


def additive(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Additive attention on projections of query and key; the values are the keys."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    query, key = a["query"] @ a["query_weight"].T, a["key"] @ a["key_weight"].T
    scores = np.tanh(query[:, :, None] + key[:, None]) @ a["score_weight"]
    return softmax(scores) @ a["key"]


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """(B, L, H * E) to (B, H, L, E)."""
    batch, rows, width = x.shape
    return x.reshape(batch, rows, heads, width // heads).transpose(0, 2, 1, 3)


def multi_head(x: np.ndarray, weights: Mapping[str, np.ndarray], heads: int) -> np.ndarray:
    """Multi-head self-attention of x (B, L, width), weights named as in torch.nn."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    packed = x.astype(np.float64) @ w["in_proj_weight"].T + w["in_proj_bias"]
    query, key, value = (split_heads(part, heads) for part in np.split(packed, 3, axis=-1))
    joined = attention(query, key, value).transpose(0, 2, 1, 3).reshape(x.shape)
    return joined @ w["out_proj.weight"].T + w["out_proj.bias"]


class TextModel:
    """A BERT encoder with mean pooling, one sentence at a time, from a Hugging Face folder."""

    def __init__(self, folder: str) -> None:
        from tokenizers import Tokenizer

        self._folder = Path(folder)
        self.config = json.loads((self._folder / "config.json").read_text())
        self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        self._tokenizer.no_padding()

    def flops(self, texts: list[str]) -> float:
        """Count projections, feed-forward and attention on the texts' own tokens."""
        width, inner = self.config["hidden_size"], self.config["intermediate_size"]
        lengths = np.array([len(e.ids) for e in self._tokenizer.encode_batch(texts)], dtype=float)
        linear = lengths.sum() * (8 * width**2 + 4 * width * inner)
        pairs = np.square(lengths).sum() * 4 * width
        return float(self.config["num_hidden_layers"] * (linear + pairs))

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return one vector of length 1 a text."""
        from safetensors.numpy import load_file

        weights = load_file(str(self._folder / "model.safetensors"))
        w = {name.removeprefix("bert."): a.astype(np.float64) for name, a in weights.items()}
        encoded = self._tokenizer.encode_batch(texts)
        return np.stack([self._vector(np.array(e.ids), w) for e in encoded])

    def _vector(self, ids: np.ndarray, w: Mapping[str, np.ndarray]) -> np.ndarray:
        e = "embeddings"
        x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + w[f"{e}.token_type_embeddings.weight"][0], w, f"{e}.LayerNorm")
        for i in range(self.config["num_hidden_layers"]):
            x = self._block(x, w, f"encoder.layer.{i}")
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _block(self, x: np.ndarray, w: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        heads = self.config["num_attention_heads"]
        query, key, value = (
            split_heads(_linear(x, w, f"{name}.attention.self.{part}")[None], heads)
            for part in ("query", "key", "value")
        )
        joined = attention(query, key, value).transpose(0, 2, 1, 3).reshape(x.shape)
        joined = _linear(joined, w, f"{name}.attention.output.dense")
        x = self._norm(x + joined, w, f"{name}.attention.output.LayerNorm")
        inner = _gelu(_linear(x, w, f"{name}.intermediate.dense"))
        return self._norm(
            x + _linear(inner, w, f"{name}.output.dense"), w, f"{name}.output.LayerNorm"
        )

    def _norm(self, x: np.ndarray, w: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return x / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def _linear(x: np.ndarray, w: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _erf(x: np.ndarray) -> np.ndarray:
    """Interpolate math.erf by Hermite cubics with its exact slopes: error below 1e-13.

    NumPy has no erf; math.erf on each of 10^8 numbers would take a minute.
    """
    step = 1 / 1024
    grid = np.arange(-6, 6 + 2 * step, step)  # beyond 6, erf is 1 to the last bit
    at = np.array([math.erf(g) for g in grid])
    slope = step * 2 / math.sqrt(math.pi) * np.exp(-np.square(grid))
    place = (np.clip(x, -6, 6) + 6) / step
    i = place.astype(np.int64)
    t = place - i
    rise = at[i + 1] - at[i]
    bend = slope[i] * (1 - t) - slope[i + 1] * t - rise * (1 - 2 * t)
    return at[i] + t * rise + t * (1 - t) * bend
