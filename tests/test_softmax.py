"""softmax against the oracle: sizes, axes, masks, strides, special values, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import SIZES, Array, GuardedArray, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import DTypeLike

import attnx
from attnx import reference


def draw(*shape: int, dtype: DTypeLike = np.float32, seed: int = 0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * 3).astype(dtype)


def assert_softmax(x: Array, **options: Any) -> Array:
    """Hold softmax of x within a few roundings of each weight; return it."""
    out: Array = attnx.softmax(x, **options)
    truth = reference.softmax(x, **options)
    assert out.dtype == x.dtype
    eps = float(np.finfo(x.dtype).eps)
    tiny = float(np.finfo(x.dtype).tiny)
    # exp's argument carries half a rounding of a score, of at most 16 times 4 here.
    np.testing.assert_allclose(out, truth, rtol=40 * eps, atol=tiny)
    return out


@pytest.mark.parametrize("size", [*SIZES, 255, 256, 257, 1000, 4099])
def test_length_of_a_row(isa: str, dtype: DTypeLike, size: int) -> None:
    for rows in (1, 3):
        out = assert_softmax(draw(rows, size, dtype=dtype))
        assert out.shape == (rows, size)
        mask = np.random.default_rng(size).random((rows, size)) < 0.5
        assert_softmax(draw(rows, size, dtype=dtype), mask=mask)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7), (2, 3, 5, 17), (2, 1, 3, 2, 5)])
def test_every_axis(isa: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    x = draw(*shape, dtype=dtype)
    mask = np.random.default_rng(1).random(shape) < 0.6
    for axis in range(-len(shape), len(shape)):
        assert_softmax(x, axis=axis)
        assert_softmax(x, axis=axis, mask=mask)


def test_an_axis_changes_no_bit(isa: str) -> None:
    x = draw(9, 33, 6)
    assert_same_bits(attnx.softmax(x, axis=1), attnx.softmax(x.swapaxes(1, 2)).swapaxes(1, 2))


@pytest.mark.parametrize("shape", [(), (1,), (37,), (5, 1), (1, 37), (3, 1, 1), (1, 5, 37)])
def test_masks_broadcast(isa: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    x = draw(3, 5, 37, dtype=dtype)
    mask = np.asarray(np.random.default_rng(2).random(shape) < 0.7)
    assert_softmax(x, mask=mask)
    assert_softmax(x, mask=np.broadcast_to(mask, x.shape))


def test_a_row_that_is_all_masked_is_zero(isa: str, dtype: DTypeLike) -> None:
    x = draw(4, 37, dtype=dtype)
    x[1] = np.nan
    mask = np.ones((4, 1), bool)
    mask[1:3] = False
    out = attnx.softmax(x, mask=mask)
    assert_same_bits(out[1:3], np.zeros((2, 37), dtype))
    assert_same_bits(out[[0, 3]], attnx.softmax(x[[0, 3]], mask=np.ones((2, 37), bool)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_masked_numbers_have_no_influence(isa: str, dtype: DTypeLike, bad: float) -> None:
    for size in (1, 7, 16, 17, 67):
        x = draw(5, size, dtype=dtype)
        mask = np.random.default_rng(size).random((5, size)) < 0.5
        clean = attnx.softmax(x, mask=mask)
        x[~mask] = bad
        assert_same_bits(attnx.softmax(x, mask=mask), clean)
        assert not clean[~mask].any()


@pytest.mark.parametrize("size", [1, 5, 16, 33, 257])
def test_nan_stays_in_its_row(isa: str, dtype: DTypeLike, size: int) -> None:
    x = draw(6, size, dtype=dtype)
    clean = attnx.softmax(x)
    for where in (0, size // 2, size - 1):
        bad = x.copy()
        bad[2, where] = np.nan
        out = attnx.softmax(bad)
        assert np.isnan(out[2]).all()
        rest = [0, 1, 3, 4, 5]
        assert_same_bits(out[rest], clean[rest])


def test_numbers_of_any_size(isa: str, dtype: DTypeLike) -> None:
    big = float(np.finfo(dtype).max)
    rows = [
        [big, big, -big, 0.0],
        [-big, -big, -big, -big],
        [0.0, -0.0, 0.0, 0.0],
        [-np.inf, 1.0, 1.0, -np.inf],
        [1e30, 1e30, -1e30, 1e29],
        [np.finfo(dtype).smallest_subnormal, 0.0, 0.0, 0.0],
        [-1e4, 0.0, -103.0, -80.0],
    ]
    assert_softmax(np.array(rows, dtype))
    assert np.isnan(attnx.softmax(np.array([[np.inf, 1.0]], dtype))).any()


def test_memory_does_not_matter(isa: str, dtype: DTypeLike) -> None:
    x = draw(6, 40, dtype=dtype)
    expected = attnx.softmax(x)
    wide = np.empty((12, 120), dtype)
    wide[::2, ::3] = x
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    unaligned[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    reverse = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
    for same in (wide[::2, ::3], unaligned, frozen, reverse, np.asfortranarray(x)):
        assert_same_bits(attnx.softmax(same), expected)
    thin = np.broadcast_to(x[:, :1], x.shape)
    assert_same_bits(attnx.softmax(thin), attnx.softmax(np.ascontiguousarray(thin)))


@pytest.mark.parametrize("size", [1, 3, 7, 15, 16, 17, 63, 64, 65, 129])
@pytest.mark.parametrize("at", ["start", "end"])
def test_nothing_outside_is_touched(isa: str, dtype: DTypeLike, size: int, at: str) -> None:
    x = draw(3, size, dtype=dtype)
    inside = GuardedArray(x, at=at)
    mask = GuardedArray(np.arange(3 * size).reshape(3, size) % 3 > 0, at=at)
    out = GuardedArray(np.zeros_like(x), at=at)
    assert_same_bits(attnx.softmax(inside.array), attnx.softmax(x))
    attnx.softmax(inside.array, mask=mask.array, out=out.array)
    assert_same_bits(out.array, attnx.softmax(x, mask=mask.array))


def test_rows_do_not_know_each_other(isa: str, dtype: DTypeLike) -> None:
    x = draw(70, 50, dtype=dtype)
    expected = attnx.softmax(x, num_threads=1)
    for threads in (1, 2, 3, 4, 8):
        assert_same_bits(attnx.softmax(x, num_threads=threads), expected)
    for rows in (slice(0, 1), slice(3, 5), slice(17, 70)):
        assert_same_bits(attnx.softmax(x[rows]), expected[rows])


def test_out(isa: str, dtype: DTypeLike) -> None:
    x = draw(6, 40, dtype=dtype)
    expected = attnx.softmax(x)
    room = np.full((6, 80), np.nan, dtype)
    attnx.softmax(x, out=room[:, ::2])
    assert_same_bits(room[:, ::2], expected)
    assert np.isnan(room[:, 1::2]).all()
    out = np.empty_like(x)
    assert attnx.softmax(x, out=out) is out


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
def test_empty(isa: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    x = np.empty(shape, dtype)
    for axis in range(len(shape)):
        out = attnx.softmax(x, axis=axis)
        assert out.shape == shape
        assert out.dtype == dtype


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (TypeError, "x", {"x": np.ones((2, 3), int)}),
        (TypeError, "x", {"x": np.ones((2, 3), complex)}),
        (TypeError, "x", {"x": np.ones((2, 3), object)}),
        (TypeError, "x", {"x": np.ones((2, 3), np.dtype("f4").newbyteorder())}),
        (TypeError, "x", {"x": np.ma.ones((2, 3), "f4")}),
        (ValueError, "axis", {"axis": 2}),
        (ValueError, "axis", {"axis": -3}),
        (TypeError, "axis", {"axis": 1.0}),
        (TypeError, "mask", {"mask": np.ones((2, 3), int)}),
        (ValueError, "mask", {"mask": np.ones((2, 4), bool)}),
        (ValueError, "mask", {"mask": np.ones((1, 2, 2, 3), bool)[:, :, :, :2]}),
        (ValueError, "out", {"out": np.empty((3, 2), np.float32)}),
        ((TypeError, ValueError), "out", {"out": np.empty((2, 3), np.float64)}),
        (ValueError, "num_threads", {"num_threads": 0}),
    ],
)
def test_bad_input(error: type[Exception], name: str, arguments: dict[str, Any]) -> None:
    arguments = {"x": np.ones((2, 3), np.float32)} | arguments
    with pytest.raises(error, match=name):
        attnx.softmax(arguments.pop("x"), **arguments)


def test_out_over_a_part_of_the_input() -> None:
    room = draw(1, 101).ravel()
    before = room.copy()
    with pytest.raises(ValueError, match="out"):
        attnx.softmax(room[:100], out=room[1:])
    assert_same_bits(room, before)


@given(
    x=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=20),
        elements=st.floats(-30, 30, width=32),
    ),
    data=st.data(),
)
def test_any_array(isa: str, x: Array, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    out = assert_softmax(x, axis=axis)
    np.testing.assert_allclose(out.sum(axis, dtype=float), 1, rtol=32 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_computed_in_float32(dtype: str) -> None:
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    x = draw(5, 70, seed=3).astype(kind)
    result = attnx.softmax(x, mask=np.arange(70) < 60)
    assert result.dtype == kind
    wanted = attnx.softmax(x.astype(np.float32), mask=np.arange(70) < 60).astype(kind)
    assert result.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("rows", [7, 33, 301, 1001])
@pytest.mark.parametrize("items", [3, 100, 1000])
def test_strided_rows_in_many_tasks(isa: str, items: int, rows: int) -> None:
    """Rows that are gathered, and their masks, have the bits of contiguous ones."""
    rng = np.random.default_rng(rows)
    wide = rng.standard_normal((rows, 2 * items), dtype=np.float32)
    mask = rng.random((items, rows)) < 0.5
    near, far = wide[:, :items], wide[:, ::2]
    for threads in (1, 2, 3):
        expected = attnx.softmax(far.copy(), num_threads=threads)
        assert_same_bits(attnx.softmax(far, num_threads=threads), expected)
        expected = attnx.softmax(near.copy(), mask=mask.T.copy(), num_threads=threads)
        assert_same_bits(attnx.softmax(near, mask=mask.T, num_threads=threads), expected)
        down = attnx.softmax(near.T.copy(), axis=0, mask=mask, num_threads=threads)
        assert_same_bits(down.T, expected)
