"""The kinds of work that are compared: their input arrays, their true answer, their useful size.

Letters: B batch, H query heads, G key/value heads, L queries, S keys, E head dim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import spelling, truth

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Attention:
    """Scaled dot-product attention: query (B, H, L, E) on key and value (B, G, S, E).

    `float_mask` adds a dense (B, H, L, S) mask to the scores. `ragged` gives every batch row a
    length of its own, for its queries and its keys alike; what lies past it counts as no work.
    `window` (left, right) is as in attnx. `stored` is the dtype that keys and values may be kept
    in: their numbers are exact in it, the arrays are float32.
    """

    batch: int
    heads: int
    queries: int
    head_dim: int
    keys: int = 0  # 0: as many as queries
    kv_heads: int = 0  # 0: as many as heads
    causal: bool = False
    float_mask: bool = False
    ragged: bool = False
    window: tuple[int, int] | None = None
    stored: str = ""  # or "bfloat16"
    dtype: str = "float32"

    def inputs(self, rng: np.random.Generator) -> Arrays:
        """Draw the arrays that every engine gets."""
        keys, groups = self.keys or self.queries, self.kv_heads or self.heads
        kv_shape = (self.batch, groups, keys, self.head_dim)
        arrays = {
            "query": rng.standard_normal((self.batch, self.heads, self.queries, self.head_dim)),
            "key": rng.standard_normal(kv_shape),
            "value": rng.standard_normal(kv_shape),
        }
        if self.float_mask:
            arrays["mask"] = rng.standard_normal((self.batch, self.heads, self.queries, keys))
        arrays = {name: array.astype(self.dtype) for name, array in arrays.items()}
        if self.stored:
            for name in ("key", "value"):
                arrays[name] = _to_bfloat16(arrays[name])
        if self.ragged:
            # Evenly spread from 3/8 of the longest up to the longest, in no order.
            lengths = np.linspace(3 * self.queries // 8, self.queries, self.batch)
            arrays["lengths"] = rng.permutation(lengths.astype(np.int64))
        return arrays

    def truth(self, arrays: Arrays) -> np.ndarray:
        """Return the answer in float64, 0 in rows past their length."""
        return truth.attention(
            arrays["query"],
            arrays["key"],
            arrays["value"],
            mask=arrays.get("mask"),
            causal=self.causal,
            window=self.window,
            lengths=arrays.get("lengths"),
        )

    def flops(self, arrays: Arrays) -> float:
        """Count the operations on visible pairs: a multiply-add per pair and dim, twice."""
        if self.ragged:
            pairs = float(np.sum(np.square(arrays["lengths"], dtype=np.float64)))
        else:
            first, last = self.seen()
            pairs = float(self.batch * np.maximum(last - first, 0).sum())
        return 4.0 * pairs * self.heads * self.head_dim

    def traffic(self, arrays: Arrays) -> float | None:
        """Return the bytes that bound this work, None where arithmetic does."""
        if self.queries > 1:
            return None
        held = float(arrays["key"].nbytes + arrays["value"].nbytes)
        return held / 2 if self.stored else held

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the first key that each query sees, and the one past its last."""
        keys, position = self.keys or self.queries, np.arange(self.queries)
        first, last = np.zeros_like(position), np.full_like(position, keys)
        if self.window is not None:
            first = np.maximum(position - self.window[0], 0)
            last = np.minimum(position + self.window[1] + 1, keys)
        if self.causal:
            last = np.minimum(position + 1, last)
        return first, last

    def visible(self) -> np.ndarray:
        """Return which key (S,) each query (L,) sees."""
        keys = np.arange(self.keys or self.queries)
        first, last = self.seen()
        return (first[:, None] <= keys) & (keys < last[:, None])

    def folded(self) -> Attention | None:
        """Return the same work with a group's heads as the queries of one head, if it is that."""
        if self.queries > 1 or not self.kv_heads:
            return None
        group = self.heads // self.kv_heads
        return replace(self, heads=self.kv_heads, queries=group, kv_heads=0)


@dataclass(frozen=True)
class Layer:
    """A multi-head self-attention layer with biases: x (B, L, width) to (B, L, width)."""

    batch: int
    queries: int
    width: int
    heads: int
    dtype: str = "float32"

    def inputs(self, rng: np.random.Generator) -> Arrays:
        """Draw the input and the weights, named as in torch.nn.MultiheadAttention."""
        shapes = {
            "in_proj_weight": (3 * self.width, self.width),
            "in_proj_bias": (3 * self.width,),
            "out_proj.weight": (self.width, self.width),
            "out_proj.bias": (self.width,),
        }
        arrays = {
            name: rng.standard_normal(shape) / np.sqrt(self.width) for name, shape in shapes.items()
        }
        arrays["x"] = rng.standard_normal((self.batch, self.queries, self.width))
        return {name: array.astype(self.dtype) for name, array in arrays.items()}

    def truth(self, arrays: Arrays) -> np.ndarray:
        """Return the answer in float64."""
        return truth.multi_head(arrays["x"], arrays, self.heads)

    def flops(self, arrays: Arrays) -> float:
        """Count four projections and the attention between them."""
        rows = self.batch * self.queries
        return 8.0 * rows * self.width**2 + 4.0 * rows * self.queries * self.width

    def traffic(self, arrays: Arrays) -> float | None:
        """Return the bytes that bound this work, None where arithmetic does."""
        return None


