"""The packed linear layer and its fused ends, against the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, GuardedArray, assert_same_bits

from attnx import reference
from attnx.linear import linear, pack_weight

FEATURES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 63, 65, 96, 127, 129, 384)


def make(rows: int, inputs: int, outputs: int, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Return x, weight, bias and residual."""
    rng = np.random.default_rng([seed, rows, inputs, outputs])
    shapes = ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    x, weight, bias, residual = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    return x, weight / np.float32(max(inputs, 1) ** 0.5), bias, residual


def assert_linear(x: Array, weight: Array, *args: Any, **options: Any) -> Array:
    """Hold linear within a small multiple of plain NumPy's own error; return it."""
    out: Array = linear(x, pack_weight(weight), *args, **options)
    truth = reference.linear(x, weight, *args, **options)
    plain = reference.linear(x, weight, *args, dtype=np.float32, **options)
    assert out.dtype == np.float32
    assert out.shape == truth.shape
    floor = 8 * np.finfo(np.float32).eps * max(1.0, np.abs(truth).max(initial=0.0))
    assert np.abs(out - truth).max(initial=0.0) <= max(
        3 * np.abs(plain - truth).max(initial=0.0), floor
    )
    return out


@pytest.mark.parametrize("outputs", FEATURES)
def test_output_features(isa: str, outputs: int) -> None:
    for rows in (1, 6, 17):
        x, weight, bias, _ = make(rows, 19, outputs)
        assert_linear(x, weight)
        assert_linear(x, weight, bias)


@pytest.mark.parametrize("inputs", FEATURES)
def test_input_features(isa: str, inputs: int) -> None:
    for rows in (1, 6, 17):
        x, weight, bias, _ = make(rows, inputs, 21)
        assert_linear(x, weight, bias)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 31, 47, 48, 49, 130])
def test_rows(isa: str, rows: int) -> None:
    x, weight, bias, residual = make(rows, 40, 50)
    assert_linear(x, weight, bias, residual=residual)


@pytest.mark.parametrize("rows", [33, 130])
@pytest.mark.parametrize("inputs", [127, 128, 129, 257, 400])
def test_inputs_in_parts(isa: str, rows: int, inputs: int) -> None:
    x, weight, bias, residual = make(rows, inputs, 50)
    out = assert_linear(x, weight, bias, residual=residual)
    alone = linear(x[7:9], pack_weight(weight), bias, residual=residual[7:9])
    assert_same_bits(out[7:9], alone)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "tanh"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_fused_ends(isa: str, activation: str | None, with_bias: bool, with_residual: bool) -> None:
    for outputs in (1, 16, 37):
        x, weight, bias, residual = make(9, 30, outputs)
        assert_linear(
            x * 3,
            weight,
            bias if with_bias else None,
            activation=activation,
            residual=residual if with_residual else None,
        )


def test_gelu_is_the_exact_one(isa: str) -> None:
    """Through a weight of 1: from deep in the left tail to where gelu(x) is x."""
    x = np.concatenate([np.linspace(-14, 14, 4001), [-1e30, 1e30, -1e-30, 0.0, -0.0]])
    x = x.astype(np.float32)[:, None]
    one = pack_weight(np.ones((1, 1), np.float32))
    out = linear(x, one, activation="gelu")
    truth = reference.gelu(x.astype(np.float64))
    # In the left tail 1 + erf cancels: what is left is a rounding of 1, times x.
    eps = np.finfo(np.float32).eps
    assert np.all(np.abs(out - truth) <= 8 * eps * np.abs(truth) + eps * np.minimum(np.abs(x), 9))
    assert np.isnan(linear(np.full((1, 1), np.nan, np.float32), one, activation="gelu")).all()
    assert np.isnan(linear(np.full((1, 1), np.nan, np.float32), one, activation="relu")).all()


def test_any_number_of_axes(isa: str) -> None:
    x, weight, bias, residual = make(24, 30, 20)
    expected = linear(x, pack_weight(weight), bias, residual=residual)
    for batch in ((2, 12), (2, 3, 4), (24, 1), (1, 24)):
        out = linear(
            x.reshape(*batch, 30), pack_weight(weight), bias, residual=residual.reshape(*batch, 20)
        )
        assert_same_bits(out, expected.reshape(*batch, 20))
    assert_same_bits(linear(x[3], pack_weight(weight), bias, residual=residual[3]), expected[3])


