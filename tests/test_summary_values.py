"""attention_summary where the answer is known: ties, even rows, sinks, NaN; and the sparse matrix of the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_same_bits, make_qkv
from numpy.typing import DTypeLike

import attnx
from attnx.reference_summary import attention_summary as oracle

ALL: dict[str, Any] = {"entropy": True, "received": True}


@pytest.mark.parametrize("queries", [1, 30])
@pytest.mark.parametrize("count", [1, 4, 10, 200, 300])
def test_ties_go_to_the_first_keys(isa: str, dtype: DTypeLike, count: int, queries: int) -> None:
    """Scores of three values only: the order is known to the last key."""
    rng = np.random.default_rng(count)
    levels = rng.integers(0, 3, 260)
    query, key = np.ones((1, queries, 1), dtype), levels.astype(dtype).reshape(1, -1, 1)
    found = attnx.attention_summary(query, key, top_k=count, scale=1.0)
    wanted = np.full(count, -1)
    order = np.argsort(-levels, kind="stable")[:count]
    wanted[: len(order)] = order
    assert found.top_indices is not None
    np.testing.assert_array_equal(found.top_indices, np.tile(wanted, (1, queries, 1)))
    same = attnx.attention_summary(query * 0, key, top_k=count)
    wanted[: len(order)] = np.arange(len(order))
    np.testing.assert_array_equal(same.top_indices, np.tile(wanted, (1, queries, 1)))


@pytest.mark.parametrize("count", [1, 2, 16, 32, 33, 100, 400])
@pytest.mark.parametrize("way", ["rising", "falling", "there and back"])
def test_scores_in_order(isa: str, dtype: DTypeLike, way: str, count: int) -> None:
    """Every key enters the largest so far, or none after the first does."""
    scores = np.arange(300) / 20
    if way == "falling":
        scores = scores[::-1]
    if way == "there and back":
        scores = np.concatenate([scores[::2], scores[::-2]])
    query, key = np.ones((1, 30, 1), dtype), scores.astype(dtype).reshape(1, -1, 1)
    found = attnx.attention_summary(query, key, top_k=count, scale=1.0)
    wanted = np.full(count, -1)
    order = np.argsort(-scores, kind="stable")[:count]
    wanted[: len(order)] = order
    np.testing.assert_array_equal(found.top_indices, np.tile(wanted, (1, 30, 1)))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 31, 32, 33, 60])
def test_ties_at_every_place(isa: str, dtype: DTypeLike, count: int) -> None:
    """Each query has scores of its own, many of them equal, and keeps some of every score."""
    rng = np.random.default_rng(count)
    for keys in (3, 10, 40, 150):
        for levels in (2, 4, 20):
            scores = rng.integers(-levels, levels, (30, keys)).astype(dtype)
            if levels == 4:
                scores.sort(axis=1)
            query, key = np.zeros((30, 2), dtype), np.zeros((keys, 2), dtype)
            found = attnx.attention_summary(query, key, bias=scores, top_k=count)
            wanted = np.full((30, count), -1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            wanted[:, : order.shape[1]] = order
            np.testing.assert_array_equal(found.top_indices, wanted)


def test_weights_that_round_to_the_same_are_tied(isa: str) -> None:
    """Scores differ, the weights that are returned do not: 0 each."""
    key = np.array([0, -500, -400, -300], np.float32).reshape(1, 4, 1)
    found = attnx.attention_summary(np.ones((1, 1, 1), np.float32), key, top_k=5, scale=1.0)
    np.testing.assert_array_equal(found.top_indices, [[[0, 1, 2, 3, -1]]])
    np.testing.assert_array_equal(found.top_weights, [[[1, 0, 0, 0, 0]]])


def test_entropy_of_known_rows(isa: str, dtype: DTypeLike) -> None:
    query, key = np.ones((1, 300, 4), dtype), np.zeros((1, 300, 4), dtype)
    found = attnx.attention_summary(query, key, is_causal=True, entropy=True)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found.entropy[0], np.log(np.arange(1, 301)), rtol=4 * eps)
    assert found.entropy[0, 0] == 0
    one = key.copy()
    one[0, 7] = 1e4
    found = attnx.attention_summary(query, one, entropy=True)
    assert not found.entropy.any()
    assert not np.signbit(found.entropy).any()


def test_a_sink_is_no_key(isa: str, dtype: DTypeLike) -> None:
    """Two keys of weight 1/4 beside a sink of 1/2; and a sink that takes all."""
    query, key = np.ones((2, 3, 4), dtype), np.zeros((2, 2, 4), dtype)
    sinks = [np.log(2), 1000.0]
    found = attnx.attention_summary(query, key, sinks=sinks, top_k=2, **ALL)
    np.testing.assert_allclose(found.entropy[0], np.full(3, np.log(2)), rtol=1e-6)
    np.testing.assert_allclose(found.top_weights[0], np.full((3, 2), 0.25), rtol=1e-6)
    np.testing.assert_allclose(found.received[0], [0.75, 0.75], rtol=1e-6)
    assert not found.entropy[1].any()
    assert not found.received[1].any()
    np.testing.assert_array_equal(found.top_indices[1], [[0, 1]] * 3)


@pytest.mark.parametrize("size", [1e-30, 1e4, 1e15])
def test_scores_of_any_size(isa: str, dtype: DTypeLike, size: float) -> None:
    query = np.full((1, 3, 4), size, dtype)
    key = np.repeat(np.array([1, 1, 0.5, -1, -1], dtype) * size, 4).reshape(1, 5, 4)
    found = attnx.attention_summary(query, key, top_k=3, rows=[1], scale=0.25, **ALL)
    truth = oracle(query, key, scale=0.25)
    np.testing.assert_allclose(found.entropy, truth["entropy"], rtol=1e-6)
    np.testing.assert_allclose(found.received, truth["received"], rtol=1e-6)
    np.testing.assert_array_equal(found.top_indices[..., :2], [[[0, 1]] * 3])


def test_a_visible_nan_is_in_its_rows_and_keys_alone(isa: str, dtype: DTypeLike) -> None:
    query, key, value = make_qkv(40, 60, dtype=dtype)
    options = {"is_causal": True, "query_offset": 10}
    clean = attnx.attention_summary(query, key, value, top_k=3, **ALL, **options)
    key[:, :, 30] = np.nan
    found = attnx.attention_summary(query, key, value, top_k=3, **ALL, **options)
    for name in ("entropy", "top_weights", "top_indices", "output", "lse"):
        assert_same_bits(getattr(found, name)[:, :, :20], getattr(clean, name)[:, :, :20])
    assert np.isnan(found.entropy[:, :, 20:]).all()
    assert np.isnan(found.top_weights[:, :, 20:]).all()
    assert (found.top_indices[:, :, 20:] >= 0).all()
    assert (found.top_indices[:, :, 20:, :] == 30).any(-1).all()
    assert np.isnan(found.received[:, :, :50]).all()  # from the rows that see them


def test_long_sums_of_received_weight_keep_their_digits(isa: str) -> None:
    """50,000 terms a key: one running float32 would lose three digits."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, 50000, 8)).astype(np.float32)
    key = rng.standard_normal((1, 9, 8)).astype(np.float32)
    found = attnx.attention_summary(query, key, received=True)
    np.testing.assert_allclose(found.received, oracle(query, key)["received"], rtol=1e-6)


