"""The oracle itself, against loops over single numbers and against SciPy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from conftest import Array, make_qkv
from scipy import special

from attnx import reference


def attention_by_hand(
    query: Array, key: Array, value: Array, seen: Any, scale: float
) -> tuple[Array, Array]:
    """One head, one number at a time: (L, E), (S, E), (S, D) and ``seen(i, j)``."""
    out = np.zeros((len(query), value.shape[1]))
    lse = np.full(len(query), -np.inf)
    for i in range(len(query)):
        keys = [j for j in range(len(key)) if seen(i, j)]
        powers = {j: math.exp(scale * math.fsum(query[i] * key[j])) for j in keys}
        total = math.fsum(powers.values())
        if keys:
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
