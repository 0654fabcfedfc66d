"""Which key a query sees: masks, causal order, lengths, empty rows, NaN that is seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import Array, assert_like_oracle, assert_same_bits, make_qkv
from numpy.typing import DTypeLike

import attnx

QUERIES, KEYS = 21, 67
SHAPES = [
    shape[start:]
    for shape in itertools.product((1, 2), (1, 4), (1, QUERIES), (1, KEYS))
    for start in range(4)
] + [()]


def both(args: tuple[Array, ...], mask: Array | None = None, **options: object) -> Array:
    """Run attention, hold it against the oracle, return the output."""
    out: Array = attnx.scaled_dot_product_attention(*args, mask, **options)
    assert_like_oracle("scaled_dot_product_attention", out, (*args, mask), **options)
    return out


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_of_every_broadcastable_shape(isa: str, dtype: DTypeLike, kind: str) -> None:
    rng = np.random.default_rng(0)
    args = make_qkv(QUERIES, KEYS, heads=4, kv_heads=2, dtype=dtype)
    for shape in sorted(set(SHAPES)):
        if kind == "bool":
            mask = np.asarray(rng.random(shape) < 0.7)
        else:
            mask = np.asarray(rng.standard_normal(shape)).astype(dtype)
            mask[rng.random(shape) < 0.2] = -np.inf
        both(args, mask)


@pytest.mark.parametrize("keys", [1, 4, 7, 16, 47, 48, 49, 128, 193])
def test_masks_with_every_other_restriction(isa: str, dtype: DTypeLike, keys: int) -> None:
    rng = np.random.default_rng(1)
    args = make_qkv(19, keys, dtype=dtype)
    bool_mask = rng.random((2, 1, 19, keys)) < 0.5
    float_mask = rng.standard_normal((19, keys)).astype(dtype)
    for mask in (bool_mask, float_mask):
        both(args, mask, is_causal=True, query_offset=keys - 19, key_lengths=[keys, keys // 2])


def test_a_float_mask_of_the_other_width(isa: str, dtype: DTypeLike) -> None:
    """It is rounded to the query's dtype; what is finite stays a number, without a warning."""
    other = np.float64 if dtype == np.float32 else np.float32
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    mask = np.random.default_rng(5).standard_normal((QUERIES, KEYS)).astype(np.float32)
    out = attnx.scaled_dot_product_attention(*args, mask.astype(other))
    assert_same_bits(out, attnx.scaled_dot_product_attention(*args, mask.astype(dtype)))
    mask = np.where(mask > 0, 0.0, np.finfo(other).min).astype(other)
    hidden = attnx.scaled_dot_product_attention(*args, mask)
    by_bool = attnx.scaled_dot_product_attention(*args, mask == 0)
    np.testing.assert_allclose(hidden, by_bool, rtol=0, atol=16 * np.finfo(dtype).eps)
    mask[...] = np.finfo(other).min
    out = attnx.scaled_dot_product_attention(*args, mask)
    mean = np.broadcast_to(args[2].mean(2, keepdims=True), out.shape)
    np.testing.assert_allclose(out, mean, atol=1e-6)


def test_mask_memory_does_not_matter(isa: str) -> None:
    args = make_qkv(QUERIES, KEYS)
    rng = np.random.default_rng(2)
    for mask in (rng.random((QUERIES, KEYS)) < 0.5, rng.standard_normal((QUERIES, KEYS))):
        if mask.dtype != bool:
            mask = mask.astype(np.float32)
        expected = attnx.scaled_dot_product_attention(*args, mask)
        wide = np.empty((QUERIES * 2, KEYS * 3), mask.dtype)
        wide[1::2, 2::3] = mask
        frozen = mask.copy()
        frozen.flags.writeable = False
        unaligned = np.empty(mask.nbytes + 1, np.uint8)[1:].view(mask.dtype).reshape(mask.shape)
        unaligned[...] = mask
        for same in (
            wide[1::2, 2::3],
            np.asfortranarray(mask),
            np.ascontiguousarray(mask[::-1, ::-1])[::-1, ::-1],
            np.broadcast_to(mask, (2, 2, QUERIES, KEYS)),
            frozen,
            unaligned,
        ):
            assert_same_bits(attnx.scaled_dot_product_attention(*args, same), expected)


