"""varlen_attention: packed sequences, each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, GuardedArray, assert_same_bits, assert_within, tolerance
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx
from attnx import reference

QUERY_LENGTHS = (5, 0, 1, 17, 3, 64, 0)
KEY_LENGTHS = (7, 4, 0, 17, 200, 49, 0)


def starts(lengths: Any) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def packed(
    query_lengths: Any = QUERY_LENGTHS,
    key_lengths: Any = KEY_LENGTHS,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    dims: tuple[int, int] = (16, 12),
    dtype: DTypeLike = np.float32,
) -> tuple[Array, ...]:
    """Return query, key, value, query_starts, key_starts."""
    rng = np.random.default_rng([*query_lengths, *key_lengths])
    query = rng.standard_normal((sum(query_lengths), heads, dims[0]))
    key = rng.standard_normal((sum(key_lengths), kv_heads, dims[0]))
    value = rng.standard_normal((sum(key_lengths), kv_heads, dims[1]))
    arrays = (x.astype(dtype) for x in (query, key, value))
    return (*arrays, starts(query_lengths), starts(key_lengths))


def assert_varlen(args: tuple[Array, ...], **options: Any) -> None:
    """Hold the output against the oracle."""
    dtype = args[0].dtype
    out, lse = attnx.varlen_attention(*args, return_lse=True, **options)
    truth, lse_truth = reference.varlen_attention(*args, return_lse=True, **options)
    plain = reference.varlen_attention(*args, dtype=dtype, **options)
    longest = int(np.diff(args[4]).max(initial=0))
    bound = tolerance(
        dtype, truth, plain, length=longest, value_max=float(np.abs(args[2]).max(initial=0))
    )
    assert out.dtype == lse.dtype == dtype
    assert_within(out, truth, bound)
    assert lse.shape == args[0].shape[:2]
    np.testing.assert_allclose(lse, lse_truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("offset", [0, 3, -4, [0, 1, 2, 0, 197, -1, 5]])
def test_against_the_oracle(isa: str, dtype: DTypeLike, causal: bool, offset: Any) -> None:
    assert_varlen(packed(dtype=dtype), is_causal=causal, query_offset=offset)
    assert_varlen(packed(dtype=dtype, heads=3, kv_heads=3), is_causal=causal, scale=0.1)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_each_sequence_has_the_bits_it_has_alone(isa: str, dtype: DTypeLike, threads: int) -> None:
    query, key, value, query_starts, key_starts = packed(dtype=dtype)
    for causal in (False, True):
        out, lse = attnx.varlen_attention(
            query, key, value, query_starts, key_starts,
            is_causal=causal, return_lse=True, num_threads=threads,
        )  # fmt: skip
        for b in range(len(QUERY_LENGTHS)):
            rows = slice(query_starts[b], query_starts[b + 1])
            keys = slice(key_starts[b], key_starts[b + 1])
            alone, alone_lse = attnx.scaled_dot_product_attention(
                query[rows], key[keys], value[keys],
                is_causal=causal, layout="blhd", return_lse=True,
            )  # fmt: skip
            assert_same_bits(out[rows], alone)
            assert_same_bits(lse[rows], np.ascontiguousarray(alone_lse.T))


def test_order_and_neighbours_do_not_matter(isa: str) -> None:
    args = packed()
    out = attnx.varlen_attention(*args, is_causal=True)
    order = np.arange(len(QUERY_LENGTHS))[::-1]
    rows = np.concatenate([np.arange(args[3][b], args[3][b + 1]) for b in order])
    keys = np.concatenate([np.arange(args[4][b], args[4][b + 1]) for b in order])
    turned = attnx.varlen_attention(
        args[0][rows], args[1][keys], args[2][keys],
        starts(np.diff(args[3])[order]), starts(np.diff(args[4])[order]), is_causal=True,
    )  # fmt: skip
    assert_same_bits(turned, out[rows])
    poisoned = [x.copy() for x in args[:3]]
    for x, begins in zip(poisoned, (args[3], args[4], args[4]), strict=True):
        x[begins[4] : begins[5]] = np.nan
    again = attnx.varlen_attention(*poisoned, *args[3:], is_causal=True)
    others = np.r_[: args[3][4], args[3][5] : len(out)]
    assert_same_bits(again[others], out[others])
    assert np.isnan(again[args[3][4] : args[3][5]]).all()


def test_queries_without_keys_are_zero(isa: str, dtype: DTypeLike) -> None:
    args = packed((3, 2), (0, 5), dtype=dtype)
    out, lse = attnx.varlen_attention(*args, return_lse=True)
    assert_same_bits(out[:3], np.zeros((3, 4, 12), dtype))
    assert np.isneginf(lse[:3]).all()
    assert np.isfinite(lse[3:]).all()


@pytest.mark.parametrize("lengths", [(), (0,), (0, 0, 0)])
def test_nothing_at_all(isa: str, lengths: tuple[int, ...]) -> None:
    out, lse = attnx.varlen_attention(*packed(lengths, lengths), return_lse=True)
    assert out.shape == (0, 4, 12)
    assert lse.shape == (0, 4)


def test_out_and_strides(isa: str, dtype: DTypeLike) -> None:
    args = packed(dtype=dtype)
    expected = attnx.varlen_attention(*args)
    room = np.full((len(expected), 4, 30), np.nan, dtype)
    attnx.varlen_attention(*args, out=room[..., 10:22])
    assert_same_bits(room[..., 10:22], expected)
    assert np.isnan(room[..., :10]).all()
    assert np.isnan(room[..., 22:]).all()
    strided = [np.repeat(x, 2, axis=0)[::2] for x in args[:3]]
    assert_same_bits(attnx.varlen_attention(*strided, *args[3:]), expected)
    heads_first = [np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1) for x in args[:3]]
    assert_same_bits(attnx.varlen_attention(*heads_first, *args[3:]), expected)
    small = [x.astype(np.int32) for x in args[3:]]
    assert_same_bits(attnx.varlen_attention(*args[:3], *small), expected)


@pytest.mark.parametrize("at", ["start", "end"])
def test_nothing_outside_is_touched(isa: str, dtype: DTypeLike, at: str) -> None:
    args = packed(dtype=dtype)
    inside = [GuardedArray(x, at=at) for x in args]
    out = attnx.varlen_attention(*(x.array for x in inside), is_causal=True)
    assert_same_bits(out, attnx.varlen_attention(*args, is_causal=True))


@pytest.mark.parametrize(
    "error, name, change",
    [
        (ValueError, "query_starts", {"query_starts": np.array([0, 5, 4, 10])}),
        (ValueError, "query_starts", {"query_starts": np.array([0, 5, 8, 11])}),
        (ValueError, "query_starts", {"query_starts": np.array([0, 5, 8, 9])}),
        (ValueError, "query_starts", {"query_starts": np.array([1, 5, 8, 10])}),
        (ValueError, "query_starts", {"query_starts": np.array([-1, 5, 8, 10])}),
        (ValueError, "query_starts", {"query_starts": np.array([[0, 5, 8, 10]])}),
        (ValueError, "query_starts", {"query_starts": np.array([], int)}),
        (TypeError, "query_starts", {"query_starts": np.array([0.0, 5, 8, 10])}),
        (ValueError, "key_starts", {"key_starts": np.array([0, 7, 5, 12])}),
        (ValueError, "key_starts", {"key_starts": np.array([0, 7, 9, 2**40])}),
        (ValueError, "key_starts", {"key_starts": np.array([0, 12])}),
        ((TypeError, ValueError), "key_starts", {"key_starts": "all"}),
        (ValueError, "query", {"query": np.zeros((10, 16), np.float32)}),
        (ValueError, "key", {"key": np.zeros((12, 3, 16), np.float32)}),
        (ValueError, "value", {"value": np.zeros((11, 2, 12), np.float32)}),
        (TypeError, "value", {"value": np.zeros((12, 2, 12), np.int32)}),
        (ValueError, "query_offset", {"query_offset": [1, 2]}),
        (ValueError, "out", {"out": np.zeros((10, 4, 16), np.float32)}),
        (ValueError, "num_threads", {"num_threads": 0}),
    ],
)
def test_bad_input(error: type[Exception], name: str, change: dict[str, Any]) -> None:
    names = ("query", "key", "value", "query_starts", "key_starts")
    good = dict(zip(names, packed((5, 3, 2), (7, 2, 3)), strict=True))
    out = np.full((10, 4, 12), np.nan, np.float32)
    with pytest.raises(error, match=name):
        attnx.varlen_attention(**good | {"out": out} | change)
    assert np.isnan(out).all()


@given(
    lengths=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 210)), max_size=6),
    dims=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    causal=st.booleans(),
    group=st.integers(1, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_any_lengths(
    isa: str,
    lengths: list[tuple[int, int]],
    dims: tuple[int, int],
    causal: bool,
    group: int,
    dtype: DTypeLike,
) -> None:
    args = packed(
        [x for x, _ in lengths],
        [x for _, x in lengths],
        heads=2 * group,
        dims=dims,
        dtype=dtype,
    )
    assert_varlen(args, is_causal=causal)
