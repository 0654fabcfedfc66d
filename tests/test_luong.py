"""luong_attention against the oracle and against its parts."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import HALVES, Array, assert_same_bits, computed_in
from numpy.typing import DTypeLike

import attnx
from attnx import reference_additive

SHAPES = [(1, 1, 1, 1), (1, 9, 5, 7), (3, 5, 4, 4), (17, 33, 16, 17), (50, 130, 40, 24)]


def draw(
    score: str, queries: int, keys: int, width: int, depth: int, *, dtype: DTypeLike = np.float32
) -> tuple[tuple[Array, Array, Array], dict[str, Array]]:
    """Return query, key and value, and the weights of a score."""
    rng = np.random.default_rng([queries, keys, width, depth])

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    depth = width if score == "dot" else depth
    scale = (width * depth) ** -0.25
    arrays = normal(2, queries, width) * dtype(scale), normal(2, keys, depth), normal(2, keys, 11)
    if score == "general":
        return arrays, {"weight": normal(width, depth)}
    if score == "concat":
        units = (width + depth) // 2
        return arrays, {"weight": normal(units, width + depth), "score_weight": normal(units)}
    return arrays, {}


def assert_like_oracle(arrays: Any, score: str, **options: Any) -> Array:
    out, weights = attnx.luong_attention(*arrays, score=score, return_weights=True, **options)
    truth, truth_weights = reference_additive.luong_attention(
        *arrays, score=score, return_weights=True, **options
    )
    assert out.dtype == weights.dtype == arrays[0].dtype
    eps = float(ml_dtypes.finfo(out.dtype).eps)
    inner = float(np.finfo(computed_in(out.dtype)).eps)
    # Scores carry some roundings of the products behind them, results one of their own.
    np.testing.assert_allclose(out.astype(float), truth, rtol=eps, atol=300 * inner)
    np.testing.assert_allclose(weights.astype(float), truth_weights, rtol=eps, atol=100 * inner)
    plain = attnx.luong_attention(*arrays, score=score, **options)
    assert_same_bits(plain, out)
    return out


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores(isa: str, dtype: DTypeLike, score: str, shape: Any) -> None:
    arrays, weights = draw(score, *shape, dtype=dtype)
    assert_like_oracle(arrays, score, **weights)


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
@pytest.mark.parametrize("options", [
    {"key_lengths": [9, 0]},
    {"attn_mask": np.arange(9) % 3 > 0},
    {"attn_mask": np.arange(90).reshape(2, 5, 9) % 7 > 1, "key_lengths": [4, 9]},
    {"attn_mask": np.linspace(-2, 2, 45, dtype=np.float32).reshape(5, 9)},
])  # fmt: skip
def test_options(isa: str, score: str, options: dict[str, Any]) -> None:
    arrays, weights = draw(score, 5, 9, 6, 8)
    assert_like_oracle(arrays, score, **weights, **options)


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
@pytest.mark.parametrize("half", HALVES)
def test_16_bits(isa: str, score: str, half: DTypeLike) -> None:
    (query, key, value), weights = draw(score, 3, 20, 12, 10)
    for dtype in (half, np.float32, np.float64):
        arrays = (query.astype(dtype), key.astype(half), value.astype(half))
        assert_like_oracle(arrays, score, **weights)


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
@pytest.mark.parametrize("shapes", [((), (), ()), ((3,), (), (2, 1)), ((), (), (4,))])
def test_batch_axes_broadcast(score: str, shapes: Any) -> None:
    arrays, weights = draw(score, 3, 4, 5, 6)
    arrays = tuple(np.broadcast_to(x[0], (*b, *x[0].shape)) for x, b in zip(arrays, shapes, strict=True))  # fmt: skip
    lengths = np.random.default_rng(0).integers(0, 5, np.broadcast_shapes(*shapes))
    assert_like_oracle(arrays, score, **weights, key_lengths=lengths)


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_a_row_has_its_own_bits(isa: str, dtype: DTypeLike, score: str) -> None:
    arrays, weights = draw(score, 50, 130, 40, 24, dtype=dtype)
    expected = attnx.luong_attention(*arrays, score=score, num_threads=1, **weights)
    for threads in (2, 3):
        out = attnx.luong_attention(*arrays, score=score, num_threads=threads, **weights)
        assert_same_bits(out, expected)
    query, key, value = arrays
    for rows in (slice(0, 1), slice(7, 24), slice(49, 50)):
        out = attnx.luong_attention(query[1:, rows], key[1:], value[1:], score=score, **weights)
        assert_same_bits(out, expected[1:, rows])


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_what_is_hidden_changes_no_bit(isa: str, dtype: DTypeLike, score: str) -> None:
    (query, key, value), weights = draw(score, 5, 20, 6, 8, dtype=dtype)
    options = {"attn_mask": np.arange(20) % 4 > 0, "key_lengths": [20, 13], "score": score}
    expected = attnx.luong_attention(query, key, value, return_weights=True, **weights, **options)
    key[:, ::4], value[:, ::4], key[1, 13:], value[1, 13:] = np.nan, np.inf, np.nan, np.nan
    found = attnx.luong_attention(query, key, value, return_weights=True, **weights, **options)
    for x, wanted in zip(found, expected, strict=True):
        assert_same_bits(x, wanted)


X = np.zeros((2, 3, 4), np.float32)
W = np.zeros((4, 4), np.float32)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"score": "cosine"}, ValueError, "score must be one of dot, general, concat, got 'cosine'"),
    ({"weight": W}, TypeError, 'weight must be None for score "dot"'),
    ({"score": "general"}, TypeError, 'weight must be an array for score "general"'),
    ({"score": "general", "weight": W[:3]}, ValueError, r"weight must have shape \(4, 4\)"),
    ({"score": "general", "weight": W[0]}, ValueError, "weight must have at least 2 axes"),
    ({"score": "general", "weight": W[None]}, ValueError, "weight must have 2 axes"),
    ({"score": "general", "weight": W.astype(int)}, TypeError, "weight must be float32"),
    ({"score": "general", "weight": W, "score_weight": W[0]}, TypeError, "score_weight must be None"),
    ({"score": "concat", "weight": W}, TypeError, "score_weight must be an array"),
    ({"score": "concat", "weight": W, "score_weight": W[0]}, ValueError, r"shape \(U, 8\)"),
    ({"query": X[0, 0]}, ValueError, "query must have at least 2 axes"),
    ({"key": X[..., :3]}, ValueError, "key must have the head dim of query"),
    ({"value": X[:, :2]}, ValueError, "value must have the 3 rows of key"),
    ({"attn_mask": np.ones((3, 3), int)}, TypeError, "attn_mask must be bool"),
    ({"key_lengths": 4}, ValueError, "key_lengths must lie between 0 and 3"),
    ({"return_weights": None}, TypeError, "return_weights must be a bool"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[b[2] for b in BAD])
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"query": X, "key": X, "value": X} | change
    with pytest.raises(error, match=message):
        attnx.luong_attention(**arguments)