def test_a_bool_mask_is_a_float_mask_of_zero_and_minus_infinity(isa: str) -> None:
    args = make_qkv(QUERIES, KEYS)
    seen = np.random.default_rng(3).random((QUERIES, KEYS)) < 0.6
    added = np.where(seen, 0.0, -np.inf).astype(np.float32)
    by_bool = attnx.scaled_dot_product_attention(*args, seen)
    by_float = attnx.scaled_dot_product_attention(*args, added)
    np.testing.assert_allclose(by_bool, by_float, rtol=0, atol=2e-6)


@pytest.mark.parametrize("keys", [1, 5, 16, 48, 67, 193])
@pytest.mark.parametrize("queries", [1, 3, 16, 49, 130])
def test_causal_aligns_top_left(isa: str, dtype: DTypeLike, queries: int, keys: int) -> None:
    args = make_qkv(queries, keys, dtype=dtype)
    out = both(args, is_causal=True)
    lower = np.tril(np.ones((queries, keys), bool))
    by_mask = attnx.scaled_dot_product_attention(*args, lower)
    np.testing.assert_allclose(out, by_mask, rtol=0, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    "offset", [0, 1, 46, KEYS, 1000, -1, -20, -21, -1000, [3, -3], [0, 46], [-25, 1000]]
)
def test_query_offset(isa: str, dtype: DTypeLike, offset: int | list[int]) -> None:
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    out = both(args, is_causal=True, query_offset=offset)
    for kind in (np.int32, np.int64, np.uint8):
        as_array = np.asarray(offset)
        if as_array.min() >= np.iinfo(kind).min and as_array.max() <= np.iinfo(kind).max:
            again = attnx.scaled_dot_product_attention(
                *args, is_causal=True, query_offset=as_array.astype(kind)
            )
            assert_same_bits(again, out)
    without = attnx.scaled_dot_product_attention(*args, query_offset=offset)
    assert_same_bits(without, attnx.scaled_dot_product_attention(*args))


@pytest.mark.parametrize("causal", [False, True])
def test_lengths(isa: str, dtype: DTypeLike, causal: bool) -> None:
    args = make_qkv(QUERIES, KEYS, batch=(2, 3), dtype=dtype)
    full = np.array([[0, 1, KEYS], [16, 17, 48]])
    rows = np.array([[QUERIES, 0, 1], [4, 20, QUERIES]])
    for key_lengths in (None, full, full[:, :1], full[0], 5, 0, np.uint8(9)):
        for query_lengths in (None, rows, rows[:1], 3):
            out = both(args, key_lengths=key_lengths, query_lengths=query_lengths, is_causal=causal)
            if query_lengths is not None:
                beyond = np.arange(QUERIES) >= np.asarray(query_lengths)[..., None]
                beyond = np.broadcast_to(beyond[..., None, :], (2, 3, 2, QUERIES))
                assert not out[beyond].any()


def test_lengths_of_arrays_without_a_batch(isa: str) -> None:
    for batch_and_heads in ({"batch": (), "heads": 3}, {"batch": (), "heads": None}):
        args = make_qkv(9, 30, **batch_and_heads)
        both(args, key_lengths=13, query_lengths=np.int64(4), is_causal=True, query_offset=2)


def test_rows_that_see_nothing_are_exactly_zero(isa: str, dtype: DTypeLike) -> None:
    query, key, value = make_qkv(6, 50, dtype=dtype)
    key[:, :, 0] = np.nan
    value[:, :, 1] = np.inf
    no_key = np.zeros((6, 50), bool)
    ways = (
        {"attn_mask": no_key},
        {"attn_mask": np.where(no_key, 0.0, -np.inf).astype(dtype)},
        {"key_lengths": 0},
        {"is_causal": True, "query_offset": -6},
        {"query_lengths": [0, 0]},
        {"attn_mask": np.arange(50) > 20, "key_lengths": 21},
    )
    for options in ways:
        out, lse = attnx.scaled_dot_product_attention(query, key, value, return_lse=True, **options)
        assert_same_bits(out, np.zeros_like(out))
        assert_same_bits(lse, np.full_like(lse, -np.inf))
        weights = attnx.attention_weights(query, key, **options)
        assert_same_bits(weights, np.zeros_like(weights))


