"""apply_rotary and rotary_tables against the oracle, formulas and transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, GuardedArray, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx
from attnx import reference

PAIRS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 64)


def draw(*shape: int, dtype: DTypeLike = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def tables(rows: int, pairs: int, dtype: DTypeLike = np.float32) -> tuple[Array, Array]:
    """Cosines and sines of arbitrary angles: no column is like another."""
    angles = draw(rows, pairs, dtype=np.float64, seed=7) * 10
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def assert_rotary(x: Array, cos: Array, sin: Array, **options: Any) -> Array:
    """Hold the result within two roundings of both products, and what is not turned exactly."""
    out = attnx.apply_rotary(x, cos, sin, **options)
    assert out.dtype == x.dtype
    bounds = {name: np.abs(array) for name, array in (("x", x), ("cos", cos), ("sin", sin))}
    truth = reference.apply_rotary(x, cos, sin, dtype=np.longdouble, **options)
    signs = bounds | {"sin": -bounds["sin"]}
    size = reference.apply_rotary(**bounds, dtype=np.float64, **options)
    size = np.maximum(size, reference.apply_rotary(**signs, dtype=np.float64, **options))
    # Two roundings an element, and one of each table where that has the other type.
    steps = 1.0 if cos.dtype == x.dtype else 1.5
    assert (np.abs(out - truth) <= steps * np.finfo(x.dtype).eps * size).all()
    turned = 2 * cos.shape[-1]
    assert_same_bits(out[..., turned:], x[..., turned:])
    return out


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_pairs(isa: str, dtype: DTypeLike, pairs: int, interleaved: bool) -> None:
    for rest in (0, 1, 2, 17):
        for table_type in (np.float32, np.float64):
            x = draw(2, 3, 5, 2 * pairs + rest, dtype=dtype)
            assert_rotary(x, *tables(6, pairs, table_type), interleaved=interleaved)


def test_by_hand() -> None:
    cos, sin = np.array([[0.0, 0.6]]), np.array([[1.0, 0.8]])
    x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    half = [1 * 0.0 - 3 * 1.0, 2 * 0.6 - 4 * 0.8, 3 * 0.0 + 1 * 1.0, 4 * 0.6 + 2 * 0.8, 5.0]
    near = [1 * 0.0 - 2 * 1.0, 2 * 0.0 + 1 * 1.0, 3 * 0.6 - 4 * 0.8, 4 * 0.6 + 3 * 0.8, 5.0]
    np.testing.assert_allclose(attnx.apply_rotary(x, cos, sin)[0], half, rtol=1e-15)
    np.testing.assert_allclose(
        attnx.apply_rotary(x, cos, sin, interleaved=True)[0], near, rtol=1e-15
    )


@pytest.mark.parametrize("pairs", PAIRS)
def test_both_kinds_of_pairs_have_the_same_bits(isa: str, dtype: DTypeLike, pairs: int) -> None:
    x = draw(3, 4, 2 * pairs, dtype=dtype)
    cos, sin = tables(4, pairs, dtype)
    mixed = np.stack([x[..., :pairs], x[..., pairs:]], axis=-1).reshape(x.shape)
    half = attnx.apply_rotary(x, cos, sin)
    near = attnx.apply_rotary(mixed, cos, sin, interleaved=True)
    assert_same_bits(near[..., 0::2], half[..., :pairs])
    assert_same_bits(near[..., 1::2], half[..., pairs:])


@pytest.mark.parametrize(
    ("shape", "positions"),
    [
        ((5, 8), (5,)),
        ((3, 5, 8), (5,)),
        ((2, 3, 5, 8), (5,)),
        ((2, 3, 5, 8), (1, 5)),
        ((2, 3, 5, 8), (2, 5)),
        ((4, 2, 3, 5, 8), (4, 2, 5)),
        ((4, 2, 3, 5, 8), (4, 1, 5)),
        ((4, 2, 3, 5, 8), (2, 5)),
        ((4, 3, 1, 8), (4, 1)),
        ((4, 1, 1, 8), (4, 1)),
        ((1, 1, 1, 8), (1,)),
        ((1, 3, 1, 8), (1,)),
        ((2, 1, 5, 8), (2, 5)),
    ],
)
def test_positions(isa: str, shape: tuple[int, ...], positions: tuple[int, ...]) -> None:
    x, (cos, sin) = draw(*shape), tables(50, 3)
    at = np.random.default_rng(1).integers(0, 50, positions)
    expected = assert_rotary(x, cos, sin, positions=at)
    kinds: list[Any] = [at.tolist(), at.astype(np.uint8), at.astype(">i4").astype(np.int32)]
    for same in [*kinds, np.asfortranarray(at), np.broadcast_to(at, at.shape)]:
        assert_same_bits(attnx.apply_rotary(x, cos, sin, positions=same), expected)
    default = attnx.apply_rotary(x, cos, sin)
    assert_same_bits(
        default, attnx.apply_rotary(x, cos, sin, positions=np.arange(shape[-2], dtype=np.int16))
    )


def test_rows_depend_on_their_position_alone(isa: str, dtype: DTypeLike) -> None:
    """Batch, heads, chunks of L, layout and threads change no bit."""
    x, (cos, sin) = draw(3, 4, 700, 40, dtype=dtype), tables(700, 20, dtype)
    expected = attnx.apply_rotary(x, cos, sin)
    before = attnx.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            attnx.set_num_threads(threads)
            assert_same_bits(attnx.apply_rotary(x, cos, sin), expected)
    finally:
        attnx.set_num_threads(before)
    for rows in (slice(0, 1), slice(5, 6), slice(17, 300), slice(699, 700)):
        at = np.arange(700)[rows]
        for interleaved in (False, True):
            part = attnx.apply_rotary(
                x[1:2, 2:, rows], cos, sin, positions=at, interleaved=interleaved
            )
            whole = attnx.apply_rotary(x, cos, sin, interleaved=interleaved)
            assert_same_bits(part, whole[1:2, 2:, rows])
    swapped = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    assert_same_bits(attnx.apply_rotary(swapped, cos, sin), expected)


def test_memory_does_not_matter(isa: str, dtype: DTypeLike) -> None:
    x, (cos, sin) = draw(2, 3, 7, 20, dtype=dtype), tables(9, 8, dtype)
    expected = attnx.apply_rotary(x, cos, sin)
    wide = np.full((4, 6, 14, 31), np.nan, dtype)
    wide[::2, ::-2, ::2, 4:24] = x
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    unaligned[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    spread = np.empty((2, 3, 7, 60), dtype)
    spread[..., ::3] = x
    for same in (wide[::2, ::-2, ::2, 4:24], unaligned, frozen, spread[..., ::3]):
        assert_same_bits(attnx.apply_rotary(same, cos, sin), expected)
    assert_same_bits(attnx.apply_rotary(x, cos[:, ::-1][:, ::-1], sin), expected)
    both = np.empty((9, 2, 11), dtype)  # rows of both tables side by side
    both[:, 0, :8], both[:, 1, :8] = cos, sin
    assert_same_bits(attnx.apply_rotary(x, both[:, 0, :8], both[:, 1, :8]), expected)
    one = np.broadcast_to(x[:, :1], x.shape)
    assert_same_bits(attnx.apply_rotary(one, cos, sin)[:, 2], expected[:, 0])


@pytest.mark.parametrize("pairs", [1, 3, 7, 8, 9, 16, 17, 33])
@pytest.mark.parametrize("at", ["start", "end"])
def test_nothing_outside_is_touched(isa: str, dtype: DTypeLike, pairs: int, at: str) -> None:
    for rest in (0, 3):
        x = draw(1, 3, 2 * pairs + rest, dtype=dtype)
        for table_type in (np.float32, np.float64):
            inside = [GuardedArray(a, at=at) for a in (x, *tables(3, pairs, table_type))]
            out = GuardedArray(np.zeros_like(x), at=at)
            for interleaved in (False, True):
                arrays = [guarded.array for guarded in inside]
                attnx.apply_rotary(*arrays, interleaved=interleaved, out=out.array)
                assert_rotary(*arrays, interleaved=interleaved)
                free = [array.copy() for array in arrays]
                assert_same_bits(out.array, attnx.apply_rotary(*free, interleaved=interleaved))


def test_nan_stays_in_its_pair(isa: str, dtype: DTypeLike) -> None:
    x, (cos, sin) = draw(2, 9, 40, dtype=dtype), tables(9, 19, dtype)
    for interleaved in (False, True):
        clean = attnx.apply_rotary(x, cos, sin, interleaved=interleaved)
        bad = x.copy()
        bad[1, 4, 5] = np.nan
        out = attnx.apply_rotary(bad, cos, sin, interleaved=interleaved)
        hit = np.zeros(x.shape, bool)
        hit[1, 4, [4, 5] if interleaved else [5, 24]] = True
        np.testing.assert_array_equal(np.isnan(out), hit)
        assert_same_bits(out[~hit], clean[~hit])


def test_scores_depend_on_distances(isa: str) -> None:
    cos, sin = attnx.rotary_tables(1000, 64)
    query, key = draw(1, 64, seed=1), draw(1, 64, seed=2)

    def score(p: int, q: int) -> float:
        turned = [
            attnx.apply_rotary(x, cos, sin, positions=[at]) for x, at in ((query, p), (key, q))
        ]
        return (turned[0].astype(float) @ turned[1].astype(float).T).item()

    assert abs(score(3, 40) - score(900, 937)) < 1e-4
    assert abs(score(3, 40) - score(3, 41)) > 1e-2


def test_out(isa: str, dtype: DTypeLike) -> None:
    x, (cos, sin) = draw(2, 3, 6, 12, dtype=dtype), tables(6, 5, dtype)
    expected = attnx.apply_rotary(x, cos, sin)
    room = np.full((2, 6, 3, 24), np.nan, dtype)
    for view in (room[..., 5:17].swapaxes(1, 2), room[..., ::2].swapaxes(1, 2)):
        room[...] = np.nan
        assert attnx.apply_rotary(x, cos, sin, out=view) is view
        assert_same_bits(view, expected)
        assert np.isnan(room).sum() == room.size - x.size


@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (2, 0, 5, 4), (0, 3, 5, 4), (2, 3, 0, 4)])
def test_empty(isa: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    cos, sin = tables(5, shape[-1] // 2, dtype)
    out = attnx.apply_rotary(np.empty(shape, dtype), cos, sin)
    assert out.shape == shape
    assert out.dtype == dtype


GOOD: dict[str, Any] = {"x": draw(2, 3, 5, 8), "cos": tables(9, 4)[0], "sin": tables(9, 4)[1]}


@pytest.mark.parametrize(
    ("error", "name", "change"),
    [
        (TypeError, "x", {"x": np.ones((2, 8), int)}),
        (TypeError, "x", {"x": np.ma.ones((2, 8), "f4")}),
        (TypeError, "x", {"x": np.ones((2, 8), ">f4")}),
        (ValueError, "x", {"x": np.ones(8, np.float32)}),
        (ValueError, "cos", {"x": np.ones((2, 7), np.float32)}),
        (ValueError, "cos", {"cos": np.ones(4, np.float32)}),
        (ValueError, "cos", {"cos": np.ones((2, 9, 4), np.float32)}),
        (TypeError, "cos", {"cos": np.ones((9, 4), int)}),
        (ValueError, "sin", {"sin": np.ones((9, 3), np.float32)}),
        (ValueError, "sin", {"sin": np.ones((8, 4), np.float32)}),
        (TypeError, "sin", {"sin": np.ones((9, 4))}),
        (TypeError, "interleaved", {"interleaved": 1}),
        (ValueError, "positions", {"positions": [0, 1, 2, 3, 9]}),
        (ValueError, "positions", {"positions": [0, 1, 2, 3, -1]}),
        (ValueError, "positions", {"positions": np.array([0, 0, 0, 0, 2**63], np.uint64)}),
        (ValueError, "positions", {"positions": 0}),
        (ValueError, "positions", {"positions": [0]}),
        (ValueError, "positions", {"positions": np.zeros((3, 5), int)}),
        (ValueError, "positions", {"positions": np.zeros((2, 3, 5), int)}),
        (ValueError, "positions", {"positions": np.zeros((1, 2, 5), int)}),
        (ValueError, "positions", {"positions": np.zeros((2, 1), int)}),
        (TypeError, "positions", {"positions": np.zeros(5)}),
        (TypeError, "positions", {"positions": np.zeros(5, bool)}),
        (ValueError, "positions", {"x": np.ones((10, 8), np.float32)}),
        (ValueError, "out", {"out": np.empty((2, 3, 5, 4), np.float32)}),
        (TypeError, "out", {"out": np.empty((2, 3, 5, 8))}),
    ],
)
def test_bad_input(error: type[Exception], name: str, change: dict[str, Any]) -> None:
    out = np.full((2, 3, 5, 8), np.nan, np.float32)
    with pytest.raises(error, match=rf"^{name} must"):
        attnx.apply_rotary(**GOOD | {"out": out} | change)
    assert np.isnan(out).all()


def test_out_may_not_overlap() -> None:
    room = draw(3, 5, 8)
    with pytest.raises(ValueError, match="out must not overlap"):
        attnx.apply_rotary(room[:2], GOOD["cos"], GOOD["sin"], out=room[1:])
    cos = np.ones((9, 4), np.float32)
    with pytest.raises(ValueError, match="out must not overlap"):
        attnx.apply_rotary(draw(2, 8), cos, GOOD["sin"], out=cos[:4].reshape(2, 8))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("pairs", [1, 3, 4, 7, 8, 15, 16, 17, 33, 64])
def test_halves_are_rounded_once(isa: str, half: str, pairs: int) -> None:
    if half == "bfloat16":
        half = pytest.importorskip("ml_dtypes").bfloat16
    cos, sin = tables(9, pairs)
    positions = np.array([[3, 1, 8], [0, 5, 5]])
    for rest in (0, 5):
        x = GuardedArray(draw(2, 4, 3, 2 * pairs + rest).astype(half)).array
        for interleaved in (False, True):
            options: dict[str, Any] = {"interleaved": interleaved, "positions": positions}
            out = attnx.apply_rotary(x, cos, sin, **options)
            wide = attnx.apply_rotary(x.astype(np.float32), cos, sin, **options)
            assert_same_bits(out, wide.astype(half))
            room = GuardedArray(np.zeros_like(x)).array
            assert_same_bits(attnx.apply_rotary(x, cos, sin, out=room, **options), out)
    small = cos.astype(half), sin.astype(half)
    for dtype in (np.float32, np.float64):
        x, exact = draw(4, 9, 2 * pairs, dtype=dtype), [table.astype(dtype) for table in small]
        assert_same_bits(attnx.apply_rotary(x, *small), attnx.apply_rotary(x, *exact))


@given(data=st.data())
def test_anything(isa: str, data: st.DataObject) -> None:
    batch = data.draw(st.lists(st.integers(0, 3), max_size=2))
    heads = data.draw(st.lists(st.integers(0, 3), min_size=len(batch) > 0, max_size=1))
    length, pairs = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
    rest, kind = data.draw(st.integers(0, 5)), data.draw(st.sampled_from([np.float32, np.float64]))
    shape = data.draw(st.sampled_from([(length,), (*batch, length), (*[1] * len(batch), length)]))
    positions = np.random.default_rng(length).integers(0, 50, shape)
    assert_rotary(
        draw(*batch, *heads, length, 2 * pairs + rest, dtype=kind),
        *tables(50, pairs, data.draw(st.sampled_from([np.float32, np.float64]))),
        interleaved=data.draw(st.booleans()),
        positions=data.draw(st.sampled_from([None, positions])),
    )