@dataclass(frozen=True)
class Softmax:
    """Softmax over the last axis of a matrix."""

    rows: int
    columns: int
    dtype: str = "float32"

    def inputs(self, rng: np.random.Generator) -> Arrays:
        """Draw the matrix."""
        return {"x": rng.standard_normal((self.rows, self.columns)).astype(self.dtype)}

    def truth(self, arrays: Arrays) -> np.ndarray:
        """Return the answer in float64."""
        return truth.softmax(arrays["x"].astype(np.float64))

    def flops(self, arrays: Arrays) -> float:
        """Return 0: the work is bound by memory and its operations are a matter of taste."""
        return 0.0

    def traffic(self, arrays: Arrays) -> float | None:
        """Count every element read once and written once."""
        return 2.0 * arrays["x"].nbytes


@dataclass(frozen=True)
class Sentences:
    """Sentence embeddings, from texts to normalised vectors; `count` real sentences."""

    count: int
    dtype: str = "float32"

    def inputs(self, rng: np.random.Generator) -> Arrays:
        """Take the sentences; the harness adds the model's folder."""
        from asv_bench.benchmarks.sentences import real_sentences

        # For one sentence, one of about the usual length (31 tokens).
        sentences = real_sentences(400)
        picked = [min(sentences, key=lambda s: abs(len(s) - 150))] if self.count == 1 else sentences
        return {"texts": np.array(picked[: self.count])}

    def truth(self, arrays: Arrays) -> np.ndarray:
        """Return the vectors in float64."""
        return truth.TextModel(str(arrays["folder"])).encode(arrays["texts"].tolist())

    def flops(self, arrays: Arrays) -> float:
        """Count the real tokens' multiply-adds, padding excluded."""
        return truth.TextModel(str(arrays["folder"])).flops(arrays["texts"].tolist())

    def traffic(self, arrays: Arrays) -> float | None:
        """Return the bytes that bound this work, None where arithmetic does."""
        return None


@dataclass(frozen=True)
class Additive:
    """Bahdanau's attention with its projections: query (B, L, width) on key (B, S, width), to units.

    The values are the keys. `projected`: the keys' projection is done before, as for all but the
    first step of a decoder, and counts as no work.
    """

    batch: int
    queries: int
    keys: int
    width: int
    units: int
    projected: bool = False
    dtype: str = "float32"

    def inputs(self, rng: np.random.Generator) -> Arrays:
        """Draw the rows and the weights, named as in attnx.layers.AdditiveAttention."""
        arrays = {
            "query": rng.standard_normal((self.batch, self.queries, self.width)),
            "key": rng.standard_normal((self.batch, self.keys, self.width)),
            "query_weight": rng.standard_normal((self.units, self.width)) / np.sqrt(self.width),
            "key_weight": rng.standard_normal((self.units, self.width)) / np.sqrt(self.width),
            "score_weight": rng.standard_normal(self.units) / np.sqrt(self.units),
        }
        return {name: array.astype(self.dtype) for name, array in arrays.items()}

    def truth(self, arrays: Arrays) -> np.ndarray:
        """Return the answer in float64."""
        return truth.additive(arrays)

    def flops(self, arrays: Arrays) -> float:
        """Count the multiply-adds of projections, scores and values; a tanh counts as nothing."""
        rows = self.batch * (self.queries + (0 if self.projected else self.keys))
        pairs = self.batch * self.queries * self.keys
        return 2.0 * (rows * self.width * self.units + pairs * (self.units + self.width))

    def traffic(self, arrays: Arrays) -> float | None:
        """Return the bytes that bound this work, None where arithmetic does."""
        return None


@dataclass(frozen=True)
class Words:
    """Words to phonemes by one of attnx's own models, from text to text; `count` real words.

    What is compared are the tokens of the phonemes (count, T), behind them 0.
    """

    model: str
    count: int
    dtype: str = "float32"

    def inputs(self, rng: np.random.Generator) -> Arrays:
        """Take the words of real sentences, each once."""
        from asv_bench.benchmarks.sentences import real_words

        # For one word, one of about the usual length.
        return {"words": np.array(["sentence"] if self.count == 1 else real_words(self.count))}

    def truth(self, arrays: Arrays) -> np.ndarray:
        """Return the tokens that the model in float64 gives."""
        model = spelling.load(self.model)
        return spelling.padded([model.pronounce(word) for word in arrays["words"].tolist()])

    def flops(self, arrays: Arrays) -> float:
        """Count the words' own letters and phonemes, padding excluded."""
        model = spelling.load(self.model)
        return sum(model.flops(word) for word in arrays["words"].tolist())

    def traffic(self, arrays: Arrays) -> float | None:
        """Return the bytes that bound this work, None where arithmetic does."""
        return None


Work = Attention | Layer | Additive | Softmax | Sentences | Words


def _to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round float32 numbers (away from zero on a tie) to such as bfloat16 has."""
    return ((x.view(np.uint32) + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)
