"""Decoding from a cache: the bits of the full forward pass, beams, steps back, buffers, threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HALVES, Array, assert_like_oracle, assert_same_bits, make_qkv
from numpy.typing import DTypeLike
from test_cache import BATCH, CAPACITY, DIM, HEADS, KV_HEADS, VALUE_DIM, draw

import attnx
from attnx import KVCache, reference


def decode(arrays: tuple[Array, ...], cache: KVCache, chunk: int, **options: Any) -> Array:
    """Return the outputs of positions that come in chunks."""
    length = arrays[0].shape[2]
    parts = []
    for begin in range(0, length, chunk):
        query, key, value = (x[:, :, begin : begin + chunk] for x in arrays)
        cache.append(key, value)
        parts.append(cache.attend(query, **options))
    return np.concatenate(parts, axis=2)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 200, 230])
def test_decoding_has_the_bits_of_the_full_pass(isa: str, dtype: DTypeLike, chunk: int) -> None:
    arrays = make_qkv(230, 230, 24, batch=(2,), heads=4, kv_heads=2, value_dim=17, dtype=dtype)
    full = attnx.scaled_dot_product_attention(*arrays, is_causal=True)
    cache = KVCache(2, 2, 256, 24, value_dim=17, dtype=dtype)
    assert_same_bits(decode(arrays, cache, chunk), full)
    assert cache.lengths.tolist() == [230, 230]


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_threads_change_no_bit(isa: str, num_threads: int) -> None:
    arrays = make_qkv(401, 401, 32, batch=(1,), heads=8, kv_heads=1)
    full = attnx.scaled_dot_product_attention(*arrays, is_causal=True, num_threads=1)
    cache = KVCache(1, 1, 512, 32)
    cache.append(*(x[:, :, :395] for x in arrays[1:]))
    rest = tuple(x[:, :, 395:] for x in arrays)
    assert_same_bits(decode(rest, cache, 1, num_threads=num_threads), full[:, :, 395:])


def test_ragged_prompts_have_the_bits_of_each_alone(isa: str, dtype: DTypeLike) -> None:
    """Prompts of 5, 0 and 3 tokens, then four steps together."""
    prompts, steps = [5, 0, 3], 4
    query, key, value = draw(0, 5 + steps, dtype)
    cache = KVCache(BATCH, KV_HEADS, 16, DIM, value_dim=VALUE_DIM, dtype=dtype)
    prompt = [np.full_like(x[:, :, :5], np.nan) for x in (query, key, value)]
    for part, x in zip(prompt, (query, key, value), strict=True):
        for b, n in enumerate(prompts):
            part[b, :, :n] = x[b, :, :n]
    cache.append(prompt[1], prompt[2], lengths=prompts)
    outputs = [cache.attend(prompt[0])]
    for step in range(steps):
        at = np.array(prompts)[:, None, None, None] + step
        now = [np.take_along_axis(x, at, axis=2) for x in (query, key, value)]
        cache.append(now[1], now[2])
        outputs.append(cache.attend(now[0]))
    for b, n in enumerate(prompts):
        alone = tuple(x[b : b + 1, :, : n + steps] for x in (query, key, value))
        full = attnx.scaled_dot_product_attention(*alone, is_causal=True)[0]
        mine = np.concatenate([outputs[0][b, :, :n], *(o[b] for o in outputs[1:])], axis=1)
        assert_same_bits(mine, full)
        assert_same_bits(outputs[0][b, :, n:], np.zeros_like(outputs[0][b, :, n:]))


def test_a_ragged_append_is_reordered_with_its_rows() -> None:
    query, key, value = draw(9, 5)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    cache.append(key, value, [5, 1, 3])
    before = cache.attend(query)
    cache.reorder([1, 0, 0])
    assert_same_bits(cache.attend(query[[1, 0, 0]]), before[[1, 0, 0]])


@pytest.mark.parametrize("own", [[1, 0, 1], [0, 0, 0]])
def test_a_step_that_some_sequences_sit_out(isa: str, own: list[int]) -> None:
    query, key, value = draw(9, 5)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    cache.append(key[:, :, :4], value[:, :, :4])
    cache.append(key[:, :, 4:], value[:, :, 4:], own)
    out = cache.attend(query[:, :, 4:])
    full = attnx.scaled_dot_product_attention(query, key, value, is_causal=True)[:, :, 4:]
    assert_same_bits(out, full * np.array(own, np.float32)[:, None, None, None] + 0)


def test_padding_of_a_ragged_append_is_not_computed(isa: str) -> None:
    query, key, value = draw(1, 6)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    cache.append(key, value, [6, 2, 4])
    out, lse = cache.attend(query, return_lse=True)
    expected = {"is_causal": True, "key_lengths": [6, 2, 4], "query_lengths": [6, 2, 4]}
    assert_like_oracle("scaled_dot_product_attention", out, (query, key, value), **expected)
    assert (lse[1, :, 2:] == -np.inf).all()
    assert np.isfinite(lse[1, :, :2]).all()


def test_what_lies_past_the_lengths_has_no_influence(isa: str) -> None:
    query, key, value = draw(2, 4)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    cache.append(key, value, [4, 1, 3])
    clean = cache.attend(query)
    for b, n in enumerate(cache.lengths):
        cache.key[b, :, n:], cache.value[b, :, n:] = np.nan, np.inf
    assert_same_bits(cache.attend(query), clean)


def test_options_pass_through() -> None:
    query, key, value = draw(3, 6)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    cache.append(key, value)
    mask = np.random.default_rng(0).standard_normal((HEADS, 2, 6)).astype(np.float32)
    out = np.empty((BATCH, HEADS, 2, VALUE_DIM), np.float32)
    last = query[:, :, 4:]
    given, lse = cache.attend(last, attn_mask=mask, scale=0.7, return_lse=True, out=out)
    assert given is out
    arrays, options = (last, key, value, mask), {"scale": 0.7, "is_causal": True, "query_offset": 4}
    assert_like_oracle("scaled_dot_product_attention", out, arrays, **options)
    truth = reference.scaled_dot_product_attention(*arrays, return_lse=True, **options)[1]
    np.testing.assert_allclose(lse, truth, rtol=1e-5, atol=1e-5)


OPTIONS: dict[str, dict[str, Any]] = {
    "window": {"window": (70, 0)},
    "window to the right": {"window": (3, 2), "is_causal": False},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": np.array([0.5, -1.0, 2.0, 0.0], np.float32)},
    "alibi": {"bias": attnx.bias.ALiBi([0.5, 0.25, 0.125, 0.0625])},
    "relative": {"bias": attnx.bias.RelativePosition(
        np.random.default_rng(0).standard_normal((32, 4)), bidirectional=False, max_distance=128)},
    "alibi, not causal": {"bias": attnx.bias.ALiBi([0.5, 0.25, 0.125, 0.0625]), "is_causal": False},
    "all": {"bias": attnx.bias.ALiBi([1, 0.5, 0.25, 0.125]), "window": (200, 1), "softcap": 5.0,
            "sinks": np.zeros(4), "scale": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("chunk", [1, 3])
def test_positions_count_from_the_start_of_the_cache(isa: str, name: str, chunk: int) -> None:
    """After 230 positions, in steps and with sequences of unequal lengths."""
    query, key, value = make_qkv(236, 236, 24, batch=(2,), heads=4, kv_heads=2)
    options = {"is_causal": True} | OPTIONS[name]
    for lengths in ([230, 230], [230, 41]):
        cache = KVCache(2, 2, 256, 24)
        cache.append(key[:, :, :230], value[:, :, :230])
        cache.truncate(lengths)
        for begin in range(0, 6, chunk):
            now = slice(230 + begin, 230 + begin + chunk)
            cache.append(key[:, :, now], value[:, :, now])
            out = cache.attend(query[:, :, now], **OPTIONS[name])
            for b, n in enumerate(lengths):
                kept = [*range(n), *range(230, now.stop)]
                alone = (query[b, :, now], key[b][:, kept], value[b][:, kept])
                expected = attnx.scaled_dot_product_attention(
                    *alone, query_offset=n + begin, **options
                )
                assert_same_bits(out[b], expected)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("small_query", [False, True])
def test_sixteen_bit_storage(isa: str, half: DTypeLike, small_query: bool) -> None:
    query, key, value = make_qkv(230, 230, 24, batch=(2,), heads=4, kv_heads=2)
    if small_query:
        query = query.astype(half)
    arrays = (query, key.astype(half), value.astype(half))
    full = attnx.scaled_dot_product_attention(*arrays, is_causal=True)
    for chunk in (1, 97):
        out = decode((query, key, value), KVCache(2, 2, 256, 24, dtype=half), chunk)
        assert_same_bits(out, full)
    if not small_query:
        wide = tuple(x.astype(np.float32) for x in arrays)
        assert_like_oracle("scaled_dot_product_attention", full, wide, is_causal=True)


def test_not_causal_sees_later_positions() -> None:
    query, key, value = draw(4, 5)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    cache.append(key, value)
    whole = attnx.scaled_dot_product_attention(query, key, value)
    assert_same_bits(cache.attend(query, is_causal=False), whole)
    assert (cache.attend(query) != whole).any()


# --- beams, steps back, buffers, threads ----------------------------------------------------------


def test_beams_have_the_bits_of_their_histories(isa: str) -> None:
    """Four steps of search; each beam's output is that of the positions it came by."""
    query, key, value = draw(5, 4)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    paths: list[list[tuple[int, int]]] = [[] for _ in range(BATCH)]
    for step, parents in enumerate([[0, 1, 2], [2, 2, 0], [1, 0, 0], [2, 1, 0]]):
        cache.reorder(parents)
        paths = [[*paths[p], (b, step)] for b, p in enumerate(parents)]
        cache.append(key[:, :, step : step + 1], value[:, :, step : step + 1])
        out = cache.attend(query[:, :, step : step + 1])
        for b, path in enumerate(paths):
            held = [np.stack([x[at, :, i] for at, i in path], 1)[None] for x in (key, value)]
            now = query[b : b + 1, :, step : step + 1]
            assert_same_bits(out[b : b + 1], attnx.scaled_dot_product_attention(now, *held))


