"""layer_norm against the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, GuardedArray, assert_same_bits

from attnx import reference
from attnx.norm import layer_norm

WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 127, 128, 129, 384, 1000)


def make(rows: int, width: int, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Return x, weight, bias and residual."""
    rng = np.random.default_rng([seed, rows, width])
    shapes = ((rows, width), (width,), (width,), (rows, width))
    x, weight, bias, residual = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    return x, weight + 1, bias, residual


def assert_norm(x: Array, *args: Any, **options: Any) -> Array:
    """Hold layer_norm within plain NumPy's own error, or the walk of n roundings of a sum."""
    args = args or (None, None)
    out: Array = layer_norm(x, *args, **options)
    truth = reference.layer_norm(x, *args, **options)
    plain = reference.layer_norm(x, *args, dtype=np.float32, **options)
    assert out.dtype == np.float32
    assert out.shape == truth.shape
    rows = x.astype(float) + options.get("residual", 0)
    spread = np.sqrt(rows.var(-1) + options.get("eps", 1e-5))
    walk = 4 + x.shape[-1] ** 0.5 / 2 * (np.abs(rows.mean(-1)) / spread).max(initial=0.0)
    floor = np.finfo(np.float32).eps * walk * max(1.0, np.abs(truth).max(initial=0.0))
    assert np.abs(out - truth).max(initial=0.0) <= max(
        2 * np.abs(plain - truth).max(initial=0.0), floor
    )
    return out


@pytest.mark.parametrize("width", WIDTHS)
def test_widths(isa: str, width: int) -> None:
    for rows in (1, 7):
        x, weight, bias, residual = make(rows, width)
        assert_norm(x)
        assert_norm(x, weight, None)
        assert_norm(x, None, bias)
        assert_norm(x, weight, bias, residual=residual)


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1, 0.0])
def test_eps(isa: str, eps: float) -> None:
    assert_norm(make(5, 33)[0], *make(5, 33)[1:3], eps=eps)


@pytest.mark.parametrize("mean", [1.0, -100.0, 3e4])
@pytest.mark.parametrize("spread", [1e-2, 1.0, 1e3])
def test_a_mean_far_from_zero(isa: str, mean: float, spread: float) -> None:
    x = (make(6, 384)[0] * spread + mean).astype(np.float32)
    assert_norm(x)


@pytest.mark.parametrize("width", [33, 384, 1000, 4096])
def test_digits_survive_a_mean_far_from_zero(isa: str, width: int) -> None:
    """NumPy's own error grows with the mean (1e-3 at 1e4); numbers that are exact in float32 deserve better."""
    for mean in (1.0, 100.0, 1e4, -1e6):
        x = (make(40, width)[0] + mean).astype(np.float32)
        error = np.abs(layer_norm(x, None, None) - reference.layer_norm(x, None, None))
        assert error.max() <= 1e-5
        assert np.sqrt(np.mean(error**2)) <= 2e-6


@pytest.mark.parametrize("size", [1e-20, 1e-10, 1e10, 1e15])
def test_numbers_of_any_size(isa: str, size: float) -> None:
    assert_norm((make(6, 40)[0] * size).astype(np.float32))


@pytest.mark.parametrize("constant", [0.0, 1.0, -0.1, 1e4])
def test_constant_rows(isa: str, constant: float) -> None:
    _, weight, bias, _ = make(3, 48)
    out = layer_norm(np.full((3, 48), constant, np.float32), weight, bias)
    # What the mean is off by looks like a spread to plain sums (8e-3 of 1e4); here it is seen and taken away.
    assert np.abs(out - bias).max() <= 2e-6 * np.abs(weight).max()


def test_any_number_of_axes(isa: str) -> None:
    x, weight, bias, residual = make(24, 30)
    expected = layer_norm(x, weight, bias, residual=residual)
    for batch in ((2, 12), (2, 3, 4), (24, 1)):
        shape = (*batch, 30)
        out = layer_norm(x.reshape(shape), weight, bias, residual=residual.reshape(shape))
        assert_same_bits(out, expected.reshape(shape))
    assert_same_bits(layer_norm(x[3], weight, bias, residual=residual[3]), expected[3])
    assert layer_norm(x[:0], weight, bias).shape == (0, 30)


def test_rows_do_not_know_each_other(isa: str) -> None:
    x, weight, bias, residual = make(131, 65)
    expected = layer_norm(x, weight, bias, residual=residual, num_threads=1)
    for threads in (1, 2, 3, 4, 8):
        out = layer_norm(x, weight, bias, residual=residual, num_threads=threads)
        assert_same_bits(out, expected)
    for rows in (slice(0, 1), slice(3, 4), slice(50, 98), slice(130, 131)):
        out = layer_norm(x[rows], weight, bias, residual=residual[rows])
        assert_same_bits(out, expected[rows])


def test_nan_stays_in_its_row(isa: str) -> None:
    x, weight, bias, _ = make(9, 33)
    clean = layer_norm(x, weight, bias)
    x[4, 32] = np.nan
    out = layer_norm(x, weight, bias)
    assert np.isnan(out[4]).all()
    rest = np.arange(9) != 4
    assert_same_bits(out[rest], clean[rest])


def test_memory_does_not_matter(isa: str) -> None:
    x, weight, bias, residual = make(10, 31)
    expected = layer_norm(x, weight, bias, residual=residual)
    shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    shifted[...] = x
    for same in (np.asfortranarray(x), np.repeat(x, 2, -1)[:, ::2], shifted, x[::-1].copy()[::-1]):
        assert_same_bits(layer_norm(same, weight, bias, residual=residual), expected)
    room = np.full((10, 40), np.nan, np.float32)
    layer_norm(x, weight, bias, residual=residual, out=room[:, 5:36])
    assert_same_bits(room[:, 5:36], expected)
    assert np.isnan(room[:, :5]).all()
    assert np.isnan(room[:, 36:]).all()


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("width", [1, 7, 16, 17, 49, 65])
def test_nothing_outside_is_touched(isa: str, width: int, at: str) -> None:
    arrays = make(3, width)
    x, weight, bias, residual = (GuardedArray(a, at=at) for a in arrays)
    out = GuardedArray(np.zeros_like(arrays[0]), at=at)
    layer_norm(x.array, weight.array, bias.array, residual=residual.array, out=out.array)
    expected = layer_norm(*arrays[:3], residual=arrays[3])
    assert_same_bits(out.array, expected)


@pytest.mark.parametrize(
    "name, change",
    [
        ("x", {"x": np.ones((3, 8), np.float64)}),
        ("x", {"x": np.ones((3, 8), int)}),
        ("x", {"x": np.float32(1)}),
        ("weight", {"weight": np.ones(7, np.float32)}),
        ("weight", {"weight": np.ones(8, np.float64)}),
        ("bias", {"bias": np.ones((1, 7), np.float32)}),
        ("residual", {"residual": np.ones((3, 7), np.float32)}),
        ("out", {"out": np.ones((3, 7), np.float32)}),
        ("out", {"out": np.ones((3, 8), np.float64)}),
    ],
)
def test_bad_input(name: str, change: dict[str, Any]) -> None:
    good = {"x": np.ones((3, 8), np.float32), "weight": None, "bias": None}
    with pytest.raises((TypeError, ValueError), match=name):
        layer_norm(**good | change)
