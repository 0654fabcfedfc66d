"""attention_weights at its four stages: what each holds, and what each knows nothing of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, GuardedArray, assert_like_oracle, assert_same_bits, make_qkv
from numpy.typing import DTypeLike

import attnx

weights = attnx.attention_weights
STAGES = ("scores", "capped", "biased", "weights")
ROWS = (1, 2, 7, 8, 9, 50)


def everything(queries: int, keys: int, dtype: DTypeLike) -> dict[str, Any]:
    """Return options that all take part."""
    rng = np.random.default_rng(queries)
    mask = np.where(rng.random((queries, keys)) < 0.2, -np.inf, rng.standard_normal(keys))
    return {
        "attn_mask": mask.astype(dtype),
        "bias": attnx.bias.ALiBi([0.1, 0.02]),
        "is_causal": True,
        "query_offset": [keys - queries, 20],
        "window": (90, 4),
        "softcap": 1.5,
        "sinks": np.array([0.5, -1.0], dtype),
        "key_lengths": [keys - 1, keys // 2],
        "query_lengths": [queries, queries // 2],
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("queries", ROWS)
def test_against_the_oracle(isa: str, dtype: DTypeLike, queries: int, stage: str) -> None:
    for keys in (1, 16, 49, 130, 200):
        query, key, _ = make_qkv(queries, keys, 20, dtype=dtype)
        for options in ({}, everything(queries, keys, dtype)):
            found = weights(query, key, stage=stage, **options)
            assert found.dtype == dtype
            assert_like_oracle("attention_weights", found, (query, key), stage=stage, **options)


def test_each_stage_is_made_of_the_one_before(isa: str, dtype: DTypeLike) -> None:
    query, key, value = make_qkv(30, 150, dtype=dtype)
    rng = np.random.default_rng(0)
    bias = rng.standard_normal((2, 1, 30, 150)).astype(dtype)
    mask = rng.random((30, 150)) < 0.7
    options = {"softcap": 2.0, "bias": bias, "attn_mask": mask, "is_causal": True}
    scores, capped, biased, last = (weights(query, key, stage=s, **options) for s in STAGES)
    eps = float(np.finfo(dtype).eps)
    product = query.astype(float) @ key.astype(float).swapaxes(-1, -2) / 4
    np.testing.assert_allclose(scores, product, rtol=0, atol=32 * eps)
    np.testing.assert_allclose(capped, 2 * np.tanh(scores.astype(float) / 2), atol=8 * eps)
    seen = np.broadcast_to(mask & np.tri(30, 150, dtype=bool), biased.shape)
    assert np.isneginf(biased[~seen]).all()
    np.testing.assert_allclose(biased[seen], (capped + bias)[seen], atol=4 * eps)
    powers = np.exp(biased.astype(float))
    total = powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(last, powers / np.where(total, total, 1), atol=32 * eps)
    out, lse = attnx.scaled_dot_product_attention(query, key, value, return_lse=True, **options)
    np.testing.assert_allclose(out, last.astype(float) @ value, atol=64 * eps)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(lse, np.log(total[..., 0]), atol=32 * eps)


def test_the_early_stages_ignore_masks(isa: str, dtype: DTypeLike) -> None:
    query, key, _ = make_qkv(30, 150, dtype=dtype)
    key[:, :, 7, 3] = np.nan
    hiding = {"attn_mask": np.zeros((30, 150), bool), "window": (0, 0), "is_causal": True}
    for stage in ("scores", "capped"):
        plain = weights(query, key, stage=stage)
        assert np.isnan(plain[..., 7]).all()
        assert np.isfinite(np.delete(plain, 7, axis=-1)).all()
        for option in hiding:
            found = weights(query, key, stage=stage, **{option: hiding[option]})
            assert_same_bits(found, plain)
        assert_same_bits(weights(query, key, stage=stage, sinks=[1.0, 2.0]), plain)
    biased = weights(query, key, stage="biased", attn_mask=hiding["attn_mask"])
    assert np.isneginf(biased).all()


@pytest.mark.parametrize("stage", STAGES)
def test_past_the_lengths(isa: str, dtype: DTypeLike, stage: str) -> None:
    """Keys and rows past their lengths are not read, and get 0 (-inf in "biased")."""
    query, key, _ = make_qkv(40, 250, 20, dtype=dtype)
    options: dict[str, Any] = {"stage": stage, "softcap": 3.0}
    keys, rows = np.array([113, 0]), np.array([40, 11])
    whole = weights(query, key, **options)
    key[0, :, 113:] = key[1] = query[1, :, 11:] = np.nan
    found = weights(query, key, key_lengths=keys, query_lengths=rows, **options)
    past = -np.inf if stage == "biased" else 0
    assert (found[0, :, :, 113:] == past).all()
    assert (found[1] == past).all()
    if stage != "weights":
        assert_same_bits(found[0, :, :, :113], whole[0, :, :, :113])
    cut = weights(query[:1], key[:1, :, :113], **options)
    assert_same_bits(found[:1, :, :, :113], cut)


def test_into_an_array_and_nothing_beside_it(isa: str, dtype: DTypeLike) -> None:
    for queries, keys in ((1, 3), (5, 49), (17, 130)):
        query, key, _ = make_qkv(queries, keys, 9, dtype=dtype)
        for stage in STAGES:
            options = everything(queries, keys, dtype) | {"stage": stage}
            found = weights(query, key, **options)
            for at in ("start", "end"):
                room = GuardedArray(np.full(found.shape, 7, dtype), at=at).array
                assert weights(query, key, out=room, **options) is room
                assert_same_bits(room, found)
            apart: Array = np.full((*found.shape[:-1], keys + 3), 7, dtype)
            weights(query, key, out=apart[..., :keys], **options)
            assert_same_bits(apart[..., :keys], found)
            assert (apart[..., keys:] == 7).all()


@pytest.mark.parametrize("stage", ["", "softmax", None, 3, "Scores"])
def test_other_names(stage: Any) -> None:
    query, key, _ = make_qkv(2, 3)
    with pytest.raises((TypeError, ValueError), match="stage"):
        weights(query, key, stage=stage)
