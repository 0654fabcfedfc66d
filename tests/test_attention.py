"""scaled_dot_product_attention and attention_weights: values against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SIZES, assert_like_oracle, assert_same_bits, make_qkv
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx
from attnx import reference

HEAD_DIMS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 40, 64, 72, 80, 96, 112, 128, 256)


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("keys", SIZES)
def test_number_of_keys(isa: str, dtype: DTypeLike, layout: str, keys: int) -> None:
    for queries in (1, 5, 50):
        args = make_qkv(queries, keys, dtype=dtype, layout=layout)
        out = attnx.scaled_dot_product_attention(*args, layout=layout)
        assert out.dtype == dtype
        assert_like_oracle("scaled_dot_product_attention", out, args, layout=layout)


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("queries", SIZES)
def test_number_of_queries(isa: str, dtype: DTypeLike, layout: str, queries: int) -> None:
    for keys in (1, 21, 130):
        args = make_qkv(queries, keys, dtype=dtype, layout=layout)
        out = attnx.scaled_dot_product_attention(*args, layout=layout)
        assert_like_oracle("scaled_dot_product_attention", out, args, layout=layout)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_head_dims(isa: str, dtype: DTypeLike, head_dim: int) -> None:
    for queries, keys, causal in ((1, 53, False), (6, 53, False), (53, 53, True)):
        args = make_qkv(queries, keys, head_dim, dtype=dtype)
        out = attnx.scaled_dot_product_attention(*args, is_causal=causal)
        assert_like_oracle("scaled_dot_product_attention", out, args, is_causal=causal)


@pytest.mark.parametrize("value_dim", HEAD_DIMS)
def test_value_dims(isa: str, dtype: DTypeLike, value_dim: int) -> None:
    for queries in (1, 19):
        args = make_qkv(queries, 37, 24, value_dim=value_dim, dtype=dtype)
        out = attnx.scaled_dot_product_attention(*args)
        assert_like_oracle("scaled_dot_product_attention", out, args)


@pytest.mark.parametrize("queries", [1, 2, 8, 9, 50])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 1), (6, 2), (6, 3), (12, 4), (16, 1)])
def test_grouped_heads(isa: str, dtype: DTypeLike, heads: int, kv_heads: int, queries: int) -> None:
    args = make_qkv(queries, 70, heads=heads, kv_heads=kv_heads, dtype=dtype)
    for layout in ("bhld", "blhd"):
        if layout == "blhd":
            args = tuple(np.ascontiguousarray(np.swapaxes(x, 1, 2)) for x in args)
        out, lse = attnx.scaled_dot_product_attention(
            *args, is_causal=True, query_offset=70 - queries, layout=layout, return_lse=True
        )
        options = {"is_causal": True, "query_offset": 70 - queries, "layout": layout}
        assert_like_oracle("scaled_dot_product_attention", out, args, **options)
        assert lse.shape == (2, heads, queries)


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5, 3.0, 1e-30, np.float32(0.25)])
def test_scale(isa: str, dtype: DTypeLike, scale: float) -> None:
    args = make_qkv(9, 65, dtype=dtype)
    out = attnx.scaled_dot_product_attention(*args, scale=scale)
    assert_like_oracle("scaled_dot_product_attention", out, args, scale=scale)
    if scale == 0:
        np.testing.assert_allclose(
            out, np.broadcast_to(args[2].mean(2, keepdims=True), out.shape), atol=1e-6
        )


@pytest.mark.parametrize("keys", [1, 2, 16, 17, 48, 49, 129, 193, 400])
def test_log_sum_exp(isa: str, dtype: DTypeLike, keys: int) -> None:
    args = make_qkv(11, keys, dtype=dtype)
    for options in ({}, {"is_causal": True}, {"key_lengths": [0, keys]}):
        out, lse = attnx.scaled_dot_product_attention(*args, return_lse=True, **options)
        truth = reference.scaled_dot_product_attention(*args, return_lse=True, **options)[1]
        assert lse.dtype == dtype
        assert lse.shape == (2, 2, 11)
        np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(truth))
        seen = np.isfinite(truth)
        bound = 8 * np.finfo(dtype).eps * max(4.0, np.abs(truth[seen]).max(initial=0.0))
        np.testing.assert_allclose(lse[seen], truth[seen], rtol=0, atol=bound)
        alone = attnx.scaled_dot_product_attention(*args, **options)
        assert_same_bits(out, alone)


def test_lse_of_blhd_keeps_heads_first(isa: str) -> None:
    args = make_qkv(5, 9, heads=3, layout="blhd")
    _, lse = attnx.scaled_dot_product_attention(*args, layout="blhd", return_lse=True)
    heads_first = tuple(np.swapaxes(x, 1, 2) for x in args)
    _, expected = attnx.scaled_dot_product_attention(*heads_first, return_lse=True)
    assert lse.shape == (2, 3, 5)
    assert_same_bits(lse, expected)


@pytest.mark.parametrize("queries", [1, 4, 17, 50])
@pytest.mark.parametrize("keys", [1, 8, 17, 49, 130, 260])
def test_weights(isa: str, dtype: DTypeLike, queries: int, keys: int) -> None:
    query, key, _ = make_qkv(queries, keys, heads=4, kv_heads=2, dtype=dtype)
    mask = np.random.default_rng(1).random((queries, keys)) < 0.7
    for options in (
        {},
        {"is_causal": True, "query_offset": keys - queries},
        {"key_lengths": [keys // 2, keys]},
        {"query_lengths": [queries // 2, queries], "scale": 0.3},
    ):
        for attn_mask in (None, mask):
            weights = attnx.attention_weights(query, key, attn_mask, **options)
            assert weights.dtype == dtype
            assert_like_oracle("attention_weights", weights, (query, key, attn_mask), **options)
            sums = weights.sum(-1, dtype=np.float64)
            assert np.all((np.abs(sums - 1) < 64 * np.finfo(dtype).eps) | (sums == 0))


def test_weights_in_either_layout_and_two_axes(isa: str) -> None:
    query, key, _ = make_qkv(5, 9, heads=3)
    expected = attnx.attention_weights(query, key)
    swapped = (np.swapaxes(query, 1, 2), np.swapaxes(key, 1, 2))
    assert_same_bits(attnx.attention_weights(*swapped, layout="blhd"), expected)
    assert_same_bits(attnx.attention_weights(query[0, 1], key[0, 1]), expected[0, 1])


def test_weights_of_a_query_equal_its_row(isa: str, dtype: DTypeLike) -> None:
    query, key, _ = make_qkv(33, 70, dtype=dtype)
    whole = attnx.attention_weights(query, key, is_causal=True)
    for i in (0, 1, 16, 32):
        row = attnx.attention_weights(query[:, :, i : i + 1], key, is_causal=True, query_offset=i)
        assert_same_bits(row, whole[:, :, i : i + 1])


@pytest.mark.parametrize("size", [1e-30, 1e-4, 1e4, 1e15])
def test_scores_of_any_size(isa: str, dtype: DTypeLike, size: float) -> None:
    """Scores up to 1e30: the largest wins, ties share, nothing overflows."""
    query = np.full((1, 3, 4), size, dtype)
    key = np.repeat(np.array([1, 1, 0.5, -1, -1], dtype) * size, 4).reshape(1, 5, 4)
    value = np.arange(10, dtype=dtype).reshape(1, 5, 2)
    out = attnx.scaled_dot_product_attention(query, key, value, scale=0.25)
    truth = reference.scaled_dot_product_attention(query, key, value, scale=0.25)
    np.testing.assert_allclose(out, truth, rtol=64 * np.finfo(dtype).eps)
    if size > 1:
        np.testing.assert_allclose(out, np.broadcast_to([1, 2], out.shape), rtol=1e-6)


def test_all_scores_hugely_negative(isa: str, dtype: DTypeLike) -> None:
    """A finite stand-in for 'masked' would lose these rows; they are ordinary rows."""
    query = np.full((1, 2, 1), -1e15, dtype)
    key = np.array([1e15, 0.9e15, 1.0e15], dtype).reshape(1, 3, 1)
    value = np.array([1.0, 7.0, 3.0], dtype).reshape(1, 3, 1)
    out, lse = attnx.scaled_dot_product_attention(query, key, value, scale=1.0, return_lse=True)
    np.testing.assert_array_equal(out, np.full((1, 2, 1), 7.0, dtype))
    np.testing.assert_allclose(lse, np.full((1, 2), -0.9e30), rtol=1e-6)


def test_an_inner_product_beyond_the_keys_is_not_seen(isa: str) -> None:
    """One key: its weight is exactly 1 and the value comes back bit for bit."""
    query, key, value = make_qkv(7, 1, 64, value_dim=33)
    out = attnx.scaled_dot_product_attention(query, key, value)
    assert_same_bits(out, np.broadcast_to(value, out.shape))


@given(data=st.data())
def test_any_shape_and_options(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    queries, keys = draw(st.integers(0, 70)), draw(st.integers(0, 210))
    group, kv_heads = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    layout = draw(st.sampled_from(["bhld", "blhd"]))
    args = make_qkv(
        queries,
        keys,
        draw(st.integers(1, 70)),
        batch=(2,),
        heads=group * kv_heads,
        kv_heads=kv_heads,
        value_dim=draw(st.integers(1, 70)),
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        layout=layout,
        seed=draw(st.integers(0, 99)),
    )
    options = {"layout": layout, "is_causal": draw(st.booleans())}
    lengths = st.lists(st.integers(0, keys), min_size=2, max_size=2)
    offsets = st.lists(st.integers(-keys - 2, keys + 2), min_size=2, max_size=2)
    options["key_lengths"] = draw(st.none() | st.integers(0, keys) | lengths)
    options["query_offset"] = draw(st.integers(-4, keys) | offsets)
    options["query_lengths"] = draw(st.none() | st.integers(0, queries))
    mask = None
    if draw(st.booleans()):
        mask = np.random.default_rng(queries).random((queries, keys)) < 0.6
    out = attnx.scaled_dot_product_attention(*args, mask, **options)
    assert_like_oracle("scaled_dot_product_attention", out, (*args, mask), **options)


@given(data=st.data())
def test_plain_call_has_the_bits_of_one_with_options(dtype: DTypeLike, data: st.DataObject) -> None:
    """A call without options is checked in C; an explicit scale takes the same call through Python's checks."""
    axes = data.draw(st.lists(st.integers(1, 3), max_size=2), "batch")
    groups, group = data.draw(st.integers(1, 3), "groups"), data.draw(st.integers(1, 3), "group")
    rows, keys, dim, value_dim = (data.draw(st.integers(1, 20)) for _ in range(4))
    rows_first, causal = data.draw(st.booleans(), "rows first"), data.draw(st.booleans(), "causal")
    random = np.random.default_rng(0)

    def made(heads: int, length: int, items: int) -> np.ndarray:
        shape = (length, heads, items) if rows_first else (heads, length, items)
        spread = random.standard_normal((*axes, 2 * shape[0], *shape[1:])).astype(dtype)
        return spread[..., ::2, :, :]  # rows with gaps

    args = (made(groups * group, rows, dim), made(groups, keys, dim), made(groups, keys, value_dim))
    options = {"layout": "blhd" if rows_first else "bhld", "is_causal": causal}
    wanted = attnx.scaled_dot_product_attention(*args, scale=1 / np.sqrt(dim), **options)
    assert_same_bits(attnx.scaled_dot_product_attention(*args, **options), wanted)
    out = np.full(wanted.shape, np.nan, dtype)
    assert attnx.scaled_dot_product_attention(*args, out=out, **options) is out
    assert_same_bits(out, wanted)
    with pytest.raises(ValueError, match="out must not overlap"):
        attnx.scaled_dot_product_attention(wanted, wanted, wanted, out=wanted, layout="bhld")