def test_to_csr() -> None:
    args = make_qkv(6, 9, batch=(2, 3), heads=4, kv_heads=2)
    found = attnx.attention_summary(*args, top_k=3, is_causal=True)
    matrix = attnx.attention_weights(*args[:2], is_causal=True)
    sparse = found.to_csr((1, 2), 3)
    assert sparse.shape == (6, 9)
    assert sparse.nnz == 1 + 2 + 3 * 4
    assert sparse.dtype == np.float32
    assert sparse.has_canonical_format
    dense = sparse.toarray()
    np.testing.assert_allclose(dense[dense > 0], matrix[1, 2, 3][dense > 0], rtol=1e-6)
    heads = tuple(x[0, 0] for x in args)
    expected = found.to_csr((0, 0), 1).toarray()
    three = attnx.attention_summary(*heads, top_k=3, is_causal=True)
    for b in ((), 0):
        np.testing.assert_array_equal(three.to_csr(b, 1).toarray(), expected)
    one = attnx.attention_summary(heads[0][1], heads[1][0], top_k=3, is_causal=True)
    for place in ((), (0,), (0, 0), ((), 0)):
        np.testing.assert_array_equal(one.to_csr(*place).toarray(), expected)
    empty = attnx.attention_summary(heads[0][1, :0], heads[1][0], top_k=3)
    assert empty.to_csr().shape == (0, 9)
