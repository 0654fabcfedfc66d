"""Biases: arrays that broadcast, ALiBi and relative positions computed in the loop."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_like_oracle, assert_same_bits, make_qkv
from numpy.typing import DTypeLike

import attnx
from attnx.bias import ALiBi, RelativePosition

attention = attnx.scaled_dot_product_attention
RNG = np.random.default_rng(5)
SLOPES = (0.5, 0.03, -0.01, 0.0)
TABLES = {n: RNG.standard_normal((n, 4)) for n in (2, 4, 7, 32)}
OBJECTS: dict[str, Any] = {
    "alibi": ALiBi(SLOPES),
    "decoder": RelativePosition(TABLES[32], False, 128),
    "encoder": RelativePosition(TABLES[32], True, 128),
    "two buckets": RelativePosition(TABLES[2], False, 2),
    "odd table": RelativePosition(TABLES[7], False, 300),
    "near": RelativePosition(TABLES[4], True, 9),
}


def written_out(bias: Any, apart: Array) -> Array:
    """What an object adds, one number at a time: (H, L, S) for j - p (L, S)."""
    if isinstance(bias, ALiBi):
        return np.array([[[-s * abs(d) for d in row] for row in apart] for s in SLOPES])
    count = len(bias.table) // 2 if bias.bidirectional else len(bias.table)
    exact = count // 2

    def bucket(d: int) -> int:
        first = count if bias.bidirectional and d > 0 else 0
        distance = abs(d) if bias.bidirectional else max(-d, 0)
        if distance < exact:
            return first + distance
        # The largest k with exact * (max_distance / exact) ** (k / (count - exact)) <= distance.
        k = 0
        while k < count - exact - 1 and distance ** (count - exact) >= (
            bias.max_distance ** (k + 1) * exact ** (count - exact - k - 1)
        ):
            k += 1
        return first + exact + k

    rows = np.array([[bucket(int(d)) for d in row] for row in apart])
    return np.moveaxis(bias.table[rows], -1, 0)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("queries", [1, 3, 70])
def test_an_object_is_the_array_that_it_stands_for(
    isa: str, dtype: DTypeLike, queries: int, name: str
) -> None:
    args = make_qkv(queries, 210, 20, heads=4, kv_heads=2, dtype=dtype)
    for offset in (0, 140, -25, 900):
        apart = np.arange(210) - (np.arange(queries)[:, None] + offset)
        array = written_out(OBJECTS[name], apart)
        for causal in (False, True):
            options = {"query_offset": offset, "is_causal": causal}
            out, lse = attention(*args, bias=OBJECTS[name], return_lse=True, **options)
            assert_like_oracle("scaled_dot_product_attention", out, args, bias=array, **options)
            dense, dense_lse = attention(*args, bias=array, return_lse=True, **options)
            near = 256 * np.finfo(dtype).eps * (10 if abs(offset) < 900 else 100)
            np.testing.assert_allclose(out, dense, rtol=0, atol=near)
            np.testing.assert_allclose(lse, dense_lse, rtol=near, atol=near)


@pytest.mark.parametrize("name", OBJECTS)
def test_stages_of_an_object(isa: str, dtype: DTypeLike, name: str) -> None:
    """Zero queries: what is left of the scores is the bias itself."""
    query, key = np.zeros((2, 4, 9, 8), dtype), np.zeros((2, 4, 150, 8), dtype)
    apart = np.arange(150) - (np.arange(9)[:, None] + np.array([70, 3])[:, None, None])
    for b in range(2):
        biased = attnx.attention_weights(
            query, key, bias=OBJECTS[name], query_offset=[70, 3], stage="biased"
        )
        wanted = written_out(OBJECTS[name], apart[b])
        np.testing.assert_allclose(biased[b], wanted, rtol=4 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", OBJECTS)
def test_packed_sequences_have_positions_of_their_own(isa: str, name: str) -> None:
    query, key, value = (x[0].swapaxes(0, 1) for x in make_qkv(60, 300, heads=4))
    starts = [0, 25, 25, 60], [0, 100, 110, 300]
    options: dict[str, Any] = {"bias": OBJECTS[name], "window": (90, 50), "softcap": 4.0}
    out = attnx.varlen_attention(
        *(np.ascontiguousarray(x) for x in (query, key, value)), *starts,
        query_offset=[75, 0, -3], **options,
    )  # fmt: skip
    for b, offset in ((0, 75), (2, -3)):
        rows, keys = (slice(s[b], s[b + 1]) for s in starts)
        alone = attention(
            query[rows], key[keys], value[keys], layout="blhd", query_offset=offset, **options
        )
        assert_same_bits(out[rows], alone)


SHAPES = list(itertools.product((2, 1), (4, 1), (37, 1), (150, 1)))


@pytest.mark.parametrize("shape", [*SHAPES, (4, 37, 150), (37, 150), (1, 150), (150,), ()], ids=str)
def test_arrays_broadcast(isa: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    args = make_qkv(37, 150, 20, heads=4, kv_heads=2, dtype=dtype)
    bias = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    out = attention(*args, bias=bias)
    assert_like_oracle("scaled_dot_product_attention", out, args, bias=bias)
    mask = np.random.default_rng(1).standard_normal((37, 1)) > 0
    both = attention(*args, mask, bias=bias, is_causal=True)
    options = {"bias": bias, "attn_mask": mask, "is_causal": True}
    assert_like_oracle("scaled_dot_product_attention", both, args, **options)
    assert_same_bits(attention(*args, bias=np.broadcast_to(bias, (2, 4, 37, 150))), out)


def test_a_float_mask_alone_is_a_bias_alone(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(37, 150, dtype=dtype)
    array = np.random.default_rng(2).standard_normal((37, 150)).astype(dtype)
    array[array > 1] = -np.inf
    assert_same_bits(attention(*args, bias=array), attention(*args, array))


def test_minus_infinity_hides_and_a_large_number_does_not(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(5, 60, dtype=dtype)
    bias = np.zeros((5, 60), dtype)
    bias[2] = -np.inf
    bias[3] = -1e30
    bias[4, 10:] = -np.inf
    out, lse = attention(*args, bias=bias, return_lse=True)
    assert not out[:, :, 2].any()
    assert np.isneginf(lse[:, :, 2]).all()
    assert np.isfinite(lse[:, :, 3]).all()
    ten = attention(args[0][:, :, 4:], args[1][:, :, :10], args[2][:, :, :10])
    assert_same_bits(out[:, :, 4:], ten)
    args[1][:, :, 10:] = np.nan
    assert_same_bits(attention(*args, bias=bias)[:, :, 4], out[:, :, 4])


@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: ALiBi([]), ValueError, "slopes"),
        (lambda: ALiBi([[1.0]]), ValueError, "slopes"),
        (lambda: ALiBi([np.nan]), ValueError, "slopes"),
        (lambda: ALiBi(["a"]), TypeError, "slopes"),
        (lambda: ALiBi(np.ones(2, ">f4")), TypeError, "slopes"),
        (lambda: RelativePosition(np.ones((4, 1), ">f8"), True, 8), TypeError, "table"),
        (lambda: RelativePosition([1.0], True, 8), ValueError, "table"),
        (lambda: RelativePosition([[1.0]], False, 8), ValueError, "table"),
        (lambda: RelativePosition(np.zeros((4, 1)), 1, 8), TypeError, "bidirectional"),
        (lambda: RelativePosition(np.zeros((4, 1)), True, 8.0), TypeError, "max_distance"),
        (lambda: RelativePosition(np.zeros((8, 1)), False, 4), ValueError, "max_distance"),
    ],
)
def test_errors_of_the_objects(make: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        make()


def test_numbers_beyond_float32_stay_finite(isa: str) -> None:
    """An infinite slope would make NaN of the distance 0, an infinite table would hide what it is not told to."""
    args = make_qkv(5, 9)
    near = attention(*args, bias=ALiBi([1e300, 1e300]))
    assert_same_bits(near, np.ascontiguousarray(args[2][:, :, :5]))
    table = RelativePosition(np.full((8, 2), -1e300), True, 9)
    assert np.isfinite(attention(*args, bias=table)).all()


@pytest.mark.parametrize(
    ("bias", "error"),
    [
        (np.zeros((5, 9), bool), TypeError),
        (np.zeros((5, 9), int), TypeError),
        (np.zeros((5, 8), np.float32), ValueError),
        (np.zeros((3, 1, 1, 1, 1), np.float32), ValueError),
        (ALiBi([1.0]), ValueError),
        (RelativePosition(np.zeros((8, 3)), True, 9), ValueError),
        (object(), TypeError),
    ],
)
def test_errors_of_calls(bias: Any, error: type[Exception]) -> None:
    args = make_qkv(5, 9)
    out = np.full((2, 2, 5, 16), 7, np.float32)
    with pytest.raises(error, match="bias"):
        attention(*args, bias=bias, out=out)
    assert (out == 7).all()
    packed = [np.ascontiguousarray(x[0].swapaxes(0, 1)) for x in args]
    with pytest.raises((TypeError, ValueError), match="bias"):
        attnx.varlen_attention(*packed, [0, 5], [0, 9], bias=bias)
