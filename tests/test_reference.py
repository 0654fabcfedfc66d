"""The oracle itself, against loops over single numbers and against SciPy."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Array, make_qkv
from scipy import special

from attnx import reference


def attention_by_hand(
    query: Array,
    key: Array,
    value: Array,
    seen: Any,
    scale: float,
    *,
    after: Any = None,
    sink: float = -math.inf,
) -> tuple[Array, Array]:
    """One head, one number at a time: (L, E), (S, E), (S, D), ``seen(i, j)``, ``after(score, i, j)``."""
    out = np.zeros((len(query), value.shape[1]))
    lse = np.full(len(query), sink)
    for i in range(len(query)):
        keys = [j for j in range(len(key)) if seen(i, j)]
        scores = {j: scale * math.fsum(query[i] * key[j]) for j in keys}
        powers = {j: math.exp(after(x, i, j) if after else x) for j, x in scores.items()}
        total = math.fsum([*powers.values(), math.exp(sink)])
        if total:
            lse[i] = math.log(total)
        for j, d in itertools.product(keys, range(value.shape[1])):
            out[i, d] += powers[j] / total * value[j, d]
    return out, lse


@pytest.mark.parametrize(
    "options, seen",
    [
        ({}, lambda i, j: True),
        ({"is_causal": True}, lambda i, j: j <= i),
        ({"is_causal": True, "query_offset": 2}, lambda i, j: j <= i + 2),
        ({"is_causal": True, "query_offset": -2}, lambda i, j: j <= i - 2),
        ({"query_offset": -2}, lambda i, j: True),
        ({"key_lengths": 3}, lambda i, j: j < 3),
        ({"key_lengths": 0}, lambda i, j: False),
        ({"query_lengths": 2}, lambda i, j: i < 2),
        ({"key_lengths": 4, "is_causal": True}, lambda i, j: j < 4 and j <= i),
        ({"attn_mask": np.arange(7) % 3 > 0}, lambda i, j: j % 3 > 0),
        ({"attn_mask": np.tri(5, 7, 1, bool)}, lambda i, j: j <= i + 1),
        ({"attn_mask": np.where(np.arange(7) > 2, 0.0, -np.inf)}, lambda i, j: j > 2),
        ({"scale": 0.7}, lambda i, j: True),
        ({"window": (2, 0)}, lambda i, j: i - 2 <= j <= i),
        ({"window": (0, 0)}, lambda i, j: j == i),
        ({"window": (None, 1)}, lambda i, j: j <= i + 1),
        ({"window": (1, None), "query_offset": -2}, lambda i, j: j >= i - 3),
        ({"window": (1, 3), "query_offset": 4}, lambda i, j: i + 3 <= j <= i + 7),
        ({"window": (3, 2), "is_causal": True}, lambda i, j: i - 3 <= j <= i),
        ({"bias": np.where(np.arange(7) > 2, 0.0, -np.inf)}, lambda i, j: j > 2),
    ],
)
def test_attention(options: dict[str, Any], seen: Any) -> None:
    args = make_qkv(5, 7, 4, batch=(), heads=None, value_dim=3, dtype=np.float64)
    out, lse = reference.scaled_dot_product_attention(*args, return_lse=True, **options)
    expected, expected_lse = attention_by_hand(*args, seen, options.get("scale", 0.5))
    np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-13)


def test_a_float_mask_is_added() -> None:
    query, key, value = make_qkv(5, 7, 4, batch=(), heads=None, dtype=np.float64)
    mask = np.random.default_rng(0).standard_normal((5, 7))
    weights = special.softmax(query @ key.T / 2 + mask, axis=-1)
    np.testing.assert_allclose(reference.attention_weights(query, key, mask), weights)
    out = reference.scaled_dot_product_attention(query, key, value, mask)
    np.testing.assert_allclose(out, weights @ value)


ALIBI = SimpleNamespace(slopes=[0.5, -0.25])
TABLE = np.random.default_rng(1).standard_normal((6, 2))
# Six buckets one way: 0 1 2 | 3 to 4.3 | to 6.2 | from there; both ways: 0 | 1 | from 1 * 9 ** 0.5.
ONE_WAY = [0, 1, 2, 3, 3, 4, 4, 5, 5, 5]
BOTH_WAYS = [0, 1, 1, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("offset", [0, 3, -2])
@pytest.mark.parametrize("h", [0, 1])
def test_softcap_then_bias_then_sink(h: int, offset: int) -> None:
    query, key, value = make_qkv(5, 7, 4, batch=(3,), heads=2, kv_heads=1, dtype=np.float64)
    array = np.random.default_rng(2).standard_normal((3, 1, 5, 7))
    one_way = SimpleNamespace(table=TABLE, bidirectional=False, max_distance=9)
    both_ways = SimpleNamespace(table=TABLE, bidirectional=True, max_distance=9)

    def right(j: int, p: int) -> int:
        return BOTH_WAYS[abs(j - p)] + (3 if j > p else 0)

    cases: list[tuple[Any, Any]] = [
        (array, lambda i, j, p: array[1, 0, i, j]),
        (ALIBI, lambda i, j, p: -ALIBI.slopes[h] * abs(p - j)),
        (one_way, lambda i, j, p: TABLE[ONE_WAY[max(p - j, 0)], h]),
        (both_ways, lambda i, j, p: TABLE[right(j, p), h]),
    ]
    for (bias, number), offsets in itertools.product(cases, (offset, [9, offset, 1])):
        out, lse = reference.scaled_dot_product_attention(
            query, key, value, bias=bias, softcap=0.4, sinks=[0.3, -0.2], return_lse=True,
            query_offset=offsets,
        )  # fmt: skip
        expected, expected_lse = attention_by_hand(
            query[1, h], key[1, 0], value[1, 0], lambda i, j: True, 0.5, sink=[0.3, -0.2][h],
            after=lambda x, i, j, f=number: 0.4 * math.tanh(x / 0.4) + f(i, j, i + offset),
        )  # fmt: skip
        np.testing.assert_allclose(out[1, h], expected, rtol=1e-12)
        np.testing.assert_allclose(lse[1, h], expected_lse, rtol=1e-12)


def test_rows_that_see_nothing_beside_a_sink() -> None:
    args = make_qkv(4, 3, dtype=np.float64)
    options = {"sinks": [0.5, -np.inf], "key_lengths": [0, 3], "query_lengths": [3, 2]}
    out, lse = reference.scaled_dot_product_attention(*args, return_lse=True, **options)
    assert not out[0].any()
    np.testing.assert_array_equal(lse[0, 0], [0.5, 0.5, 0.5, -np.inf])
    assert np.isneginf(lse[0, 1]).all()
    assert np.isneginf(lse[1, :, 2:]).all()
    sums = reference.attention_weights(*args[:2], **options).sum(-1)
    assert (sums[1, 0, :2] < 1).all()
    np.testing.assert_allclose(sums[1, 1, :2], 1)


def test_stages_of_the_weights() -> None:
    query, key, _ = make_qkv(5, 7, 4, batch=(2,), heads=1, dtype=np.float64)
    bias = np.random.default_rng(3).standard_normal((5, 7))
    options: dict[str, Any] = {
        "bias": bias, "softcap": 0.8, "window": (2, 2), "key_lengths": [6, 7], "query_lengths": 4,
        "attn_mask": np.arange(7) != 2,
    }  # fmt: skip
    scores, capped, biased, weights = (
        reference.attention_weights(query, key, stage=stage, **options)[0, 0]
        for stage in ("scores", "capped", "biased", "weights")
    )
    for i, j in itertools.product(range(5), range(7)):
        inside = i < 4 and j < 6
        seen = inside and abs(i - j) <= 2 and j != 2
        score = query[0, 0, i] @ key[0, 0, j] / 2 if inside else 0
        assert scores[i, j] == pytest.approx(score)
        assert capped[i, j] == pytest.approx(0.8 * math.tanh(score / 0.8))
        assert biased[i, j] == (pytest.approx(capped[i, j] + bias[i, j]) if seen else -np.inf)
    np.testing.assert_allclose(weights[:4], special.softmax(biased[:4], axis=-1))
    assert not weights[4].any()


def test_heads_batches_and_layouts() -> None:
    query, key, value = make_qkv(5, 7, 4, batch=(2,), heads=6, kv_heads=3, dtype=np.float64)
    lengths, offsets = [3, 7], [0, 2]
    out, lse = reference.scaled_dot_product_attention(
        query, key, value, is_causal=True, key_lengths=lengths, query_offset=offsets,
        return_lse=True,
    )  # fmt: skip
    for b, h in itertools.product(range(2), range(6)):
        expected, expected_lse = attention_by_hand(
            query[b, h], key[b, h // 2], value[b, h // 2],
            lambda i, j, b=b: j <= i + offsets[b] and j < lengths[b], 0.5,
        )  # fmt: skip
        np.testing.assert_allclose(out[b, h], expected, rtol=1e-12)
        np.testing.assert_allclose(lse[b, h], expected_lse, rtol=1e-12)
    swapped = (x.swapaxes(1, 2) for x in (query, key, value))
    other = reference.scaled_dot_product_attention(
        *swapped, is_causal=True, key_lengths=lengths, query_offset=offsets, layout="blhd"
    )
    np.testing.assert_allclose(other.swapaxes(1, 2), out)


def test_the_unseen_has_no_influence_and_the_seen_has() -> None:
    query, key, value = make_qkv(6, 6, 4, dtype=np.float64)
    clean = reference.scaled_dot_product_attention(query, key, value, is_causal=True)
    key[0, :, 3], value[1, :, 4], value[1, :, 5, 0] = np.nan, np.inf, -np.inf
    out = reference.scaled_dot_product_attention(query, key, value, is_causal=True)
    np.testing.assert_array_equal(out[0, :, :3], clean[0, :, :3])
    assert np.isnan(out[0, :, 3:]).all()
    np.testing.assert_allclose(out[1, :, :4], clean[1, :, :4], rtol=1e-14)
    assert np.isposinf(out[1, :, 4]).all()
    assert np.isnan(out[1, :, 5, 0]).all()
    assert np.isposinf(out[1, :, 5, 1:]).all()


def test_empty_rows_and_empty_arrays() -> None:
    args = make_qkv(3, 0)
    out, lse = reference.scaled_dot_product_attention(*args, return_lse=True)
    assert out.shape == (2, 2, 3, 16)
    assert not out.any()
    assert np.isneginf(lse).all()
    assert reference.scaled_dot_product_attention(*make_qkv(0, 3)).shape == (2, 2, 0, 16)
    no_dim = make_qkv(3, 4, 0, value_dim=2)
    mean = np.broadcast_to(no_dim[2].mean(2, keepdims=True), (2, 2, 3, 2))
    np.testing.assert_allclose(reference.scaled_dot_product_attention(*no_dim), mean, atol=1e-7)


def test_the_dtype_asked_for() -> None:
    args = make_qkv(3, 4)
    for dtype in (np.float32, np.float64, np.longdouble):
        out, lse = reference.scaled_dot_product_attention(
            *args, np.zeros((3, 4)), dtype=dtype, return_lse=True
        )
        assert out.dtype == lse.dtype == dtype
        assert reference.attention_weights(*args[:2], dtype=dtype).dtype == dtype
        assert reference.softmax(args[0], dtype=dtype).dtype == dtype
        assert reference.layer_norm(args[0], dtype=dtype).dtype == dtype
        assert reference.linear(args[0], args[1][0, 0], dtype=dtype).dtype == dtype


def test_varlen() -> None:
    query, key, value = (x[0].swapaxes(0, 1) for x in make_qkv(5, 9, dtype=np.float64))
    out, lse = reference.varlen_attention(
        query, key, value, [0, 2, 2, 5], [0, 4, 4, 9],
        is_causal=True, query_offset=[2, 0, 1], return_lse=True,
    )  # fmt: skip
    for rows, keys, offset in ((slice(0, 2), slice(0, 4), 2), (slice(2, 5), slice(4, 9), 1)):
        for h in range(2):
            expected, expected_lse = attention_by_hand(
                query[rows, h], key[keys, h], value[keys, h],
                lambda i, j, offset=offset: j <= i + offset, 0.25,
            )  # fmt: skip
            np.testing.assert_allclose(out[rows, h], expected, rtol=1e-6)
            np.testing.assert_allclose(lse[rows, h], expected_lse, rtol=1e-6)


def test_softmax() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    for axis in (-1, 0, 1):
        np.testing.assert_allclose(reference.softmax(x, axis=axis), special.softmax(x, axis=axis))
    mask = np.array([True, False, True, False, True])
    out = reference.softmax(x, mask=mask)
    np.testing.assert_allclose(out[..., mask], special.softmax(x[..., mask], axis=-1))
    assert not out[..., ~mask].any()
    assert not reference.softmax(x, mask=np.zeros((), bool)).any()


def test_layers() -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((3, 4)), rng.standard_normal((5, 4)), np.arange(5.0)
    flat = np.array([[x[r] @ weight[c] + bias[c] for c in range(5)] for r in range(3)])
    np.testing.assert_allclose(reference.linear(x, weight, bias), flat)
    gelu = flat * special.ndtr(flat)
    np.testing.assert_allclose(reference.linear(x, weight, bias, activation="gelu"), gelu)
    relu = np.where(flat > 0, flat, 0) + flat
    out = reference.linear(x, weight, bias, activation="relu", residual=flat)
    np.testing.assert_allclose(out, relu)
    out = reference.layer_norm(x, residual=x, eps=0)
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-15)
    np.testing.assert_allclose(out.std(-1), 1)
    scaled = reference.layer_norm(x, x[0], x[1], residual=x, eps=0)
    np.testing.assert_allclose(scaled, out * x[0] + x[1])
