"""attention_summary against the whole matrix of weights, made by the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import (
    HALVES,
    SIZES,
    Array,
    assert_same_bits,
    assert_within,
    computed_in,
    make_qkv,
    score_bound,
    tolerance,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from test_options import draw_call

import attnx
from attnx.reference_summary import attention_summary as oracle
from attnx.summary import AttentionSummary

ALL: dict[str, Any] = {"entropy": True, "received": True}


def assert_like_matrix(
    found: AttentionSummary, args: tuple[Any, ...], *, asked: dict[str, Any], **options: Any
) -> None:
    """Hold everything that a summary has against the matrix of the call."""
    dtype = computed_in(args[0].dtype)
    wide = np.float64 if dtype == np.float32 else np.longdouble
    rows = () if asked.get("rows") is None else asked["rows"]
    wanted = {"top_k": asked.get("top_k", 0), "rows": rows}
    truth = oracle(*args, **wanted, dtype=wide, **options)
    plain = oracle(*args, **wanted, dtype=dtype, **options)
    scores = score_bound(args[0], args[1], options)
    for name in ("entropy", "received", "rows", "lse"):
        actual = getattr(found, name)
        if name == "lse" or asked.get(name) not in (None, False):
            assert actual.dtype == dtype
            finite = np.abs(truth[name][np.isfinite(truth[name])])
            size = max(1.0, float(finite.max(initial=1.0)))
            bound = tolerance(
                dtype, truth[name], plain[name], length=1, value_max=size, score_max=scores
            )
            assert_within(actual, truth[name], bound)
        else:
            assert actual is None
    if wanted["top_k"]:
        assert_largest(found, truth, plain, scores)
    else:
        assert found.top_indices is None
        assert found.top_weights is None


def assert_largest(
    found: AttentionSummary, truth: dict[str, Array], plain: dict[str, Array], scores: float
) -> None:
    """Hold the largest weights: as many as there are, where they are, in order, and truly the largest."""
    keys, weights = found.top_indices, found.top_weights
    assert keys is not None
    assert weights is not None
    assert keys.dtype == np.int64
    there = keys >= 0
    np.testing.assert_array_equal(there, truth["top_indices"] >= 0)
    assert not weights[~there].any()
    assert (keys[~there] == -1).all()
    at = np.where(there, keys, 0)
    if truth["weights"].size:
        assert np.take_along_axis(truth["seen"], at, -1)[there].all()
        bound = tolerance(
            weights.dtype, truth["weights"], plain["weights"], length=1, value_max=1.0,
            score_max=scores,
        )  # fmt: skip
        mine = np.where(there, np.take_along_axis(truth["weights"], at, -1), 0)
        assert_within(weights, mine, bound)
        assert_within(weights, truth["top_weights"], bound)
    falling = (weights[..., :-1] > weights[..., 1:]) | np.isnan(weights[..., 1:])
    tied = weights[..., :-1] == weights[..., 1:]
    later = (keys[..., :-1] < keys[..., 1:]) | (keys[..., 1:] < 0)
    assert (falling | (tied & later)).all()
    distinct = np.sort(keys, axis=-1)
    assert ((distinct[..., :-1] < distinct[..., 1:]) | (distinct[..., 1:] < 0)).all()


@settings(max_examples=max(500, settings().max_examples))
@given(data=st.data())
def test_any_call(isa: str, data: st.DataObject) -> None:
    """Every option with every other: with two instruction sets, 1,000 cases."""
    draw = data.draw
    args, options = draw_call(draw)
    truth = oracle(*args[:2], **options)
    length, keys = truth["weights"].shape[-2:]
    asked = {
        "top_k": draw(st.integers(0, 5) | st.integers(0, keys + 3)),
        "entropy": draw(st.booleans()),
        "received": draw(st.booleans()),
        "rows": draw(st.none() | st.lists(st.integers(-length, length - 1), max_size=4))
        if length
        else None,
    }
    mask = options.pop("attn_mask", None)
    threads = draw(st.sampled_from([None, 1, 2, 3]))
    with_value = draw(st.booleans())
    mine = (*args[:2], args[2] if with_value else None, mask)
    found = attnx.attention_summary(*mine, num_threads=threads, **asked, **options)
    assert_like_matrix(found, mine, asked=asked, **options)
    plain = attnx.scaled_dot_product_attention(*args, mask, return_lse=True, **options)
    assert_same_bits(found.lse, plain[1])
    if with_value:
        assert_same_bits(found.output, plain[0])
    else:
        assert found.output is None


@pytest.mark.parametrize("keys", SIZES)
def test_number_of_keys(isa: str, dtype: DTypeLike, keys: int) -> None:
    for queries in (1, 5, 50):
        args = make_qkv(queries, keys, dtype=dtype, heads=4, kv_heads=2)
        asked = ALL | {"top_k": 5, "rows": [0, -1]}
        found = attnx.attention_summary(*args, **asked)
        assert_like_matrix(found, args, asked=asked)


@pytest.mark.parametrize("queries", SIZES)
def test_number_of_queries(isa: str, dtype: DTypeLike, queries: int) -> None:
    for keys in (1, 21, 130):
        args = make_qkv(queries, keys, dtype=dtype)
        options = {"is_causal": True, "query_offset": keys - queries}
        found = attnx.attention_summary(*args, top_k=3, **ALL, **options)
        assert_like_matrix(found, args, asked=ALL | {"top_k": 3}, **options)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 64, 299, 300, 301, 400])
def test_any_number_of_largest_weights(isa: str, dtype: DTypeLike, count: int) -> None:
    args = make_qkv(11, 300, dtype=dtype)
    for options in ({}, {"key_lengths": [0, 171]}, {"window": (5, 2)}):
        found = attnx.attention_summary(*args, top_k=count, **options)
        assert found.top_indices is not None
        assert found.top_indices.shape == (2, 2, 11, count)
        assert_like_matrix(found, args, asked={"top_k": count}, **options)


def test_queries_that_see_nothing(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(4, 6, dtype=dtype)
    mask = np.ones((4, 6), bool)
    mask[1] = False
    asked = {"top_k": 8, "entropy": True, "received": True, "rows": [1, 2, 3]}
    found = attnx.attention_summary(*args, mask, query_lengths=[4, 3], **asked)
    for nothing in ((slice(None), slice(None), 1), (1, slice(None), 3)):
        assert np.isneginf(found.lse[nothing]).all()
        assert not found.entropy[nothing].any()
        assert not found.top_weights[nothing].any()
        assert (found.top_indices[nothing] == -1).all()
        assert not found.output[nothing].any()
    assert not found.rows[:, :, 0].any()
    assert not found.rows[1, :, 2].any()
    assert_like_matrix(found, (*args, mask), asked=asked, query_lengths=[4, 3])


@pytest.mark.parametrize("half", HALVES, ids=lambda t: np.dtype(t).name)
def test_16_bits(isa: str, half: DTypeLike) -> None:
    args = make_qkv(30, 140, dtype=half)
    asked = ALL | {"top_k": 4, "rows": [3]}
    for dtype in (half, np.float32):
        mine = (args[0].astype(dtype), *args[1:])
        found = attnx.attention_summary(*mine, **asked)
        assert found.output.dtype == dtype
        assert found.top_weights.dtype == np.float32
        assert_like_matrix(found, mine, asked=asked)


def test_layouts_and_two_axes(isa: str) -> None:
    args = make_qkv(5, 9, heads=3)
    asked = ALL | {"top_k": 2, "rows": [4, 0]}
    expected = attnx.attention_summary(*args, **asked)
    swapped = tuple(x.swapaxes(1, 2) for x in args)
    found = attnx.attention_summary(*swapped, layout="blhd", **asked)
    for name in ("top_indices", "top_weights", "entropy", "received", "rows", "lse"):
        assert_same_bits(getattr(found, name), getattr(expected, name))
    assert_same_bits(found.output.swapaxes(1, 2), expected.output)
    alone = attnx.attention_summary(*(x[1, 2] for x in args), **asked)
    for name, x in alone._asdict().items():
        if name != "num_keys":
            assert_same_bits(x, getattr(expected, name)[1, 2])


@pytest.mark.parametrize("shape", [(0, 2, 3, 5), (2, 0, 3, 5), (2, 2, 0, 5), (2, 2, 3, 0)])
def test_empty_arrays(isa: str, shape: tuple[int, int, int, int]) -> None:
    batch, heads, queries, keys = shape
    query, key = np.ones((batch, heads, queries, 4)), np.ones((batch, heads, keys, 4))
    rows = [0] if queries else []
    for value in (None, np.ones((batch, heads, keys, 0)), key):
        found = attnx.attention_summary(query, key, value, top_k=2, rows=rows, **ALL)
        assert found.top_indices.shape == found.top_weights.shape == (batch, heads, queries, 2)
        assert found.entropy.shape == found.lse.shape == (batch, heads, queries)
        assert found.received.shape == (batch, heads, keys)
        assert found.rows.shape == (batch, heads, len(rows), keys)
        assert not found.received.any()
        if not keys:
            assert (found.top_indices == -1).all()
            assert np.isneginf(found.lse).all()
            assert not found.entropy.any()


def test_a_head_dim_of_zero(isa: str) -> None:
    query, key = np.ones((1, 3, 0), np.float32), np.ones((1, 4, 0), np.float32)
    found = attnx.attention_summary(query, key, top_k=2, **ALL)
    np.testing.assert_allclose(found.entropy, np.full((1, 3), np.log(4)), rtol=1e-6)
    np.testing.assert_allclose(found.received, np.full((1, 4), 0.75), rtol=1e-6)


def test_rows_are_those_of_the_matrix(isa: str, dtype: DTypeLike) -> None:
    query, key, _ = make_qkv(30, 70, dtype=dtype, heads=4, kv_heads=2)
    options = {
        "attn_mask": np.random.default_rng(0).random((2, 1, 30, 70)) < 0.7,
        "bias": np.random.default_rng(1).standard_normal((4, 30, 70)).astype(dtype),
        "query_offset": [3, -5],
        "window": (40, 10),
        "query_lengths": [30, 11],
    }
    rows = [0, 29, 11, 10, -1, -30, 5, 5, 6, 7, 8, 9, 10, 11, 12]
    matrix = attnx.attention_weights(query, key, **options)
    found = attnx.attention_summary(query, key, rows=np.array(rows, np.int8), **options)
    assert_same_bits(found.rows, np.ascontiguousarray(matrix[:, :, rows]))


def test_only_what_was_asked_for(isa: str) -> None:
    args = make_qkv(3, 4)
    names = ("top_indices", "top_weights", "entropy", "received", "rows")
    full = attnx.attention_summary(*args, top_k=2, rows=[1], **ALL)
    for asked, has in (
        ({}, ()),
        ({"top_k": 2}, names[:2]),
        ({"entropy": True}, ("entropy",)),
        ({"received": True}, ("received",)),
        ({"rows": [1]}, ("rows",)),
        ({"rows": []}, ("rows",)),
    ):
        found = attnx.attention_summary(*args[:2], **asked)
        assert [n for n in names if getattr(found, n) is not None] == list(has)
        assert found.output is None
        assert_same_bits(found.lse, full.lse)
        for name in has:
            if asked != {"rows": []}:
                assert_same_bits(getattr(found, name), getattr(full, name))
    assert repr(full).startswith("AttentionSummary(top_indices=(2, 2, 3, 2), ")
    assert "entropy" not in repr(found)
