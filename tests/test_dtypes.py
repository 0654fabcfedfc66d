"""float16 and bfloat16: computed in float32, rounded once; keys and values stored smaller."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import (
    HALVES,
    SIZES,
    Array,
    GuardedArray,
    assert_like_oracle,
    assert_same_bits,
    make_qkv,
)
from numpy.typing import DTypeLike

import attnx

attention = attnx.scaled_dot_product_attention
SMALLER = [
    (np.float32, np.float16),
    (np.float32, ml_dtypes.bfloat16),
    (np.float64, np.float32),
    (np.float64, np.float16),
    (np.float64, ml_dtypes.bfloat16),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True, "query_offset": 20},
    "all": {
        "is_causal": True,
        "query_offset": [100, 3],
        "window": (60, 0),
        "softcap": 3.0,
        "sinks": [0.3, -0.2],
        "bias": attnx.bias.ALiBi([0.1, 0.01]),
        "key_lengths": [120, 49],
        "attn_mask": np.random.default_rng(0).random(210) < 0.8,
    },
}


def name(dtype: DTypeLike) -> str:
    return np.dtype(dtype).name


@pytest.fixture(params=HALVES, ids=name)
def half(request: pytest.FixtureRequest) -> DTypeLike:
    """Run the test in both 16-bit types."""
    return request.param


@pytest.mark.parametrize("keys", SIZES)
def test_number_of_keys(isa: str, half: DTypeLike, keys: int) -> None:
    for queries in (1, 5, 50):
        for layout in ("bhld", "blhd"):
            args = make_qkv(queries, keys, 20, dtype=half, layout=layout)
            out, lse = attention(*args, layout=layout, return_lse=True)
            assert (out.dtype, lse.dtype) == (half, np.float32)
            assert_like_oracle("scaled_dot_product_attention", out, args, layout=layout)


@pytest.mark.parametrize("head_dim", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 80, 128, 257, 1024])
def test_head_dims(isa: str, half: DTypeLike, head_dim: int) -> None:
    for queries in (1, 6, 53):
        args = make_qkv(queries, 53, head_dim, value_dim=max(head_dim - 1, 1), dtype=half)
        assert_like_oracle("scaled_dot_product_attention", attention(*args), args)


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("queries", [1, 4, 33, 100])
def test_options(isa: str, half: DTypeLike, queries: int, case: str) -> None:
    args = make_qkv(queries, 210, 24, dtype=half)
    out = attention(*args, **OPTIONS[case])
    assert_like_oracle("scaled_dot_product_attention", out, args, **OPTIONS[case])
    for stage in ("scores", "capped", "biased", "weights"):
        found = attnx.attention_weights(*args[:2], stage=stage, **OPTIONS[case])
        assert found.dtype == half
        assert_like_oracle(
            "attention_weights", found, args[:2], stage=stage, **OPTIONS[case]
        )  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("queries", [1, 4, 33, 100])
def test_16_bits_are_float32_rounded_once(
    isa: str, half: DTypeLike, queries: int, case: str
) -> None:
    """Not merely near it: the conversions are exact, the arithmetic is the same."""
    args = make_qkv(queries, 210, 24, dtype=half)
    wide = tuple(x.astype(np.float32) for x in args)
    out, lse = attention(*args, return_lse=True, **OPTIONS[case])
    wide_out, wide_lse = attention(*wide, return_lse=True, **OPTIONS[case])
    assert_same_bits(out, wide_out.astype(half))
    assert_same_bits(lse, wide_lse)


@pytest.mark.parametrize(("dtype", "stored"), SMALLER, ids=name)
@pytest.mark.parametrize("case", OPTIONS)
def test_keys_and_values_stored_smaller(
    isa: str, case: str, dtype: DTypeLike, stored: DTypeLike
) -> None:
    for queries in (1, 5, 60):
        query, key, value = make_qkv(queries, 210, 24, heads=2, kv_heads=1, dtype=dtype)
        small = (query, key.astype(stored), value.astype(stored))
        wide = (query, small[1].astype(dtype), small[2].astype(dtype))
        out, lse = attention(*small, return_lse=True, **OPTIONS[case])
        wide_out, wide_lse = attention(*wide, return_lse=True, **OPTIONS[case])
        assert_same_bits(out, wide_out)
        assert_same_bits(lse, wide_lse)
        for mixed in ((query, key, small[2]), (query, small[1], value)):
            found = attention(*mixed, **OPTIONS[case])
            assert_like_oracle("scaled_dot_product_attention", found, mixed, **OPTIONS[case])
        found = attnx.attention_weights(*small[:2], **OPTIONS[case])
        assert_same_bits(found, attnx.attention_weights(*wide[:2], **OPTIONS[case]))


@pytest.mark.parametrize(
    ("query", "key"),
    [("float16", "bfloat16"), ("bfloat16", "float16"), ("float16", "float32")]
    + [("float32", "float64"), ("bfloat16", "float64")],
)
def test_nothing_is_stored_larger_or_otherwise(query: str, key: str) -> None:
    types = {"bfloat16": ml_dtypes.bfloat16}
    args = [x.astype(types.get(query, query)) for x in make_qkv(3, 5)]
    for k, argument in ((1, "key"), (2, "value")):
        changed = list(args)
        changed[k] = args[k].astype(types.get(key, key))
        with pytest.raises(TypeError, match=argument):
            attention(*changed)


@pytest.mark.parametrize("queries", [1, 9])
def test_every_number_of_16_bits(isa: str, half: DTypeLike, queries: int) -> None:
    """Each is a value that one key alone carries: subnormals, zeros, infinities and NaN too."""
    every = np.arange(2**16, dtype=np.uint16).view(half)
    value = every.reshape(1, 64, 1024)[:, :, None, :].swapaxes(0, 1)  # 64 heads of one key
    zeros = np.zeros((64, 1, queries, 3), half)
    out = attention(zeros, zeros[:, :, :1], value)
    with np.errstate(invalid="ignore"):  # some of the NaN are signalling ones
        found, expected = out.astype(np.float64), value.astype(np.float64)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_rounding_is_to_nearest_even(isa: str, half: DTypeLike) -> None:
    """The mean of two neighbours lies half way between them."""
    low = np.arange(0x3C00, 0x3E00, dtype=np.uint16)
    value = np.stack([low, low + 1]).view(half)[None]
    zeros = np.zeros((1, 2, 4), half)
    for queries in (1, 2):
        out = attention(zeros[:, :queries], zeros, value)
        even = np.where(low % 2, low + 1, low)
        np.testing.assert_array_equal(out.view(np.uint16)[0], [even] * queries)


def test_float16_overflows_to_infinity(isa: str) -> None:
    """The sum of the bias and the score may exceed 65504: only what is stored is float16."""
    query = np.full((1, 2, 4), 200, np.float16)
    scores = attnx.attention_weights(query, query, scale=1.0, stage="scores")
    assert np.isposinf(scores).all()
    np.testing.assert_array_equal(attention(query, query, query, scale=1.0), query)


@pytest.mark.parametrize("head_dim", [1, 3, 8, 15, 16, 17, 40])
def test_nothing_outside_the_arrays_is_touched(isa: str, half: DTypeLike, head_dim: int) -> None:
    for queries, keys in ((1, 1), (1, 50), (3, 7), (17, 49), (50, 131)):
        args = make_qkv(queries, keys, head_dim, value_dim=head_dim + 2, batch=(), dtype=half)
        expected = attention(*args)
        for at in ("start", "end"):
            inside = [GuardedArray(x, at=at).array for x in args]
            room = GuardedArray(np.zeros_like(expected), at=at).array
            attention(*inside, out=room)
            assert_same_bits(room, expected)


def strided(x: Array) -> Array:
    """Return the same numbers with gaps between rows and columns."""
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def test_strides(isa: str, half: DTypeLike) -> None:
    args = make_qkv(20, 70, dtype=half)
    expected = attention(*args)
    assert_same_bits(attention(*(strided(x) for x in args)), expected)
    turned = [np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1] for x in args]
    assert_same_bits(attention(*turned), expected)


def test_packed_rows(isa: str, half: DTypeLike) -> None:
    args = [np.ascontiguousarray(x[0].swapaxes(0, 1)) for x in make_qkv(60, 90, dtype=half)]
    out = attnx.varlen_attention(*args, [0, 20, 60], [0, 50, 90])
    alone = attention(args[0][:20], args[1][:50], args[2][:50], layout="blhd")
    assert_same_bits(out[:20], alone)


def test_bfloat16_is_recognised_and_not_imported() -> None:
    """The package brings no ml_dtypes; whoever has such arrays has imported it."""
    code = "import sys, attnx; assert 'ml_dtypes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    with pytest.raises(TypeError, match="query"):
        attention(*(x.astype(ml_dtypes.float8_e4m3) for x in make_qkv(2, 3)))
