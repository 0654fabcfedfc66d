"""merge_attention: parts of the keys against all of them, and against the oracle."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits, make_qkv
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx
from attnx import reference


def split(
    args: tuple[Array, Array, Array], cuts: list[int], **options: Any
) -> tuple[list[Array], list[Array]]:
    """Attention over each range of keys by itself."""
    query, key, value = args
    ends = [0, *cuts, key.shape[-2]]
    parts = [
        attnx.scaled_dot_product_attention(
            query, key[..., a:b, :], value[..., a:b, :], return_lse=True, **options
        )
        for a, b in itertools.pairwise(ends)
    ]
    return [out for out, _ in parts], [lse for _, lse in parts]


@pytest.mark.parametrize("cuts", [[], [1], [96], [192], [0, 0, 300], [7, 50, 51, 190, 250]])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_union_of_keys(isa: str, dtype: DTypeLike, cuts: list[int], kv_heads: int) -> None:
    args = make_qkv(9, 300, 24, kv_heads=kv_heads, value_dim=17, dtype=dtype)
    out, lse = attnx.merge_attention(*split(args, cuts))
    truth, truth_lse = reference.scaled_dot_product_attention(*args, return_lse=True)
    assert out.dtype == dtype
    assert lse.dtype == dtype
    eps = float(np.finfo(np.dtype(dtype)).eps)
    np.testing.assert_allclose(out, truth, rtol=0, atol=16 * eps * np.abs(args[2]).max())
    np.testing.assert_allclose(lse, truth_lse, rtol=0, atol=16 * eps * np.abs(truth_lse).max())


def test_one_part_is_itself(isa: str, dtype: DTypeLike) -> None:
    outputs, lses = split(make_qkv(5, 40, dtype=dtype), [])
    out, lse = attnx.merge_attention(outputs, lses)
    assert_same_bits(out, outputs[0])
    assert_same_bits(lse, lses[0])
    assert not np.shares_memory(out, outputs[0])
    assert not np.shares_memory(lse, lses[0])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_against_the_oracle(dtype: str) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(3)
    sums = np.float64 if dtype == "float64" else np.float32
    outputs = [rng.standard_normal((2, 3, 5, 7)).astype(dtype) for _ in range(4)]
    lses = [(rng.standard_normal((2, 3, 5)) * 30).astype(sums) for _ in range(4)]
    lses[1][0], lses[2][:, 1] = -np.inf, -np.inf
    out, lse = attnx.merge_attention(outputs, lses)
    truth, truth_lse = reference.merge_attention(outputs, lses, dtype=np.longdouble)
    assert out.dtype == np.dtype(dtype)
    assert lse.dtype == sums
    eps = float(np.finfo(sums).eps)
    out_eps = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(np.dtype(dtype).name, 0.0)
    largest = max(float(np.abs(part.astype(float)).max()) for part in outputs)
    assert np.abs(out.astype(np.longdouble) - truth).max() <= (4 * eps + out_eps) * largest
    np.testing.assert_allclose(lse, truth_lse.astype(float), rtol=eps)


def test_what_saw_nothing_has_no_influence(dtype: DTypeLike) -> None:
    rng = np.random.default_rng(4)
    outputs = [rng.standard_normal((6, 3)).astype(dtype) for _ in range(3)]
    lses = [rng.standard_normal(6).astype(dtype) for _ in range(3)]
    lses[1][2:] = -np.inf
    clean = attnx.merge_attention(outputs, lses)
    for bad in (np.nan, np.inf):
        outputs[1][2:] = bad
        for got, wanted in zip(attnx.merge_attention(outputs, lses), clean, strict=True):
            assert_same_bits(got, wanted)
    for lse in lses:
        lse[4] = -np.inf
    outputs[0][4] = np.nan
    out, lse = attnx.merge_attention(outputs, lses)
    assert_same_bits(out[4], np.zeros(3, dtype))
    assert lse[4] == -np.inf
    assert_same_bits(out[:4], clean[0][:4])


def test_nan_stays_in_its_row(dtype: DTypeLike) -> None:
    outputs, lses = [np.ones((4, 3), dtype)] * 2, [np.zeros(4, dtype) for _ in range(2)]
    lses[1][2] = np.nan
    out, lse = attnx.merge_attention(outputs, lses)
    np.testing.assert_array_equal(np.isnan(out), np.arange(4)[:, None] == [2, 2, 2])
    np.testing.assert_array_equal(np.isnan(lse), np.arange(4) == 2)
    lses[1][2], outputs[1] = -5, outputs[1].copy()
    outputs[1][3, 1] = np.nan
    assert np.argwhere(np.isnan(attnx.merge_attention(outputs, lses)[0])).tolist() == [[3, 1]]


def test_scores_far_apart(dtype: DTypeLike) -> None:
    big = float(np.finfo(dtype).max) / 4
    outputs = [np.full((1, 2), number, dtype) for number in (1, 2, 3)]
    lses = [np.array([number], dtype) for number in (-big, big, 0)]
    out, lse = attnx.merge_attention(outputs, lses)
    np.testing.assert_array_equal(out, [[2, 2]])
    np.testing.assert_array_equal(lse, lses[1])
    far = [np.array([-5000.0], dtype)] * 2
    out, lse = attnx.merge_attention(outputs[:2], far)
    np.testing.assert_array_equal(out, [[1.5, 1.5]])
    np.testing.assert_allclose(lse, [-5000 + np.log(2)], rtol=1e-7)


def test_packed_rows_and_a_sink(isa: str) -> None:
    """A sink is given to one part; packed rows merge like others."""
    query, key, value = make_qkv(6, 20, 8, batch=(), heads=2)
    outputs, lses = split((query, key, value), [11])
    rows = [out.swapaxes(0, 1) for out in outputs], [lse.T for lse in lses]
    out, lse = attnx.merge_attention(*rows)
    whole = attnx.merge_attention(outputs, lses)
    assert_same_bits(out, whole[0].swapaxes(0, 1))
    assert_same_bits(lse, whole[1].T)
    sink = np.zeros_like(outputs[0]), np.full_like(lses[0], 0.5)
    out, lse = attnx.merge_attention([*outputs, sink[0]], [*lses, sink[1]])
    scale = np.exp(whole[1]) / (np.exp(whole[1]) + np.exp(0.5))
    np.testing.assert_allclose(out, whole[0] * scale[..., None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 5), (0,)])
def test_empty(dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    lses = [np.zeros(shape[:-1], dtype)] * 2
    out, lse = attnx.merge_attention([np.ones(shape, dtype)] * 2, lses)
    assert out.shape == shape
    assert lse.shape == shape[:-1]


def test_memory_does_not_grow_with_the_parts() -> None:
    out, lse = np.ones((64, 1024), np.float32), np.zeros(64, np.float32)
    peaks = []
    for count in (2, 200):
        tracemalloc.start()
        attnx.merge_attention([out] * count, [lse] * count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[0] < 4 * out.nbytes


GOOD: dict[str, Any] = {
    "outputs": [np.ones((2, 3, 4), np.float32)] * 2,
    "lses": [np.zeros((2, 3), np.float32)] * 2,
}


@pytest.mark.parametrize(
    ("error", "name", "change"),
    [
        (ValueError, "outputs", {"outputs": [], "lses": []}),
        (ValueError, "lses", {"lses": GOOD["lses"][:1]}),
        (ValueError, r"outputs\[1\]", {"outputs": [GOOD["outputs"][0], np.ones((2, 3, 5), "f4")]}),
        (TypeError, r"outputs\[1\]", {"outputs": [GOOD["outputs"][0], np.ones((2, 3, 4))]}),
        (TypeError, r"outputs\[0\]", {"outputs": [np.ones((2, 3, 4), int)] * 2}),
        (TypeError, r"outputs\[0\]", {"outputs": [np.ones((2, 3, 4), ">f4")] * 2}),
        (
            TypeError,
            r"outputs\[1\]",
            {"outputs": [GOOD["outputs"][0], np.ma.ones((2, 3, 4), "f4")]},
        ),
        (TypeError, "outputs must be a sequence", {"outputs": None}),
        (TypeError, "lses must be a sequence", {"lses": 1.0}),
        (ValueError, r"lses\[0\]", {"lses": [np.zeros((2, 3, 1), np.float32)] * 2}),
        (ValueError, r"lses\[1\]", {"lses": [GOOD["lses"][0], np.zeros((3, 2), np.float32)]}),
        (TypeError, r"lses\[0\]", {"lses": [np.zeros((2, 3))] * 2}),
        (TypeError, r"lses\[0\]", {"lses": [np.zeros((2, 3), np.float16)] * 2}),
        (ValueError, r"outputs\[0\]", {"outputs": [np.float32(1)], "lses": [np.float32(1)]}),
    ],
)
def test_bad_input(error: type[Exception], name: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=name):
        attnx.merge_attention(**GOOD | change)


@given(
    cuts=st.lists(st.integers(0, 230), max_size=6).map(sorted),
    sizes=st.tuples(st.integers(0, 20), st.integers(0, 230), st.integers(1, 20)),
    lengths=st.lists(st.integers(0, 230), min_size=2, max_size=2),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_any_parts(
    isa: str, cuts: list[int], sizes: tuple[int, int, int], lengths: list[int], dtype: DTypeLike
) -> None:
    queries, keys, dim = sizes
    args = make_qkv(queries, keys, dim, dtype=dtype)
    mask = np.arange(keys) < np.minimum(lengths, keys)[:, None, None, None]
    ends = [0, *(min(cut, keys) for cut in cuts), keys]
    parts = [
        attnx.scaled_dot_product_attention(
            args[0], args[1][..., a:b, :], args[2][..., a:b, :], mask[..., a:b], return_lse=True
        )
        for a, b in itertools.pairwise(ends)
    ]
    out, lse = attnx.merge_attention([out for out, _ in parts], [lse for _, lse in parts])
    truth, truth_lse = reference.scaled_dot_product_attention(*args, mask, return_lse=True)
    eps = float(np.finfo(np.dtype(dtype)).eps)
    np.testing.assert_array_equal(np.isinf(lse), np.isinf(truth_lse))
    np.testing.assert_allclose(lse, truth_lse, rtol=16 * eps, atol=40 * eps)
    np.testing.assert_allclose(out, truth, rtol=0, atol=100 * eps)
    assert not out[truth_lse == -np.inf].any()
