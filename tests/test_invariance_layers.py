"""Rule 8 in layers and caches, bit for bit: a sequence has the bits that it has alone, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits

import attnx
from attnx.layers import LayerNorm, MultiHeadAttention, TransformerEncoder, TransformerEncoderLayer

THREADS = (1, 2, 3, 4, 8)
BATCHES = (1, 2, 3, 8, 64)
LENGTH, WIDTH = 21, 40
Layer = Callable[..., Any]


def multi_head(norm_first: bool) -> Layer:
    layer = MultiHeadAttention(WIDTH, 4, num_kv_heads=2 if norm_first else None)
    return lambda x, lengths, causal: layer(x, key_lengths=lengths, is_causal=causal)


def encoder(norm_first: bool) -> Layer:
    layer = TransformerEncoderLayer(WIDTH, 4, 50, activation="gelu", norm_first=norm_first)
    stack = TransformerEncoder(layer, 2, LayerNorm(WIDTH))
    return lambda x, lengths, causal: stack(x, src_lengths=lengths, is_causal=causal)


@pytest.fixture(params=[multi_head, encoder], ids=lambda make: make.__name__)
def layer(request: pytest.FixtureRequest, norm_first: bool) -> Layer:
    made: Layer = request.param(norm_first)
    return made


@pytest.fixture(params=[False, True])
def norm_first(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    """Leave the number of threads as it was."""
    before = attnx.get_num_threads()
    yield
    attnx.set_num_threads(before)


def inputs(batch: int) -> tuple[Array, Array]:
    """Return rows and lengths, the second sequence being empty."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LENGTH + 1, 64)
    lengths[1] = 0
    return rng.standard_normal((64, LENGTH, WIDTH)).astype(np.float32)[:batch], lengths[:batch]


def shifted(x: Array, by: int) -> Array:
    """Return x, so many elements after the start of a cache line."""
    memory = np.empty(x.size + 32, x.dtype)
    start = -memory.ctypes.data // x.itemsize % 16 + by
    moved = memory[start : start + x.size].reshape(x.shape)
    moved[...] = x
    return moved


def assert_same_rows(actual: Array, expected: Array, lengths: Array) -> None:
    """Compare what lies within the lengths; an output past them is nobody's."""
    for b, n in enumerate(lengths):
        assert_same_bits(actual[b, :n], expected[b, :n])


@pytest.mark.parametrize("causal", [False, True])
def test_batch_and_position_in_it(isa: str, layer: Layer, causal: bool) -> None:
    x, lengths = inputs(64)
    expected = layer(x, lengths, causal)
    for batch in BATCHES[:-1]:
        for first in (0, 64 - batch):
            part = slice(first, first + batch)
            out = layer(x[part], lengths[part], causal)
            assert_same_rows(out, expected[part], lengths[part])
    turned = layer(x[::-1], lengths[::-1], causal)
    assert_same_rows(turned[::-1], expected, lengths)


@pytest.mark.usefixtures("threads")
def test_threads(isa: str, layer: Layer) -> None:
    x, lengths = inputs(64)
    expected = layer(x, lengths, False)
    for count in THREADS:
        attnx.set_num_threads(count)
        assert_same_bits(layer(x, lengths, False), expected)


def test_padding(isa: str, layer: Layer) -> None:
    x, lengths = inputs(8)
    expected = layer(x, lengths, False)
    longer = np.concatenate([x, np.full((8, 30, WIDTH), np.nan, np.float32)], axis=1)
    for b, n in enumerate(lengths):
        longer[b, n:] = np.nan
        alone = layer(x[b : b + 1, :n], None, False)
        assert_same_bits(alone[0], expected[b, :n])
    assert_same_rows(layer(longer, lengths, False), expected, lengths)


@pytest.mark.parametrize("shift", range(16))
def test_alignments(isa: str, layer: Layer, shift: int) -> None:
    x, lengths = inputs(3)
    assert_same_bits(layer(shifted(x, shift), lengths, False), layer(x, lengths, False))


def test_layouts(isa: str, layer: Layer) -> None:
    x, lengths = inputs(3)
    expected = layer(x, lengths, True)
    rows_first = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    backwards = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
    for same in (rows_first, backwards, np.asfortranarray(x), x.repeat(2, axis=2)[..., ::2]):
        assert_same_bits(layer(same, lengths, True), expected)
    assert_same_bits(layer(x[:, np.newaxis], lengths[:, np.newaxis], True)[:, 0], expected)


# --- caches --------------------------------------------------------------------------------------


def filled(rows: slice, shift: int = 0, *, swapped: bool = False) -> attnx.KVCache:
    """Return a cache of some of 64 sequences of 1 to 230 positions, in buffers that lie somewhere."""
    rng = np.random.default_rng(1)
    key, value = rng.standard_normal((2, 64, 2, 230, 24)).astype(np.float32)
    lengths = rng.integers(1, 231, 64)
    buffers = [shifted(np.full_like(key[rows], np.nan), shift) for _ in range(2)]
    if swapped:
        buffers = [np.ascontiguousarray(b.swapaxes(1, 2)).swapaxes(1, 2) for b in buffers]
    cache = attnx.KVCache.from_buffers(*buffers)
    cache.append(key[rows], value[rows], lengths[rows])
    cache.truncate(lengths[rows])  # a ragged append is over: the queries are the newest positions
    return cache


QUERY = np.random.default_rng(2).standard_normal((64, 8, 1, 24)).astype(np.float32)


def test_batches_of_a_cache(isa: str) -> None:
    expected, lse = filled(slice(None)).attend(QUERY, return_lse=True)
    for batch in BATCHES:
        for first in {0, 31, 64 - batch} if batch < 33 else {0}:
            rows = slice(first, first + batch)
            out, sums = filled(rows).attend(QUERY[rows], return_lse=True)
            assert_same_bits(out, expected[rows])
            assert_same_bits(sums, lse[rows])


@pytest.mark.parametrize("shift", range(16))
def test_buffers_anywhere(isa: str, shift: int) -> None:
    rows = slice(0, 3)
    expected = filled(rows).attend(QUERY[rows])
    assert_same_bits(filled(rows, shift).attend(QUERY[rows]), expected)
    assert_same_bits(
        filled(rows, shift, swapped=True).attend(shifted(QUERY[rows], shift)), expected
    )


def test_threads_of_a_cache(isa: str) -> None:
    for rows in (slice(0, 1), slice(None)):
        cache = filled(rows)
        expected = cache.attend(QUERY[rows], num_threads=1)
        for threads in THREADS[1:]:
            assert_same_bits(cache.attend(QUERY[rows], num_threads=threads), expected)
