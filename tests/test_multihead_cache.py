"""Multi-head attention through a cache: the bits of the full forward pass, in any steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits

from attnx import KVCache
from attnx.layers import MultiHeadAttention

BATCH, LENGTH, EMBED, HEADS, DIM = 3, 21, 24, 4, 6


def make(num_kv_heads: int = 2, **options: Any) -> MultiHeadAttention:
    layer = MultiHeadAttention(EMBED, HEADS, num_kv_heads=num_kv_heads, **options)
    rng = np.random.default_rng(1)
    layer.load_state_dict(
        {
            name: (rng.standard_normal(array.shape) / 2).astype(np.float32)
            for name, array in layer.state_dict().items()
        }
    )
    return layer


def draw(length: int = LENGTH, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((BATCH, length, EMBED), np.float32)


def held(cache: KVCache) -> list[Array]:
    longest = cache.lengths.max()
    return [x[:, :, :longest].copy() for x in (cache.key, cache.value)]


@pytest.mark.parametrize("chunks", [[1] * LENGTH, [LENGTH], [5, 1, 1, 9, 5], [20, 1]])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_the_full_forward_pass(isa: str, num_kv_heads: int, chunks: list[int]) -> None:
    layer, x = make(num_kv_heads), draw()
    full, full_weights = layer(x, is_causal=True, need_weights=True)
    cache = KVCache(BATCH, num_kv_heads, 32, DIM)
    ends = np.cumsum(chunks)
    for begin, end in zip(ends - chunks, ends, strict=True):
        out, weights = layer(x[:, begin:end], cache=cache, need_weights=True)
        assert_same_bits(out, full[:, begin:end])
        assert_same_bits(weights, full_weights[:, :, begin:end, :end])
    assert cache.lengths.tolist() == [LENGTH] * BATCH


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_causal_by_position_whatever_is_causal_says(is_causal: bool, num_threads: int) -> None:
    layer, x = make(), draw()
    cache = KVCache(BATCH, 2, 32, DIM)
    out = layer(x, cache=cache, is_causal=is_causal, num_threads=num_threads)
    assert_same_bits(out, layer(x, is_causal=True))


def test_other_forms_of_the_weights() -> None:
    """Packed in parts by an earlier call, without bias, with values of a size of their own."""
    layer, x = make(4), draw()
    full = layer(x, is_causal=True)
    layer(x, x + 1)
    assert_same_bits(layer(x, cache=KVCache(BATCH, 4, 32, DIM)), full)
    plain = make(2, bias=False)
    cached = plain(x, cache=KVCache(BATCH, 2, 32, DIM))
    assert_same_bits(cached, plain(x, is_causal=True))


def test_a_mask_spans_all_positions() -> None:
    layer, x = make(), draw()
    mask = np.random.default_rng(3).random((BATCH, 1, LENGTH, LENGTH)) < 0.6
    full = layer(x, attn_mask=mask, is_causal=True)
    cache = KVCache(BATCH, 2, 32, DIM)
    for begin, end in [(0, 8), (8, 9), (9, 21)]:
        out = layer(x[:, begin:end], attn_mask=mask[:, :, begin:end, :end], cache=cache)
        assert_same_bits(out, full[:, begin:end])


def test_beams_and_steps_back() -> None:
    layer, x = make(), draw(6)
    cache = KVCache(BATCH, 2, 8, DIM)
    layer(x[:, :4], cache=cache)
    layer(-x[:, 4:], cache=cache)
    cache.truncate(4)
    rows = [2, 0, 0]
    cache.reorder(rows)
    out = layer(x[:, 4:], cache=cache)
    history = np.concatenate([x[rows, :4], x[:, 4:]], axis=1)
    assert_same_bits(out, layer(history, is_causal=True)[:, 4:])


def test_sequences_of_unequal_lengths() -> None:
    layer, x = make(), draw()
    cache = KVCache(BATCH, 2, 32, DIM)
    layer(x[:, :9], cache=cache)
    lengths = [9, 2, 5]
    cache.truncate(lengths)
    out = layer(x[:, 9:12], cache=cache)
    for b, n in enumerate(lengths):
        history = np.concatenate([x[b, :n], x[b, 9:12]])
        assert_same_bits(out[b], layer(history, is_causal=True)[n:])


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"key": draw()}, TypeError, "key may not be given with cache"),
    ({"key": draw(), "value": draw()}, TypeError, "key may not be given with cache"),
    ({"key_lengths": [1, 1, 1]}, TypeError, "key_lengths may not be given with cache"),
    ({"cache": 3}, TypeError, "cache must be a KVCache, got int"),
    ({"cache": KVCache(BATCH, 4, 32, DIM)}, ValueError, "cache must hold 2 heads of dim 6"),
    ({"cache": KVCache(BATCH, 2, 32, 5)}, ValueError, "cache must hold 2 heads of dim 6"),
    ({"cache": KVCache(BATCH, 2, 32, DIM, value_dim=3)}, ValueError, "cache must hold 2 heads"),
    ({"cache": KVCache(2, 2, 32, DIM)}, ValueError, r"query must have shape \(2, length"),
    ({"query": draw()[0]}, ValueError, r"query must have shape \(3, length"),
    ({"query": draw(30)}, ValueError, "cache of 32 positions"),
    ({"attn_mask": np.ones((4, 7), bool)}, ValueError, "attn_mask must broadcast"),
    ({"attn_mask": np.ones((4, 4), int)}, TypeError, "attn_mask must be bool"),
    ({"num_threads": "two"}, TypeError, "num_threads"),
])  # fmt: skip
def test_an_error_leaves_the_cache_alone(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    layer, x = make(), draw()
    cache = KVCache(BATCH, 2, 32, DIM)
    layer(x[:, :4], cache=cache)
    before = held(cache)
    with pytest.raises(error, match=message):
        layer(**({"query": x[:, 4:8], "cache": cache} | options))
    assert cache.lengths.tolist() == [4] * BATCH
    for now, then in zip(held(cache), before, strict=True):
        assert_same_bits(now, then)
    assert_same_bits(layer(x[:, 4:8], cache=cache), layer(x, is_causal=True)[:, 4:8])