@pytest.mark.parametrize("outputs", FEATURES)
def test_unpacking_gives_the_weight_back(isa: str, outputs: int) -> None:
    for inputs in (1, 16, 33):
        weight = make(1, inputs, outputs)[1]
        packed = pack_weight(weight)
        assert (packed.in_features, packed.out_features) == (inputs, outputs)
        assert_same_bits(packed.unpack(), weight)
        strided = np.asfortranarray(weight)
        assert_same_bits(pack_weight(strided).unpack(), weight)


def test_packing_copies(isa: str) -> None:
    x, weight, _, _ = make(3, 8, 8)
    packed = pack_weight(weight)
    before = linear(x, packed)
    weight[...] = np.nan
    assert_same_bits(linear(x, packed), before)


def test_rows_do_not_know_each_other(isa: str) -> None:
    x, weight, bias, residual = make(131, 65, 70)
    packed = pack_weight(weight)
    expected = linear(x, packed, bias, activation="gelu", residual=residual, num_threads=1)
    for threads in (1, 2, 3, 4, 8):
        out = linear(x, packed, bias, activation="gelu", residual=residual, num_threads=threads)
        assert_same_bits(out, expected)
    for rows in (slice(0, 1), slice(3, 4), slice(1, 7), slice(50, 98), slice(130, 131)):
        out = linear(x[rows], packed, bias, activation="gelu", residual=residual[rows])
        assert_same_bits(out, expected[rows])


def test_nan_stays_in_its_row_or_column(isa: str) -> None:
    x, weight, _, _ = make(20, 33, 40)
    clean = linear(x, pack_weight(weight))
    x[7, 32] = np.nan
    out = linear(x, pack_weight(weight))
    assert np.isnan(out[7]).all()
    rest = np.arange(20) != 7
    assert_same_bits(out[rest], clean[rest])
    weight[39, 0] = np.inf
    column = linear(x, pack_weight(weight))
    assert not np.isfinite(column[:, 39]).any()
    assert_same_bits(column[:, :39], out[:, :39])


def test_memory_does_not_matter(isa: str) -> None:
    x, weight, bias, residual = make(10, 30, 20)
    packed = pack_weight(weight)
    expected = linear(x, packed, bias, residual=residual)
    for same in (np.asfortranarray, lambda a: np.repeat(a, 2, -1)[..., ::2], unaligned, reverse):
        out = linear(same(x), packed, bias, residual=same(residual))
        assert_same_bits(out, expected)
    room = np.full((10, 40), np.nan, np.float32)
    result = linear(x, packed, bias, residual=residual, out=room[:, :20])
    assert np.shares_memory(result, room)
    assert_same_bits(room[:, :20], expected)
    assert np.isnan(room[:, 20:]).all()


def unaligned(x: Array) -> Array:
    shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    shifted[...] = x
    return shifted


def reverse(x: Array) -> Array:
    return np.flip(np.ascontiguousarray(np.flip(x)))


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("outputs", [1, 7, 16, 17, 49])
def test_nothing_outside_is_touched(isa: str, outputs: int, at: str) -> None:
    for rows in (1, 5, 13):
        x, weight, bias, residual = make(rows, 9, outputs)
        inside = [GuardedArray(a, at=at) for a in (x, weight, bias, residual)]
        out = GuardedArray(np.zeros_like(residual), at=at)
        packed = pack_weight(inside[1].array)
        linear(inside[0].array, packed, inside[2].array, residual=inside[3].array, out=out.array)
        expected = linear(x, pack_weight(weight), bias, residual=residual)
        assert_same_bits(out.array, expected)


@pytest.mark.parametrize(
    "name, change",
    [
        ("x", {"x": np.ones((3, 9), np.float32)}),
        ("x", {"x": np.ones((3, 8), np.float64)}),
        ("x", {"x": np.ones((3, 8), int)}),
        ("x", {"x": np.float32(1)}),
        ("bias", {"bias": np.ones(6, np.float32)}),
        ("bias", {"bias": np.ones((5, 1), np.float32)}),
        ("residual", {"residual": np.ones((3, 6), np.float32)}),
        ("residual", {"residual": np.ones((3, 5), np.float64)}),
        ("out", {"out": np.ones((3, 6), np.float32)}),
        ("out", {"out": np.ones((3, 5), np.float64)}),
        ("activation", {"activation": "swish"}),
    ],
)
def test_bad_input(name: str, change: dict[str, Any]) -> None:
    good = {"x": np.ones((3, 8), np.float32), "weight": pack_weight(np.ones((5, 8), np.float32))}
    with pytest.raises((TypeError, ValueError), match=name):
        linear(**good | change)


@pytest.mark.parametrize("weight", [np.ones(3, "f4"), np.ones((3, 4)), np.ones((3, 4), int), None])
def test_bad_weights(weight: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="weight"):
        pack_weight(weight)
