"""additive_attention against the oracle: sizes, types, masks, the ways a score is computed, bad input."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import HALVES, Array, assert_within, computed_in, tolerance
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx
from attnx import reference_additive

Args = tuple[Array, Array, Array, Array]


def draw(
    queries: int,
    keys: int,
    units: int = 24,
    *,
    batch: tuple[int, ...] = (2,),
    value_dim: int = 16,
    dtype: DTypeLike = np.float32,
    size: float = 1.0,
    seed: int = 0,
) -> Args:
    """Return query, key, value and score weight; `size` scales query and key."""
    rng = np.random.default_rng([seed, queries, keys, units])
    query = rng.standard_normal((*batch, queries, units)) * size
    key = rng.standard_normal((*batch, keys, units)) * size
    value = rng.standard_normal((*batch, keys, value_dim))
    weight = rng.standard_normal(units) / max(units, 1) ** 0.5
    return query.astype(dtype), key.astype(dtype), value.astype(dtype), weight.astype(dtype)


def assert_like_oracle(args: Args, *, strict: bool = False, **options: Any) -> Array:
    """Hold output and weights within rule 9 of float64 (longdouble for float64); return the output."""
    out, weights = attnx.additive_attention(*args, return_weights=True, **options)
    dtype = computed_in(args[0].dtype)
    assert out.dtype == weights.dtype == args[0].dtype
    one_up = np.float64 if dtype == np.float32 else np.longdouble
    truths, plains = (
        reference_additive.additive_attention(*args, dtype=t, return_weights=True, **options)
        for t in (one_up, dtype)
    )
    score_max = float(np.abs(args[3].astype(float)).sum())
    for found, truth, plain, value_max in zip(
        (out, weights), truths, plains, (_largest(args[2]), 1.0), strict=True
    ):
        bound = tolerance(
            dtype, truth, plain, length=args[1].shape[-2], value_max=value_max,
            score_max=score_max, strict=strict,
        )  # fmt: skip
        assert_within(found, truth, bound)
    np.testing.assert_array_equal(attnx.additive_attention(*args, **options), out)
    return out


def _largest(x: Array) -> float:
    finite = x[np.isfinite(x)].astype(np.float64)
    return float(np.abs(finite).max()) if finite.size else 0.0


@pytest.mark.parametrize("units", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 250])
def test_units(isa: str, dtype: DTypeLike, units: int) -> None:
    for queries, keys in ((1, 1), (1, 9), (3, 5)):
        assert_like_oracle(draw(queries, keys, units, dtype=dtype))


@pytest.mark.parametrize("keys", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 127, 128, 129, 300])
def test_keys(isa: str, dtype: DTypeLike, keys: int) -> None:
    for queries in (1, 2, 9):
        assert_like_oracle(draw(queries, keys, dtype=dtype))


@pytest.mark.parametrize("queries", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 47, 48, 49, 97])
def test_queries(isa: str, dtype: DTypeLike, queries: int) -> None:
    assert_like_oracle(draw(queries, 20, dtype=dtype))


@pytest.mark.parametrize("value_dim", [0, 1, 3, 8, 15, 16, 17, 33, 64, 65, 130])
def test_value_dims(isa: str, dtype: DTypeLike, value_dim: int) -> None:
    for queries in (1, 3, 20):
        assert_like_oracle(draw(queries, 21, value_dim=value_dim, dtype=dtype))


@pytest.mark.parametrize("units", [100, 2500, 9000])
def test_many_units(isa: str, dtype: DTypeLike, units: int) -> None:
    """More than a block of prepared queries, or of keys, holds."""
    assert_like_oracle(draw(30, 11, units, batch=(1,), dtype=dtype))


@pytest.mark.parametrize("size", [1e-3, 0.01, 0.03, 0.1, 0.13, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("weight", [0.1, 1.0, 4.0])
def test_accuracy(isa: str, dtype: DTypeLike, size: float, weight: float) -> None:
    """Rule 9 without a floor to speak of, where all terms are small too."""
    args = draw(24, 100, 256, batch=(2,), value_dim=64, dtype=dtype, size=size)
    args[3][...] *= dtype(weight)
    assert_like_oracle(args, strict=True)


@pytest.mark.parametrize("size", [5.0, 12.0, 40.0, 300.0, 1e4, 1e30])
@pytest.mark.parametrize("apart", [False, True])
def test_large_numbers(isa: str, dtype: DTypeLike, size: float, apart: bool) -> None:
    """Some or all rows are beyond what the exponentials can hold; with `apart` queries cancel keys."""
    args = draw(9, 11, 20, dtype=dtype)
    args[0][..., ::3] *= dtype(size)
    args[1][..., 1:, ::3] *= dtype(size)
    if apart:
        args[1][:, 2] = -args[0][:, 3]
        args[0][:, 5] = -args[1][:, 0]
    assert_like_oracle(args)


@pytest.mark.parametrize("near", [9.0, 80.0])
def test_both_sides_of_the_limit(isa: str, dtype: DTypeLike, near: float) -> None:
    for query in (near, np.nextafter(dtype(near), dtype(0)), np.nextafter(dtype(near), dtype(99))):
        args = draw(4, 9, 17, dtype=dtype)
        args[0][..., 1::2] = query
        args[1][..., 1::2] = -near
        args[1][:, 3, 1::2] = near
        assert_like_oracle(args)


@pytest.mark.parametrize("weight", [1e4, 1e6, 1.1e6, 1e30])
def test_large_scores_stay_finite(isa: str, dtype: DTypeLike, weight: float) -> None:
    args = draw(5, 40, 3, dtype=dtype)
    args[3][...] = (weight, -weight / 2, weight / 4)
    out, weights = attnx.additive_attention(*args, return_weights=True)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    ones = np.ones((1, 3), dtype)
    one, three = (attnx.additive_attention(9 * x, 9 * x, ones, args[3]) for x in (ones, -ones))
    np.testing.assert_array_equal(one, ones)
    np.testing.assert_array_equal(three, ones)


def test_scores_of_ten_thousand_choose_one_key(isa: str, dtype: DTypeLike) -> None:
    query, value = np.zeros((1, 1), dtype), np.arange(3, dtype=dtype)[:, None]
    key = np.array([[-20], [20], [0]], dtype)
    for weight, chosen in ((1e4, 1), (-1e4, 0)):
        out = attnx.additive_attention(query, key, value, np.array([weight], dtype))
        np.testing.assert_array_equal(out, [[chosen]])


MASKS: dict[str, Any] = {
    "bool": np.random.default_rng(0).random((9, 150)) < 0.5,
    "bool of a batch": np.random.default_rng(1).random((2, 1, 150)) < 0.3,
    "bool of a query": np.random.default_rng(1).random((9, 1)) < 0.5,
    "float": np.random.default_rng(2).standard_normal((2, 9, 150)),
    "float with holes": np.where(np.random.default_rng(3).random((9, 150)) < 0.5, 0.5, -np.inf),
    "blocks": np.arange(150)[None] >= 130,
    "nothing": np.zeros((1, 1), bool),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("lengths", [None, [150, 40], [0, 129]])
def test_masks(isa: str, dtype: DTypeLike, mask: str, lengths: Any) -> None:
    seen = MASKS[mask]
    seen = seen if seen.dtype == bool else seen.astype(dtype)
    assert_like_oracle(draw(9, 150, dtype=dtype), attn_mask=seen, key_lengths=lengths)


def test_rows_that_see_nothing_are_zero(isa: str, dtype: DTypeLike) -> None:
    args = draw(5, 30, dtype=dtype)
    seen = np.ones((5, 30), bool)
    seen[2] = False
    for options in ({"attn_mask": seen}, {"key_lengths": [0, 30]}):
        out, weights = attnx.additive_attention(*args, return_weights=True, **options)
        blind = (slice(None), 2) if "attn_mask" in options else (0,)
        assert not out[blind].any()
        assert not weights[blind].any()
        assert not np.signbit(out[blind]).any()


@pytest.mark.parametrize("stored", [(t, t) for t in HALVES] + [(np.float32, t) for t in HALVES])
def test_16_bits(isa: str, stored: tuple[DTypeLike, DTypeLike]) -> None:
    for shape in ((1, 9, 7), (3, 130, 33), (20, 21, 64)):
        query, key, value, weight = draw(*shape, value_dim=21)
        args = (query.astype(stored[0]), key.astype(stored[1]), value.astype(stored[1]), weight)
        assert_like_oracle(args)


def test_keys_stored_smaller_than_a_float64_query(isa: str) -> None:
    for smaller in (np.float32, *HALVES):
        query, key, value, weight = draw(3, 20, 33, dtype=np.float64)
        for queries in (1, 3):
            args = (query[:, :queries], key.astype(smaller), value.astype(smaller), weight)
            assert_like_oracle(args)


def test_score_weight_of_another_float(isa: str) -> None:
    args = draw(3, 7)
    expected = attnx.additive_attention(*args)
    wide = attnx.additive_attention(*args[:3], args[3].astype(np.float64))
    np.testing.assert_array_equal(wide, expected)
    rounded = args[3].astype(ml_dtypes.bfloat16)
    narrow = attnx.additive_attention(*args[:3], rounded)
    truth = attnx.additive_attention(*args[:3], rounded.astype(np.float32))
    np.testing.assert_array_equal(narrow, truth)


@pytest.mark.parametrize("shapes", [
    ((), (), ()), ((3,), (), ()), ((), (3,), (1,)), ((2, 1), (3,), (2, 3)), ((2, 3), (1, 1), (3,)),
    ((0,), (1,), ()), ((2, 0), (1, 1), (2, 1)),
])  # fmt: skip
def test_batch_axes_broadcast(isa: str, dtype: DTypeLike, shapes: tuple[Any, Any, Any]) -> None:
    rng = np.random.default_rng(0)
    rows = ((3, 5), (4, 5), (4, 6))
    args = [rng.standard_normal((*b, *r)).astype(dtype) for b, r in zip(shapes, rows, strict=True)]
    batch = np.broadcast_shapes(*shapes)
    lengths = rng.integers(0, 5, batch)
    out = assert_like_oracle((*args, rng.standard_normal(5).astype(dtype)), key_lengths=lengths)
    assert out.shape == (*batch, 3, 6)


@given(data=st.data())
def test_anything(isa: str, data: st.DataObject) -> None:
    pick = data.draw
    dtype = pick(st.sampled_from([np.float32, np.float64]))
    queries, keys = pick(st.integers(1, 60)), pick(st.integers(1, 140))
    args = draw(
        queries, keys, pick(st.integers(1, 70)), value_dim=pick(st.integers(1, 40)), dtype=dtype,
        size=pick(st.sampled_from([0.05, 1.0, 4.0, 20.0])), seed=pick(st.integers(0, 99)),
    )  # fmt: skip
    rng = np.random.default_rng(pick(st.integers(0, 99)))
    mask = rng.random((queries, keys)) < pick(st.sampled_from([0.1, 0.9]))
    assert_like_oracle(
        args,
        attn_mask=pick(st.sampled_from([None, mask, np.where(mask, dtype(0.3), -np.inf)])),
        key_lengths=pick(st.none() | st.lists(st.integers(0, keys), min_size=2, max_size=2)),
    )


X = np.zeros((2, 3, 4), np.float32)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": X.astype(int)}, TypeError, "query must be float32.*int64"),
    ({"query": X[0, 0]}, ValueError, r"query must have at least 2 axes.*\(4,\)"),
    ({"key": X[..., :3]}, ValueError, "key must have the 4 units of query, got 3"),
    ({"key": X.astype(np.float64)}, TypeError, "key must have the dtype of query.*float64"),
    ({"key": np.ma.array(X)}, TypeError, "key must be a plain array"),
    ({"key": X[[0, 0, 0]]}, ValueError, r"key and value must have batch axes.*\(2,\), \(3,\)"),
    ({"value": X[:, :2]}, ValueError, "value must have the 3 rows of key, got 2"),
    ({"value": None}, TypeError, "value must be"),
    ({"score_weight": X[0, 0, :3]}, ValueError, r"score_weight must have shape \(4,\), got \(3,\)"),
    ({"score_weight": X[:1, 0]}, ValueError, r"score_weight must have shape \(4,\), got \(1, 4\)"),
    ({"score_weight": [1, 2, 3, 4]}, TypeError, "score_weight must be float32"),
    ({"score_weight": X[0, 0].astype(">f4")}, TypeError, "score_weight must be.*byte order"),
    ({"attn_mask": np.ones((3, 3), int)}, TypeError, "attn_mask must be bool.*int64"),
    ({"attn_mask": np.ones((3, 4), bool)}, ValueError, r"attn_mask must broadcast to \(2, 3, 3\)"),
    ({"key_lengths": [3, 4]}, ValueError, "key_lengths must lie between 0 and 3"),
    ({"key_lengths": [-1, 0]}, ValueError, "key_lengths"),
    ({"key_lengths": [1.0, 2.0]}, TypeError, "key_lengths must be integers"),
    ({"key_lengths": [1, 2, 3]}, ValueError, "key_lengths must broadcast"),
    ({"return_weights": 1}, TypeError, "return_weights must be a bool"),
    ({"num_threads": 0}, ValueError, "num_threads"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[str(sorted(b[0])) for b in BAD])
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"query": X, "key": X, "value": X, "score_weight": X[0, 0]} | change
    with pytest.raises(error, match=message):
        attnx.additive_attention(**arguments)
