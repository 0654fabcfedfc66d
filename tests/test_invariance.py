"""Rule 8, bit for bit: a row of the result depends on what it sees and on nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import HALVES, Array, assert_same_bits, computed_in, make_qkv
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx

THREADS = (1, 2, 3, 4, 8)
CASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "causal": {"is_causal": True, "query_offset": 50},
    "bool mask": {"attn_mask": np.random.default_rng(0).random((70, 230)) < 0.5},
    "float mask": {"attn_mask": np.random.default_rng(0).standard_normal((70, 230))},
    "lengths": {"key_lengths": 201, "query_lengths": 60},
    "window": {"window": (40, 3), "query_offset": 50},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": [0.5, -1.0, 3.0, -np.inf]},
    "bias": {"bias": np.random.default_rng(1).standard_normal((70, 230))},
    "alibi": {"bias": attnx.bias.ALiBi([0.5, 0.1, 0.0, -0.01]), "query_offset": 100},
    "relative": {
        "bias": attnx.bias.RelativePosition(np.random.default_rng(2).random((32, 4)), True, 128),
        "query_offset": 100,
    },
    "all together": {
        "attn_mask": np.random.default_rng(0).random((70, 230)) < 0.8,
        "bias": attnx.bias.ALiBi([0.5, 0.1, 0.0, -0.01]),
        "is_causal": True,
        "query_offset": 120,
        "window": (130, 0),
        "softcap": 3.0,
        "sinks": [0.5, -1.0, 3.0, -np.inf],
        "key_lengths": 201,
    },
}
# Options that go by position, not by the row of an array: chunks of queries may have them.
BY_POSITION = ("causal", "window", "softcap", "sinks", "alibi", "relative")
STORED = [(t, t) for t in HALVES] + [(np.float32, t) for t in HALVES]


def attend(args: tuple[Array, ...], **options: Any) -> tuple[Array, Array, Array]:
    """Return output, log-sum-exp and weights."""
    for name in ("attn_mask", "bias"):
        if getattr(options.get(name), "dtype", None) == np.float64:
            options[name] = options[name].astype(computed_in(args[0].dtype))
    out, lse = attnx.scaled_dot_product_attention(*args, return_lse=True, **options)
    weights = attnx.attention_weights(*args[:2], **options)
    return out, lse, weights


def assert_all_same(results: tuple[Array, ...], expected: tuple[Array, ...]) -> None:
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(result, wanted)


def inputs(dtype: DTypeLike, **changes: Any) -> tuple[Array, Array, Array]:
    settings = {"batch": (8,), "heads": 4, "kv_heads": 2, "dtype": dtype} | changes
    return make_qkv(70, 230, 24, **settings)


@pytest.mark.parametrize("case", CASES)
def test_threads(isa: str, dtype: DTypeLike, case: str) -> None:
    args = inputs(dtype, batch=(3,))
    expected = attend(args, num_threads=1, **CASES[case])
    for threads in THREADS[1:]:
        assert_all_same(attend(args, num_threads=threads, **CASES[case]), expected)
    one_row = tuple(x[:, :, :1] if k == 0 else x for k, x in enumerate(args))
    lengths = {"key_lengths": 201}
    expected = attend(one_row, num_threads=1, **lengths)
    for threads in THREADS[1:]:
        assert_all_same(attend(one_row, num_threads=threads, **lengths), expected)


@pytest.mark.parametrize("case", CASES)
def test_batch_and_position_in_it(isa: str, dtype: DTypeLike, case: str) -> None:
    args = inputs(dtype)
    expected = attend(args, **CASES[case])
    for first, count in ((0, 1), (7, 1), (3, 2), (5, 3)):
        rows = slice(first, first + count)
        results = attend(tuple(x[rows] for x in args), **CASES[case])
        assert_all_same(results, tuple(x[rows] for x in expected))
    turned = attend(tuple(x[::-1] for x in args), **CASES[case])
    assert_all_same(turned, tuple(x[::-1] for x in expected))


def test_a_batch_of_64(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(9, 200, 24, batch=(64,), heads=4, kv_heads=2, dtype=dtype)
    lengths = np.random.default_rng(0).integers(0, 201, 64)
    expected = attend(args, key_lengths=lengths)
    for first, count in ((0, 1), (63, 1), (30, 2), (17, 3), (40, 8)):
        rows = slice(first, first + count)
        results = attend(tuple(x[rows] for x in args), key_lengths=lengths[rows])
        assert_all_same(results, tuple(x[rows] for x in expected))


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 48, 49])
def test_chunks_of_queries(isa: str, dtype: DTypeLike, chunk: int) -> None:
    query, key, value = inputs(dtype, batch=(2,))
    for causal, offset in ((False, 0), (True, 160), (True, np.array([0, 90]))):
        options = {"is_causal": causal, "query_offset": offset}
        expected = attend((query, key, value), **options)
        for first in range(0, 70, chunk):
            rows = slice(first, min(first + chunk, 70))
            options["query_offset"] = offset + first
            results = attend((query[:, :, rows], key, value), **options)
            assert_all_same(results, tuple(x[:, :, rows] for x in expected))


@pytest.mark.parametrize("case", BY_POSITION)
@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 16, 33, 48])
def test_chunks_of_queries_with_options(isa: str, dtype: DTypeLike, chunk: int, case: str) -> None:
    query, key, value = inputs(dtype, batch=(2,))
    offset = CASES[case].get("query_offset", 0)
    expected = attend((query, key, value), **CASES[case])
    for first in range(0, 70, chunk):
        rows = slice(first, min(first + chunk, 70))
        options = CASES[case] | {"query_offset": offset + first}
        results = attend((query[:, :, rows], key, value), **options)
        assert_all_same(results, tuple(x[:, :, rows] for x in expected))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_16_bits(isa: str, stored: tuple[Any, Any], case: str) -> None:
    """Threads, batch, chunks, padding and alignment, of queries or of keys in 16 bits."""
    query, key, value = inputs(stored[1], batch=(3,))
    args = (query.astype(stored[0]), key, value)
    expected = attend(args, num_threads=1, **CASES[case])
    for threads in (2, 3, 8):
        assert_all_same(attend(args, num_threads=threads, **CASES[case]), expected)
    last = attend(tuple(x[2:] for x in args), **CASES[case])
    assert_all_same(last, tuple(x[2:] for x in expected))
    moved = []
    for x in args:
        room = np.empty(x.size + 3, x.dtype)[3:].reshape(x.shape)
        room[...] = x
        moved.append(room)
    assert_all_same(attend(tuple(moved), **CASES[case]), expected)
    if case in BY_POSITION:
        offset = CASES[case].get("query_offset", 0)
        for rows in (slice(0, 1), slice(1, 8), slice(33, 50), slice(69, 70)):
            options = CASES[case] | {"query_offset": offset + rows.start}
            results = attend((args[0][:, :, rows], key, value), **options)
            assert_all_same(results, tuple(x[:, :, rows] for x in expected))
    longer = tuple(np.concatenate([x, x[:, :, :60] + np.array(np.nan, x.dtype)], 2) for x in args)
    if case in BY_POSITION:
        padded = attend((args[0], *longer[1:]), key_lengths=230, **CASES[case])
        assert_all_same(padded[:2], expected[:2])


def test_chunks_of_queries_under_a_mask(isa: str, dtype: DTypeLike) -> None:
    query, key, value = inputs(dtype, batch=(2,))
    for case in ("bool mask", "float mask"):
        mask = CASES[case]["attn_mask"]
        expected = attend((query, key, value), attn_mask=mask)
        for rows in (slice(0, 1), slice(1, 8), slice(33, 50), slice(69, 70)):
            results = attend((query[:, :, rows], key, value), attn_mask=mask[rows])
            assert_all_same(results, tuple(x[:, :, rows] for x in expected))


@pytest.mark.parametrize("length", [1, 5, 16, 47, 48, 49, 96, 128, 191, 192, 193, 230])
def test_right_padding(isa: str, dtype: DTypeLike, length: int) -> None:
    """Keys cut off, keys past key_lengths, and keys masked away are one and the same."""
    query, key, value = inputs(dtype, batch=(2,))
    for queries in (1, 3, 70):
        short = (query[:, :, :queries], key[:, :, :length], value[:, :, :length])
        expected = attend(short)
        longer = (query[:, :, :queries], key, value)
        padded = attend(longer, key_lengths=length)
        assert_all_same(padded[:2], expected[:2])
        assert_same_bits(padded[2][..., :length], expected[2])
        assert not padded[2][..., length:].any()
        causal = attend(short, is_causal=True)
        padded = attend(longer, is_causal=True, key_lengths=[length, length])
        assert_all_same(padded[:2], causal[:2])


def test_padded_queries(isa: str, dtype: DTypeLike) -> None:
    query, key, value = inputs(dtype, batch=(2,))
    expected = attend((query, key, value))
    results = attend((query, key, value), query_lengths=[33, 70])
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(result[0, :, :33], wanted[0, :, :33])
        assert_same_bits(result[1], wanted[1])


def test_a_causal_row_is_a_row_on_fewer_keys(isa: str, dtype: DTypeLike) -> None:
    """What a decoder computes token by token is what it computes at once."""
    query, key, value = inputs(dtype, batch=(2,))
    whole = attend((query, key, value), is_causal=True, query_offset=160)
    for i in (0, 1, 31, 32, 47, 69):
        seen = 160 + i + 1
        step = attend((query[:, :, i : i + 1], key[:, :, :seen], value[:, :, :seen]))
        assert_same_bits(step[0], whole[0][:, :, i : i + 1])
        assert_same_bits(step[1], whole[1][:, :, i : i + 1])


def test_heads(isa: str, dtype: DTypeLike) -> None:
    query, key, value = inputs(dtype, batch=(2,))
    expected = attend((query, key, value))
    repeated = attend((query, key.repeat(2, 1), value.repeat(2, 1)))
    assert_all_same(repeated, expected)
    for h in range(4):
        one, group = slice(h, h + 1), slice(h // 2, h // 2 + 1)
        alone = attend((query[:, one], key[:, group], value[:, group]))
        assert_all_same(alone, tuple(x[:, one] for x in expected))


@pytest.mark.parametrize("shift", range(16))
def test_alignments(isa: str, dtype: DTypeLike, shift: int) -> None:
    args = inputs(dtype, batch=(1,))
    expected = attend(args)
    moved = []
    for x in args:
        room = np.empty(x.size + 16, x.dtype)
        room[shift : shift + x.size] = x.ravel()
        moved.append(room[shift : shift + x.size].reshape(x.shape))
    assert_all_same(attend(tuple(moved)), expected)
    out = np.empty(expected[0].size + 16, dtype)[shift : shift + expected[0].size]
    out = out.reshape(expected[0].shape)
    attnx.scaled_dot_product_attention(*moved, out=out)
    assert_same_bits(out, expected[0])


def test_layouts(isa: str, dtype: DTypeLike) -> None:
    args = inputs(dtype, batch=(2,))
    expected = attend(args, is_causal=True)
    swapped = tuple(np.ascontiguousarray(x.swapaxes(1, 2)) for x in args)
    out, lse, weights = attend(swapped, is_causal=True, layout="blhd")
    assert_all_same((out.swapaxes(1, 2), lse, weights), expected)


def test_again_and_again(isa: str, dtype: DTypeLike) -> None:
    args = inputs(dtype, batch=(2,))
    expected = attend(args)
    for _ in range(20):
        assert_all_same(attend(args), expected)


@given(data=st.data())
def test_any_part_of_any_call(isa: str, data: st.DataObject) -> None:
    """A batch row, some queries, fewer threads, more padding: the same bits."""
    draw = data.draw
    queries, keys = draw(st.integers(1, 60)), draw(st.integers(1, 250))
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 3))
    query, key, value = make_qkv(
        queries,
        keys,
        draw(st.integers(1, 40)),
        batch=(3,),
        heads=heads,
        kv_heads=kv_heads,
        value_dim=draw(st.integers(1, 40)),
        dtype=draw(st.sampled_from([np.float32, np.float64, *HALVES])),
    )
    lengths = np.array(draw(st.lists(st.integers(0, keys), min_size=3, max_size=3)))
    offsets = np.array(draw(st.lists(st.integers(-3, keys), min_size=3, max_size=3)))
    slopes = draw(st.none() | st.lists(st.floats(0, 1), min_size=heads, max_size=heads))
    options = {
        "is_causal": draw(st.booleans()),
        "window": draw(st.none() | st.tuples(st.integers(0, keys), st.none() | st.integers(0, 9))),
        "softcap": draw(st.none() | st.floats(0.5, 50)),
        "sinks": draw(st.none() | st.just(np.linspace(-2, 2, heads))),
        "bias": None if slopes is None else attnx.bias.ALiBi(slopes),
    }
    expected = attend(
        (query, key, value), key_lengths=lengths, query_offset=offsets,
        num_threads=draw(st.sampled_from(THREADS)), **options,
    )  # fmt: skip
    b, first = draw(st.integers(0, 2)), draw(st.integers(0, queries - 1))
    rows = slice(first, draw(st.integers(first + 1, queries)))
    cut = slice(0, draw(st.integers(int(lengths[b]), keys)))
    part = attend(
        (query[b : b + 1, :, rows], key[b : b + 1, :, cut], value[b : b + 1, :, cut]),
        key_lengths=lengths[b : b + 1],
        query_offset=int(offsets[b]) + first,
        **options,
    )
    assert_same_bits(part[0][0], expected[0][b, :, rows])
    assert_same_bits(part[1][0], expected[1][b, :, rows])
    assert_same_bits(part[2][0], expected[2][b, :, rows, cut])