def test_an_empty_row_among_others(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(40, 200, dtype=dtype)
    mask = np.random.default_rng(4).random((40, 200)) < 0.5
    mask[[0, 7, 39]] = False
    out, lse = attnx.scaled_dot_product_attention(*args, mask, return_lse=True)
    assert_like_oracle("scaled_dot_product_attention", out, (*args, mask))
    assert_same_bits(out[:, :, [0, 7, 39]], np.zeros_like(out[:, :, :3]))
    assert np.isneginf(lse[:, :, [0, 7, 39]]).all()
    assert np.isfinite(lse[:, :, 1:7]).all()


@pytest.mark.parametrize("queries", [1, 7, 33])
@pytest.mark.parametrize("where", ["query", "key", "value", "mask"])
def test_a_visible_nan_stays_in_its_rows(
    isa: str, dtype: DTypeLike, where: str, queries: int
) -> None:
    args = make_qkv(queries, 60, heads=1, dtype=dtype)
    mask = np.zeros((queries, 60), dtype)
    clean = attnx.scaled_dot_product_attention(*args, mask, is_causal=True, query_offset=20)
    row, key = queries // 2, 20 + queries // 2
    if where == "mask":
        mask[row, key] = np.nan
    elif where == "query":
        args[0][0, 0, row, 3] = np.nan
    else:
        args["query key value".split().index(where)][0, 0, key] = np.nan
    hit = np.zeros(clean.shape[:-1], bool)
    if where in ("query", "mask"):
        hit[: 1 if where == "query" else None, 0, row] = True
    else:
        hit[0, 0, row:] = True
    out, lse = attnx.scaled_dot_product_attention(
        *args, mask, is_causal=True, query_offset=20, return_lse=True
    )
    assert np.isnan(out[hit]).all()
    assert_same_bits(out[~hit], clean[~hit])
    assert np.isfinite(lse[~hit]).all()
    if where != "value":
        assert np.isnan(lse[hit]).all()
        weights = attnx.attention_weights(*args[:2], mask, is_causal=True, query_offset=20)
        assert np.isnan(weights[hit]).any(-1).all()
        assert np.isfinite(weights[~hit]).all()


def test_nan_in_one_column_of_a_value(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(5, 60, dtype=dtype)
    args[2][0, 0, 30, 2] = np.nan
    args[2][0, 1, 30, 3] = np.inf
    out = attnx.scaled_dot_product_attention(*args)
    assert np.isnan(out[0, 0, :, 2]).all()
    assert np.isposinf(out[0, 1, :, 3]).all()
    assert np.isfinite(out).sum() == out.size - 10


def test_the_smallest_float_in_a_mask_is_a_number(isa: str, dtype: DTypeLike) -> None:
    """As in PyTorch: finfo.min hides a key beside others; alone, it is softmax as ever."""
    args = make_qkv(4, 50, dtype=dtype)
    mask = np.zeros((4, 50), dtype)
    mask[:, 20:] = np.finfo(dtype).min
    out = attnx.scaled_dot_product_attention(*args, mask)
    by_bool = attnx.scaled_dot_product_attention(*args, mask > -1)
    np.testing.assert_allclose(out, by_bool, rtol=0, atol=16 * np.finfo(dtype).eps)
    mean = np.broadcast_to(args[2].mean(2, keepdims=True), out.shape)
    for low in (np.finfo(dtype).min, np.finfo(dtype).min / 2, -1e30):
        mask[...] = low
        out, lse = attnx.scaled_dot_product_attention(*args, mask, return_lse=True)
        np.testing.assert_allclose(out, mean, atol=1e-6)
        np.testing.assert_allclose(lse, np.full_like(lse, low), rtol=1e-6)
