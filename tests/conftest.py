"""What the tests share: instruction sets, tolerances, inputs, guard pages, bit comparison."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import DTypeLike, NDArray

import attnx
from attnx import reference

Array = NDArray[Any]

# The isa fixture holds for all examples of a test, which is what hypothesis asks about.
_HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=_HEALTH,
)
settings.register_profile(
    "deep", max_examples=5000, deadline=None, suppress_health_check=_HEALTH, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

ISAS = tuple(attnx.available_isas())
FLOATS = (np.float32, np.float64)
HALVES = (np.float16, ml_dtypes.bfloat16)  # stored, never computed in
# Around vectors of 4, 8 and 16 numbers, tiles of 48 and 128, and blocks of 192 keys.
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 97, 127, 128, 129, 191, 193)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every instruction set that this machine has."""
    with attnx.force_isa(request.param):
        yield request.param


@pytest.fixture(params=FLOATS, ids=lambda t: np.dtype(t).name)
def dtype(request: pytest.FixtureRequest) -> DTypeLike:
    """Run the test in every element type."""
    return request.param


# --- inputs --------------------------------------------------------------------------------------


def make_qkv(
    queries: int,
    keys: int,
    head_dim: int = 16,
    *,
    batch: tuple[int, ...] = (2,),
    heads: int | None = 2,
    kv_heads: int | None = None,
    value_dim: int | None = None,
    dtype: DTypeLike = np.float32,
    layout: str = "bhld",
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    """Return normal query, key and value; ``heads=None`` leaves the head axis out."""
    rng = np.random.default_rng([seed, queries, keys, head_dim])

    def draw(num_heads: int | None, length: int, width: int) -> Array:
        middle = (length,) if num_heads is None else (num_heads, length)
        if layout == "blhd":
            middle = middle[::-1]
        return rng.standard_normal((*batch, *middle, width)).astype(dtype)

    kv_heads = heads if kv_heads is None else kv_heads
    return (
        draw(heads, queries, head_dim),
        draw(kv_heads, keys, head_dim),
        draw(kv_heads, keys, head_dim if value_dim is None else value_dim),
    )


# --- tolerance -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tolerance:
    """How far a result may be from the truth: at one element, and root mean square."""

    largest: float
    rms: float


def tolerance(
    dtype: DTypeLike,
    truth: Array,
    plain: Array,
    *,
    length: int,
    value_max: float,
    score_max: float = np.inf,
    strict: bool = False,
) -> Tolerance:
    """Rule 9: so many times the error of plain NumPy in this dtype, which is measured here.

    ``truth`` is the oracle one precision up and ``plain`` the oracle in ``dtype``. Plain NumPy may
    be exact by luck on a few numbers, so there is a floor of some roundings of the values and of
    the scores behind them. ``strict`` is for outputs of thousands of numbers: it lowers the floor
    to two roundings of the largest value, and leaves the root mean square almost none.
    """
    eps = float(np.finfo(np.dtype(dtype)).eps)
    times = 2.0 if length <= 2048 else 3.0
    largest, rms = _errors(plain, truth)
    floor = eps * value_max * (2.0 if strict else 2.0 * (1.0 + min(score_max, 16.0)))
    rms_floor = floor / 40.0 if strict else floor / 4.0
    bound = Tolerance(max(times * largest, floor), max(times * rms, rms_floor))
    if score_max > 16.0:
        return bound
    ceiling = 4e-6 * value_max * (eps / float(np.finfo(np.float32).eps))
    return Tolerance(min(bound.largest, ceiling), min(bound.rms, ceiling))


def assert_within(actual: Array, truth: Array, bound: Tolerance) -> None:
    """Hold both bounds; NaN and infinities must sit in the same places."""
    assert actual.shape == truth.shape, (actual.shape, truth.shape)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(truth))
    infinite = np.isinf(truth)
    np.testing.assert_array_equal(actual[infinite], truth[infinite].astype(actual.dtype))
    largest, rms = _errors(actual, truth)
    assert largest <= bound.largest, f"largest error {largest:.3e} > {bound.largest:.3e}"
    assert rms <= bound.rms, f"rms error {rms:.3e} > {bound.rms:.3e}"


