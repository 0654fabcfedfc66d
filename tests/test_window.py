"""Windows, softcap and sinks: bounds that can be counted, values against the oracle, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_like_oracle, assert_same_bits, make_qkv
from numpy.typing import DTypeLike

import attnx

attention = attnx.scaled_dot_product_attention
SIDES = (None, 0, 1, 2, 15, 16, 17, 47, 48, 100, 191, 192, 193, 5000, 2**62)


def counts(queries: int, keys: int, **options: Any) -> Array:
    """How many keys each query sees: zero scores give each of them the weight 1 / count."""
    query, key = np.zeros((1, queries, 4), np.float32), np.zeros((1, keys, 4), np.float32)
    _, lse = attention(query, key, key, return_lse=True, **options)
    return np.rint(np.exp(lse[0])).astype(int)


def test_a_window_of_two_sees_three_keys(isa: str) -> None:
    np.testing.assert_array_equal(counts(6, 6, window=(2, 0)), [1, 2, 3, 3, 3, 3])
    np.testing.assert_array_equal(counts(6, 6, window=(0, 0)), [1] * 6)
    np.testing.assert_array_equal(counts(6, 6, window=(1, 2)), [3, 4, 4, 4, 3, 2])
    np.testing.assert_array_equal(counts(6, 6, window=(None, 1)), [2, 3, 4, 5, 6, 6])
    np.testing.assert_array_equal(counts(6, 6, window=(1, None)), [6, 6, 5, 4, 3, 2])
    np.testing.assert_array_equal(counts(6, 6, window=(1, 2), is_causal=True), [1, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(counts(6, 6, window=[None, None]), [6] * 6)
    np.testing.assert_array_equal(counts(4, 6, window=(1, 0), query_offset=4), [2, 2, 1, 0])
    np.testing.assert_array_equal(counts(4, 6, window=(0, 1), query_offset=-2), [0, 1, 2, 2])


@pytest.mark.parametrize("left", SIDES)
@pytest.mark.parametrize("queries", [1, 7, 230])
def test_windows(isa: str, dtype: DTypeLike, queries: int, left: int | None) -> None:
    args = make_qkv(queries, 230, 20, heads=4, kv_heads=2, dtype=dtype)
    for right in (None, 0, 3, 48, 2**62):
        for offset in (0, [230 - queries, -100]):
            options = {"window": (left, right), "query_offset": offset}
            out = attention(*args, **options)
            assert_like_oracle("scaled_dot_product_attention", out, args, **options)


@pytest.mark.parametrize("offset", [-(2**62), -1000, 1000, 2**62])
def test_windows_that_are_elsewhere(isa: str, dtype: DTypeLike, offset: int) -> None:
    """No key is near: nothing is seen, and no sum of positions overflows."""
    args = make_qkv(9, 230, dtype=dtype)
    for window in ((5, 5), (0, 0), (700, 700)):
        out, lse = attention(*args, window=window, query_offset=offset, return_lse=True)
        assert not out.any()
        assert np.isneginf(lse).all()
    everything = attention(*args, window=(2**70, 2**63), query_offset=offset)
    if abs(offset) < 2**62:
        assert_same_bits(everything, attention(*args))


def test_a_window_is_the_mask_that_says_so(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(150, 230, dtype=dtype)
    apart = np.arange(230) - (np.arange(150)[:, None] + 60)
    mask = (apart >= -70) & (apart <= 9)
    out, lse = attention(*args, window=(70, 9), query_offset=60, return_lse=True)
    masked, masked_lse = attention(*args, mask, return_lse=True)
    assert_same_bits(out, masked)
    assert_same_bits(lse, masked_lse)
    causal = attention(*args, window=(None, 0), query_offset=60)
    assert_same_bits(causal, attention(*args, is_causal=True, query_offset=60))


@pytest.mark.parametrize("queries", [192, 383, 385])
def test_heads_enough_for_long_passes(isa: str, dtype: DTypeLike, queries: int) -> None:
    args = make_qkv(queries, 400, 9, heads=34, dtype=dtype)
    for window in ((None, None), (None, 0), (100, 3)):
        options = {"window": window, "query_offset": 15}
        out = attention(*args, **options)
        alone = tuple(x[:, 20:21, :] for x in args)
        assert_same_bits(out[:, 20:21], attention(*alone, **options))
        assert_same_bits(
            out[:, :, -50:],
            attention(args[0][:, :, -50:], *args[1:], window=window, query_offset=queries - 35),
        )
    summary = attnx.attention_summary(*args, window=(100, 3), query_offset=15)
    assert_same_bits(summary.output, out)


def test_a_pass_over_the_end_of_one_head_and_the_begin_of_another() -> None:
    """No row of it sees the keys between: arrays so large that keys are asked for before they are needed."""
    rng = np.random.default_rng(0)
    query, key, value = (
        rng.standard_normal((1, h, 8208, 128), dtype=np.float32) for h in (2, 1, 1)
    )
    out = attention(query, key, value, window=(256, 0))
    for head in range(2):
        for first in (0, 4000, 8200):
            rows = query[:, head : head + 1, first : first + 8]
            alone = attention(rows, key, value, window=(256, 0), query_offset=first)
            assert_same_bits(out[:, head : head + 1, first : first + 8], alone)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_query_and_smaller_keys_with_a_mask(isa: str, threads: int) -> None:
    query, key, value = make_qkv(1, 4096, 24, dtype=np.float64)
    args = (query, key.astype(np.float32), value.astype(np.float32))
    mask = np.random.default_rng(1).standard_normal((1, 4096))
    out = attention(*args, mask, num_threads=threads)
    assert_like_oracle("scaled_dot_product_attention", out, args, attn_mask=mask)


@pytest.mark.parametrize("softcap", [1e-3, 0.5, 2.0, 30.0, 50.0, 1e4, 1e30])
@pytest.mark.parametrize("queries", [1, 5, 70])
def test_softcap(isa: str, dtype: DTypeLike, queries: int, softcap: float) -> None:
    args = make_qkv(queries, 130, 64, dtype=dtype)
    # Scores of hundreds, uncapped, leave one weight a row: its error is luck, and so is NumPy's.
    for scale in (None, 1.0, 1e-6, *([30.0] if softcap < 100 else [])):
        options = {"softcap": softcap, "scale": scale}
        out = attention(*args, **options)
        assert_like_oracle("scaled_dot_product_attention", out, args, **options)
        capped = attnx.attention_weights(*args[:2], stage="capped", **options)
        assert_like_oracle("attention_weights", capped, args[:2], stage="capped", **options)
        assert (np.abs(capped) <= np.array(softcap, dtype)).all()


def test_softcap_is_nearly_exact_where_it_does_nothing(isa: str, dtype: DTypeLike) -> None:
    query, key, _ = make_qkv(20, 50, 64, dtype=dtype)
    scores = attnx.attention_weights(query, key, stage="scores")
    capped = attnx.attention_weights(query, key, stage="capped", softcap=1e9)
    np.testing.assert_allclose(capped, scores, rtol=8 * np.finfo(dtype).eps)
    assert_same_bits(attnx.attention_weights(query, key, stage="capped"), scores)


def test_softcap_of_scores_beyond_every_float(isa: str, dtype: DTypeLike) -> None:
    """Infinite scores are capped like any other; NaN stays."""
    query = np.full((1, 3, 1), np.finfo(dtype).max, dtype)
    key = np.array([2, -2, 0, np.nan], dtype).reshape(1, 4, 1)
    for keys, wanted in ((3, [5, -5, 0]), (4, [5, -5, 0, np.nan])):
        capped = attnx.attention_weights(query, key[:, :keys], scale=1.0, softcap=5, stage="capped")
        np.testing.assert_array_equal(capped[0, 0], wanted)


@pytest.mark.parametrize("queries", [1, 5, 70])
def test_sinks(isa: str, dtype: DTypeLike, queries: int) -> None:
    args = make_qkv(queries, 200, heads=4, kv_heads=2, dtype=dtype)
    sinks = np.array([0.7, -np.inf, 9.0, -30.0])
    for options in ({}, {"is_causal": True}, {"key_lengths": [0, 130], "softcap": 2.0}):
        out, lse = attention(*args, sinks=sinks, return_lse=True, **options)
        assert_like_oracle("scaled_dot_product_attention", out, args, sinks=sinks, **options)
        plain, plain_lse = attention(*args, return_lse=True, **options)
        wanted = np.logaddexp(plain_lse.astype(float), sinks[:, None])
        np.testing.assert_allclose(lse, wanted, rtol=32 * np.finfo(dtype).eps, atol=1e-12)
        # Every weight shrinks by the sink's share.
        share = np.exp(plain_lse.astype(float) - np.where(np.isinf(lse), 0, lse))
        np.testing.assert_allclose(out, plain * share[..., None], atol=64 * np.finfo(dtype).eps)


def test_a_sink_where_nothing_is_seen(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(5, 60, dtype=dtype)
    sinks = np.array([0.5, -np.inf], dtype)
    out, lse = attention(
        *args, sinks=sinks, key_lengths=[0, 60], query_lengths=[3, 2], return_lse=True
    )
    assert not out[0].any()
    np.testing.assert_array_equal(lse[0, 0], np.array([0.5, 0.5, 0.5, -np.inf, -np.inf], dtype))
    assert np.isneginf(lse[0, 1]).all()
    assert np.isneginf(lse[1, :, 2:]).all()


def test_no_sink_is_a_sink_of_minus_infinity(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(37, 200, dtype=dtype)
    none = attention(*args, return_lse=True)
    infinite = attention(*args, sinks=[-np.inf, -np.inf], return_lse=True)
    for a, b in zip(none, infinite, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"window": (-1, 0)}, ValueError),
        ({"window": (0, -3)}, ValueError),
        ({"window": 3}, TypeError),
        ({"window": (1, 2, 3)}, (TypeError, ValueError)),
        ({"window": (1.5, 0)}, TypeError),
        ({"window": (True, 0)}, TypeError),
        ({"window": "ab"}, TypeError),
        ({"softcap": -1.0}, ValueError),
        ({"softcap": np.nan}, ValueError),
        ({"softcap": "1"}, TypeError),
        ({"sinks": [0.0]}, ValueError),
        ({"sinks": [[0.0, 0.0]]}, ValueError),
        ({"sinks": [0, 0]}, TypeError),
        ({"sinks": np.array([0, 0], object)}, TypeError),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], error: Any) -> None:
    args = make_qkv(5, 9)
    (name,) = options
    out = np.full((2, 2, 5, 16), 7, np.float32)
    with pytest.raises(error, match=name):
        attention(*args, out=out, **options)
    assert (out == 7).all()
    with pytest.raises(error, match=name):
        attnx.attention_weights(*args[:2], **options)
    packed = [np.ascontiguousarray(x[0].swapaxes(0, 1)) for x in args]
    with pytest.raises(error, match=name):
        attnx.varlen_attention(*packed, [0, 5], [0, 9], **options)