def test_a_step_can_be_taken_back(isa: str) -> None:
    """Drafted positions that are refused leave no trace."""
    query, key, value = draw(6, 8)
    cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
    cache.append(key[:, :, :3], value[:, :, :3])
    before = cache.lengths
    cache.append(-key[:, :, 3:], -value[:, :, 3:])
    cache.truncate(before)
    cache.append(key[:, :, 3:4], value[:, :, 3:4])
    full = attnx.scaled_dot_product_attention(
        *(x[:, :, :4] for x in (query, key, value)), is_causal=True
    )
    assert_same_bits(cache.attend(query[:, :, 3:4]), full[:, :, 3:])
    assert before.tolist() == [3, 3, 3]  # a copy, not a view


def test_buffers_of_the_caller(tmp_path: Path) -> None:
    """A memory map keeps the conversation; another process goes on with it."""
    query, key, value = draw(7, 6)
    shapes = [(BATCH, KV_HEADS, CAPACITY, dim) for dim in (DIM, VALUE_DIM)]
    files = [tmp_path / "key", tmp_path / "value"]
    maps = [np.memmap(f, np.float32, "w+", shape=s) for f, s in zip(files, shapes, strict=True)]
    cache = KVCache.from_buffers(*maps)
    cache.append(key[:, :, :5], value[:, :, :5])
    assert type(cache.key) is np.ndarray
    assert np.shares_memory(cache.key, maps[0])
    assert np.shares_memory(cache.value, maps[1])
    lengths = cache.lengths
    for one in maps:
        one.flush()
    again = [np.memmap(f, np.float32, "r+", shape=s) for f, s in zip(files, shapes, strict=True)]
    later = KVCache.from_buffers(*again, lengths=lengths)
    later.append(key[:, :, 5:], value[:, :, 5:])
    full = attnx.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert_same_bits(later.attend(query[:, :, 5:]), full[:, :, 5:])
    np.testing.assert_array_equal(np.asarray(again[0])[:, :, :6], key)


def test_one_buffer_for_keys_and_values() -> None:
    query, key, value = (x[..., :VALUE_DIM] for x in draw(8, 6))
    both = np.zeros((BATCH, 2, CAPACITY, KV_HEADS, VALUE_DIM), np.float32).swapaxes(2, 3)
    cache = KVCache.from_buffers(both[:, 0], both[:, 1])
    full = attnx.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert_same_bits(decode((query, key, value), cache, 2), full)


def test_caches_in_threads_of_their_own() -> None:
    arrays = make_qkv(40, 40, 16, batch=(1,))
    full = attnx.scaled_dot_product_attention(*arrays, is_causal=True)
    results: list[Array] = []

    def work() -> None:
        results.append(decode(arrays, KVCache(1, 2, 40, 16), 1))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(timeout=300)
    assert len(results) == 6
    for out in results:
        assert_same_bits(out, full)