def assert_like_oracle(
    name: str, actual: Array, args: tuple[Any, ...], *, strict: bool = False, **options: Any
) -> None:
    """Compare with ``attnx.reference``'s function of this name within :func:`tolerance`.

    For attention ``args`` begin with query, key and value (or query and key for the weights). What
    is 16 bits wide is computed in float32 and may be one rounding further away.
    """
    dtype = computed_in(actual.dtype)
    oracle: Callable[..., Any] = getattr(reference, name)
    truth = oracle(*args, dtype=_one_up(dtype), **options)
    plain = oracle(*args, dtype=dtype, **options)
    attention = name in ("scaled_dot_product_attention", "varlen_attention")
    score_max = score_bound(args[0], args[1], options)
    scores_wanted = options.get("stage", "weights") != "weights"
    if scores_wanted and score_max == np.inf:
        score_max = _largest(truth)
    bound = tolerance(
        dtype,
        truth,
        plain,
        length=max(args[1].shape[-3:-1]) if args[1].ndim > 2 else len(args[1]),
        value_max=score_max if scores_wanted else _largest(args[2]) if attention else 1.0,
        score_max=1.0 if scores_wanted else score_max,
        strict=strict,
    )
    assert_within(actual, truth, bound)


def _one_up(dtype: DTypeLike) -> DTypeLike:
    return np.float64 if np.dtype(dtype) == np.float32 else np.longdouble


def computed_in(dtype: DTypeLike) -> np.dtype[Any]:
    """Return what numbers of this type are computed in."""
    return np.dtype(np.float32) if np.dtype(dtype).itemsize == 2 else np.dtype(dtype)


def rounding(actual: Array) -> Array:
    """How far each number of 16 bits may be from the one that was rounded to it."""
    if actual.dtype.itemsize > 2:
        return np.zeros(())
    info = ml_dtypes.finfo(actual.dtype)
    size = np.maximum(np.abs(actual.astype(np.float64)), float(info.smallest_normal))
    return np.asarray(size * float(info.eps) / 2)


def _errors(actual: Array, truth: Array) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        difference = np.asarray(actual, dtype=truth.dtype) - truth
        room = rounding(actual).astype(truth.dtype)
        difference = difference - np.clip(difference, -room, room)
    difference = difference[np.isfinite(difference)]
    if difference.size == 0:
        return 0.0, 0.0
    return float(np.abs(difference).max()), float(np.sqrt(np.mean(difference**2)))


def _largest(x: Array) -> float:
    finite = x[np.isfinite(x)].astype(np.float64)
    return float(np.abs(finite).max()) if finite.size else 0.0


def _added(bias: Any) -> float:
    """No number of an array is larger than this; what an object adds may be of any size."""
    if bias is None:
        return 0.0
    return _largest(np.asarray(bias)) if np.ndim(bias) or np.isscalar(bias) else np.inf


def score_bound(query: Array, key: Array, options: dict[str, Any]) -> float:
    """No score is larger than this (Cauchy-Schwarz)."""
    added = _added(options.get("bias"))
    if query.size == 0 or key.size == 0:
        return added
    scale = options.get("scale")
    scale = query.shape[-1] ** -0.5 if scale is None else abs(scale)
    norms = [np.linalg.norm(np.nan_to_num(x.astype(float)), axis=-1).max() for x in (query, key)]
    return float(norms[0] * norms[1] * scale) + added


# --- bits and memory -----------------------------------------------------------------------------


def assert_same_bits(actual: Array, expected: Array) -> None:
    """Hold dtype, shape and every bit."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if np.ascontiguousarray(actual).tobytes() != np.ascontiguousarray(expected).tobytes():
        differs = np.argwhere(~((actual == expected) | (np.isnan(actual) & np.isnan(expected))))
        raise AssertionError(f"{len(differs)} elements differ, the first at {differs[:1]}")


class GuardedArray:
    """A copy of an array whose neighbouring pages kill the process when they are touched."""

    def __init__(self, array: Array, *, at: str = "end") -> None:
        page = mmap.PAGESIZE
        pages = max(-(-array.nbytes // page), 1)
        self._map = mmap.mmap(-1, (pages + 2) * page)
        start = page if at == "start" else page * (pages + 1) - array.nbytes
        flat = np.frombuffer(self._map, array.dtype, array.size, start)
        self.array = flat.reshape(array.shape)
        self.array[...] = array
        self._address = self.array.ctypes.data - start
        self.forbid(0, page)
        self.forbid(page * (pages + 1), page)

    def forbid(self, offset: int, length: int) -> None:
        """Take reading and writing away from whole pages of the mapping."""
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(self._address + offset)
        if libc.mprotect(address, ctypes.c_size_t(length), 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def forbid_rows(self, first: int) -> None:
        """Forbid the rows of the first axis from ``first`` on, which must start a page."""
        row = self.array.nbytes // len(self.array)
        start = self.array.ctypes.data - self._address + first * row
        assert start % mmap.PAGESIZE == 0, "the first forbidden row must start a page"
        self.forbid(start, (len(self.array) - first) * row)
