"""Summaries bit for bit: what they do not depend on, and what a query cannot see changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import HALVES, Array, assert_same_bits, make_qkv
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from test_invariance import CASES, THREADS, inputs
from test_poison import KEYS, POISON, QUERIES, visibility, ways

import attnx

ROWS = ("lse", "output", "entropy", "top_weights", "top_indices", "rows")


def summary(args: tuple[Array, ...], **options: Any) -> dict[str, Array]:
    """Return all that a summary can have, by name."""
    asked = {"top_k": 7, "entropy": True, "received": True, "rows": [0, -1]} | options
    found = attnx.attention_summary(*args, **asked)._asdict()
    del found["num_keys"]
    return found


def assert_all_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, x in found.items():
        assert_same_bits(x, expected[name])


@pytest.mark.parametrize("case", CASES)
def test_threads(isa: str, dtype: DTypeLike, case: str) -> None:
    """Fewer tasks than threads, more, and keys and queries cut accordingly."""
    for batch, heads in (((3,), slice(0, 4)), ((1,), slice(0, 2))):
        query, key, value = inputs(dtype, batch=batch)
        args = (query[:, heads], key[:, : heads.stop // 2], value[:, : heads.stop // 2])
        options = dict(CASES[case])
        if heads.stop == 2:
            options = {n: x for n, x in options.items() if n not in ("bias", "sinks")}
        expected = summary(args, num_threads=1, **options)
        for threads in THREADS[1:]:
            assert_all_same(summary(args, num_threads=threads, **options), expected)


@pytest.mark.parametrize("queries", [1, 3, 200])
def test_threads_on_long_rows(isa: str, queries: int) -> None:
    """Keys in many blocks, so that they are cut in all the ways that there are."""
    args = make_qkv(queries, 3000, batch=(), heads=1)
    for count in (7, 40):
        expected = summary(args, top_k=count, num_threads=1)
        for threads in THREADS[1:]:
            assert_all_same(summary(args, top_k=count, num_threads=threads), expected)


@pytest.mark.parametrize("case", CASES)
def test_batch_and_position_in_it(isa: str, dtype: DTypeLike, case: str) -> None:
    args = inputs(dtype)
    expected = summary(args, **CASES[case])
    for first, count in ((0, 1), (7, 1), (3, 2)):
        rows = slice(first, first + count)
        found = summary(tuple(x[rows] for x in args), **CASES[case])
        assert_all_same(found, {name: x[rows] for name, x in expected.items()})


def test_heads(isa: str, dtype: DTypeLike) -> None:
    """Each head's received weight is its own, whatever else shares its keys."""
    query, key, value = inputs(dtype, batch=(2,))
    expected = summary((query, key, value))
    assert_all_same(summary((query, key.repeat(2, 1), value.repeat(2, 1))), expected)
    for h in range(4):
        one, group = slice(h, h + 1), slice(h // 2, h // 2 + 1)
        alone = summary((query[:, one], key[:, group], value[:, group]))
        assert_all_same(alone, {name: x[:, one] for name, x in expected.items()})


@pytest.mark.parametrize("length", [1, 16, 48, 127, 128, 129, 230])
def test_padding(isa: str, dtype: DTypeLike, length: int) -> None:
    """Keys and queries past their lengths might as well not be there."""
    query, key, value = inputs(dtype, batch=(2,))
    for queries in (1, 3, 70):
        expected = summary((query[:, :, :queries], key[:, :, :length], value[:, :, :length]))
        lengths = {"key_lengths": length, "query_lengths": queries, "rows": [0, queries - 1]}
        padded = summary((query, key, value), **lengths)
        assert not padded["received"][..., length:].any()
        assert not padded["rows"][..., length:].any()
        assert_same_bits(padded["received"][..., :length], expected["received"])
        assert_same_bits(padded["rows"][..., :length], expected["rows"])
        for name in ROWS[:-1]:
            assert_same_bits(padded[name][:, :, :queries], expected[name])


@pytest.mark.parametrize("chunk", [1, 2, 7, 24, 48])
def test_chunks_of_queries(isa: str, dtype: DTypeLike, chunk: int) -> None:
    query, key, value = inputs(dtype, batch=(2,))
    expected = summary((query, key, value), is_causal=True, query_offset=100)
    for first in range(0, 70, chunk):
        rows = slice(first, min(first + chunk, 70))
        part = (query[:, :, rows], key, value)
        found = summary(part, is_causal=True, query_offset=100 + first)
        for name in ROWS[:-1]:
            assert_same_bits(found[name], expected[name][:, :, rows])


def test_asking_for_more_changes_nothing(isa: str, dtype: DTypeLike) -> None:
    args = inputs(dtype, batch=(2,))
    expected = summary(args)
    many = attnx.attention_summary(*args, top_k=100)  # heaps, where the others have lists
    few = attnx.attention_summary(*args, top_k=2, received=True)
    for found, count in ((many, 7), (few, 2)):
        for name in ("top_indices", "top_weights"):
            x = getattr(found, name)[..., :count]
            assert_same_bits(x.copy(), expected[name][..., :count].copy())
    assert_same_bits(few.received, expected["received"])


@pytest.mark.parametrize("half", HALVES, ids=lambda t: np.dtype(t).name)
def test_alignment_and_storage(isa: str, half: DTypeLike) -> None:
    for dtype in (half, np.float32):
        args = inputs(half, batch=(2,))
        args = (args[0].astype(dtype), *args[1:])
        expected = summary(args, num_threads=1)
        moved = []
        for x in args:
            room = np.empty(x.size + 3, x.dtype)[3:].reshape(x.shape)
            room[...] = x
            moved.append(room)
        assert_all_same(summary(tuple(moved)), expected)


@pytest.mark.parametrize("way", ways(2, np.float32))
@pytest.mark.parametrize("queries", [1, 7, QUERIES])
def test_keys_that_nobody_sees(isa: str, dtype: DTypeLike, queries: int, way: str) -> None:
    args = make_qkv(queries, KEYS, dtype=dtype)
    options = ways(queries, dtype)[way] | {"top_k": 40 if queries == 7 else 7}
    expected = summary(args, **options)
    hidden = ~visibility(args, ways(queries, dtype)[way]).any(axis=2)
    assert hidden.any(), "the way hides nothing"
    assert not expected["received"][hidden].any()
    for bad in POISON:
        with np.errstate(over="ignore"):
            args[1][hidden] = args[2][hidden] = np.array(bad, dtype)
        assert_all_same(summary(args, **options), expected)


@pytest.mark.parametrize("way", ways(2, np.float32))
@pytest.mark.parametrize("position", [0, 5, 48, 128, KEYS - 1])
def test_a_key_that_some_do_not_see(isa: str, dtype: DTypeLike, position: int, way: str) -> None:
    """Who does not see the poison keeps all its bits, and so do keys that no poisoned query sees."""
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    options = ways(QUERIES, dtype)[way]
    seen = visibility(args, options)
    options["top_k"] = 40 if position % 2 else 7
    expected = summary(args, **options)
    blind = ~seen[..., position]
    args[1][:, :, position, 3] = np.nan
    args[2][:, :, position, 5] = np.inf
    found = summary(args, **options)
    for name in ROWS[:-1]:
        assert_same_bits(found[name][blind], expected[name][blind])
    safe = ~(seen & ~blind[..., None]).any(axis=2)
    assert_same_bits(found["received"][safe], expected["received"][safe])
    assert np.isnan(found["received"][~safe]).all()


def test_poisoned_queries_past_their_length(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    options = {"query_lengths": [20, 1]}
    expected = summary(args, **options)
    args[0][0, :, 20:] = args[0][1, :, 1:] = np.nan
    assert_all_same(summary(args, **options), expected)


@given(data=st.data())
def test_any_part_of_any_call(isa: str, data: st.DataObject) -> None:
    """A batch row, fewer threads, more padding: the same bits."""
    draw = data.draw
    queries, keys = draw(st.integers(1, 60)), draw(st.integers(1, 600))
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 3))
    query, key, value = make_qkv(
        queries, keys, draw(st.integers(1, 40)), batch=(3,), heads=heads, kv_heads=kv_heads,
        dtype=draw(st.sampled_from([np.float32, np.float64, *HALVES])),
    )  # fmt: skip
    lengths = np.array(draw(st.lists(st.integers(0, keys), min_size=3, max_size=3)))
    offsets = np.array(draw(st.lists(st.integers(-3, keys), min_size=3, max_size=3)))
    options = {
        "is_causal": draw(st.booleans()),
        "window": draw(st.none() | st.tuples(st.integers(0, keys), st.none() | st.integers(0, 9))),
        "softcap": draw(st.none() | st.floats(0.5, 50)),
        "sinks": draw(st.none() | st.just(np.linspace(-2, 2, heads))),
        "top_k": draw(st.integers(1, 9) | st.integers(31, 50)),
    }
    expected = summary(
        (query, key, value), key_lengths=lengths, query_offset=offsets,
        num_threads=draw(st.sampled_from(THREADS)), **options,
    )  # fmt: skip
    b = draw(st.integers(0, 2))
    cut = slice(0, draw(st.integers(int(lengths[b]), keys)))
    part = summary(
        (query[b : b + 1], key[b : b + 1, :, cut], value[b : b + 1, :, cut]),
        key_lengths=lengths[b : b + 1], query_offset=int(offsets[b]), **options,
    )  # fmt: skip
    for name, x in part.items():
        wanted = expected[name][b]
        assert_same_bits(x[0], wanted[..., cut] if name in ("received", "rows") else wanted)
