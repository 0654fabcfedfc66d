"""Rule 9: the error against float64 truth, beside that of plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FLOATS, Array, assert_like_oracle, make_qkv, tolerance
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx


def scaled_to(args: tuple[Array, ...], largest: float) -> tuple[Array, ...]:
    """Return the arrays with the query scaled so that the largest score is this."""
    query, key, value = args
    scores = np.abs(query @ key.swapaxes(-1, -2)).max() * query.shape[-1] ** -0.5
    return (query * query.dtype.type(largest / scores)).astype(query.dtype), key, value


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("keys", [64, 512, 2048, 8192])
@pytest.mark.parametrize("largest", [0.1, 4.0, 15.9])
def test_float32(isa: str, keys: int, head_dim: int, largest: float) -> None:
    queries = 64 if keys <= 2048 else 16
    args = scaled_to(make_qkv(queries, keys, head_dim, batch=(1,)), largest)
    for options in ({}, {"is_causal": True, "query_offset": keys - queries}):
        out = attnx.scaled_dot_product_attention(*args, **options)
        assert_like_oracle("scaled_dot_product_attention", out, args, strict=True, **options)


@pytest.mark.parametrize("keys", [64, 512, 2048])
@pytest.mark.parametrize("largest", [0.1, 4.0, 15.9])
def test_float64(isa: str, keys: int, largest: float) -> None:
    args = scaled_to(make_qkv(24, keys, 48, batch=(1,), dtype=np.float64), largest)
    out = attnx.scaled_dot_product_attention(*args)
    assert_like_oracle("scaled_dot_product_attention", out, args, strict=True)


@pytest.mark.parametrize("keys", [300, 2048, 8192])
def test_values_of_one_sign(isa: str, dtype: DTypeLike, keys: int) -> None:
    """Nothing cancels, so roundings of a long sum would show."""
    query, key, value = make_qkv(24, keys, 32, batch=(1,), heads=1, dtype=dtype)
    args = (query, key, np.abs(value) + dtype(1))
    out = attnx.scaled_dot_product_attention(*args)
    assert_like_oracle("scaled_dot_product_attention", out, args, strict=True)


def test_one_key_far_above_the_others(isa: str, dtype: DTypeLike) -> None:
    """Wherever the largest score comes, early or late, nothing of the others is lost."""
    for place in (0, 100, 191, 192, 511):
        args = make_qkv(50, 512, 32, heads=1, dtype=dtype)
        args[1][:, :, place] = args[0][:, :, :1].mean(2) * 3
        out = attnx.scaled_dot_product_attention(*args)
        assert_like_oracle("scaled_dot_product_attention", out, args)


def test_rising_and_falling_scores(isa: str, dtype: DTypeLike) -> None:
    """The running maximum changes at every block, or at the first only."""
    ramp = np.linspace(-40, 40, 900)
    for order in (ramp, ramp[::-1], np.abs(ramp), -np.abs(ramp)):
        args = make_qkv(20, 900, 8, heads=1, dtype=dtype)
        args[0][...] = 1
        args[1][...] = order[:, None] / 8
        out = attnx.scaled_dot_product_attention(*args, scale=1.0)
        assert_like_oracle("scaled_dot_product_attention", out, args, scale=1.0)


@pytest.mark.parametrize("keys", [300, 2048])
def test_weights(isa: str, dtype: DTypeLike, keys: int) -> None:
    args = scaled_to(make_qkv(24, keys, 32, batch=(1,), dtype=dtype), 12.0)
    weights = attnx.attention_weights(*args[:2])
    assert_like_oracle("attention_weights", weights, args[:2])


@pytest.mark.parametrize("size", [1e-18, 1e-6, 1e6, 1e18])
def test_the_size_of_values_does_not_matter(isa: str, dtype: DTypeLike, size: float) -> None:
    query, key, value = make_qkv(30, 200, dtype=dtype)
    args = (query, key, value * dtype(size))
    out = attnx.scaled_dot_product_attention(*args)
    assert_like_oracle("scaled_dot_product_attention", out, args, strict=True)


@given(data=st.data())
def test_random_shapes(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    args = make_qkv(
        draw(st.integers(1, 90)),
        draw(st.integers(1, 400)),
        draw(st.sampled_from([1, 3, 8, 16, 40, 64, 72, 96])),
        value_dim=draw(st.integers(1, 40)),
        dtype=draw(st.sampled_from(FLOATS)),
        seed=draw(st.integers(0, 999)),
    )
    args = scaled_to(args, draw(st.floats(0.01, 15.9)))
    causal = draw(st.booleans())
    out = attnx.scaled_dot_product_attention(*args, is_causal=causal)
    assert_like_oracle("scaled_dot_product_attention", out, args, is_causal=causal)


def test_the_tolerance_itself_is_tight() -> None:
    """An output wrong by 1e-5 of the values, or rounded to bfloat16, would be refused."""
    truth = np.random.default_rng(0).standard_normal(1000)
    bound = tolerance(
        np.float32, truth, truth.astype(np.float32), length=512, value_max=4.0, score_max=5.0
    )
    assert 1e-8 < bound.rms <= bound.largest < 1e-5 * 4.0
    strict = tolerance(
        np.float32, truth, truth.astype(np.float32), length=512, value_max=4.0, strict=True
    )
    assert strict.largest < 1e-6
    assert strict.rms < 1e-7
    worse = tolerance(np.float32, truth, truth + 1e-3, length=512, value_max=4.0, score_max=5.0)
    assert worse.largest == pytest.approx(1.6e-5)
