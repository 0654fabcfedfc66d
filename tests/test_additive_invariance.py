"""Rules 5 and 8 for additive attention, bit for bit, and the memory that it takes."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
from conftest import HALVES, Array, GuardedArray, assert_same_bits
from fresh_process import run
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx

QUERIES, KEYS, UNITS = 60, 150, 40
CASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "bool mask": {"attn_mask": np.random.default_rng(0).random((QUERIES, KEYS)) < 0.5},
    "float mask": {"attn_mask": np.random.default_rng(1).standard_normal((QUERIES, KEYS))},
    "lengths": {"key_lengths": 131},
}
POISON = (np.nan, np.inf, -np.inf, 1e38, 50.0)


def draw(dtype: DTypeLike, *, batch: int = 4, sizes: bool = True) -> tuple[Array, ...]:
    """Return arguments; with `sizes`, some rows are small, some have numbers past the limit."""
    rng = np.random.default_rng(0)
    query, key = (
        rng.standard_normal((batch, QUERIES, UNITS)),
        rng.standard_normal((batch, KEYS, UNITS)),
    )
    if sizes:
        query[:, ::3] *= 0.01
        query[:, 5::11, 7] = 100
        key[:, ::4] *= 0.01
        key[:, 2::9, 3] = -100
    value, weight = rng.standard_normal((batch, KEYS, 21)), rng.standard_normal(UNITS)
    return tuple(x.astype(dtype) for x in (query, key, value, weight))


def attend(args: tuple[Array, ...], **options: Any) -> tuple[Array, Array]:
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != bool:
        options["attn_mask"] = mask.astype(
            np.float64 if args[0].dtype == np.float64 else np.float32
        )
    out, weights = attnx.additive_attention(*args, return_weights=True, **options)
    assert_same_bits(attnx.additive_attention(*args, **options), out)
    return out, weights


def assert_all_same(results: tuple[Array, ...], expected: tuple[Array, ...]) -> None:
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(result, wanted)


@pytest.mark.parametrize("case", CASES)
def test_threads_and_batch(isa: str, dtype: DTypeLike, case: str) -> None:
    args = draw(dtype)
    expected = attend(args, num_threads=1, **CASES[case])
    for threads in (2, 3, 8):
        assert_all_same(attend(args, num_threads=threads, **CASES[case]), expected)
    for rows in (slice(0, 1), slice(3, 4), slice(1, 3)):
        part = (*(x[rows] for x in args[:3]), args[3])
        assert_all_same(attend(part, **CASES[case]), tuple(x[rows] for x in expected))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 9, 16, 17, 33, 48, 49])
def test_chunks_of_queries(isa: str, dtype: DTypeLike, case: str, chunk: int) -> None:
    query, *rest = draw(dtype, batch=2)
    expected = attend((query, *rest), **CASES[case])
    for first in range(0, QUERIES, chunk):
        rows = slice(first, min(first + chunk, QUERIES))
        options = dict(CASES[case])
        if "attn_mask" in options:
            options["attn_mask"] = options["attn_mask"][rows]
        part = attend((query[:, rows], *rest), **options)
        assert_all_same(part, tuple(x[:, rows] for x in expected))


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, 16, 17, 127, 128, 129, 149])
def test_right_padding(isa: str, dtype: DTypeLike, length: int) -> None:
    """Keys cut off, keys past their length, and keys masked away are one and the same."""
    query, key, value, weight = draw(dtype, batch=2)
    expected = attend((query, key[:, :length], value[:, :length], weight))
    padded = attend((query, key, value, weight), key_lengths=length)
    masked = attend((query, key, value, weight), attn_mask=np.arange(KEYS) < length)
    for out, weights in (padded, masked):
        assert_same_bits(out, expected[0])
        assert_same_bits(weights[..., :length], expected[1])
        assert not weights[..., length:].any()


@pytest.mark.parametrize("half", HALVES)
def test_16_bits(isa: str, half: DTypeLike) -> None:
    query, key, value, weight = draw(np.float32, batch=3)
    for dtype in (half, np.float32):
        args = (query.astype(dtype), key.astype(half), value.astype(half), weight)
        expected = attend(args, num_threads=1)
        assert_all_same(attend(args, num_threads=3), expected)
        part = attend((args[0][1:, 7:9], args[1][1:], args[2][1:], weight))
        assert_all_same(part, tuple(x[1:, 7:9] for x in expected))
        args[1][:, 140:], args[2][:, 140:] = np.nan, np.nan
        hidden = attend(args, key_lengths=140)
        assert_all_same(
            hidden, attend((args[0], args[1][:, :140], args[2][:, :140], weight))[:1] + hidden[1:]
        )


@pytest.mark.parametrize("shift", [1, 3, 7, 15])
def test_memory_does_not_matter(isa: str, dtype: DTypeLike, shift: int) -> None:
    args = draw(dtype, batch=2)
    expected = attend(args)
    for kind in ("shifted", "strided", "reversed", "unaligned", "last axis", "read-only"):
        moved = []
        for x in args:
            if kind == "shifted":
                y = np.empty(x.size + shift, dtype)[shift:].reshape(x.shape)
            elif kind == "strided":
                y = np.empty((*(2 * n for n in x.shape[:-1]), x.shape[-1] + shift), dtype)
                y = y[..., : x.shape[-1]] if x.ndim == 1 else y[::2, ::2, : x.shape[-1]]
            elif kind == "reversed":
                y = np.empty_like(x)[::-1]
            elif kind == "unaligned":
                y = np.empty(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
            elif kind == "last axis":
                y = np.empty(x.shape[::-1], dtype).T
            else:
                y = x.copy()
            y[...] = x
            y.flags.writeable = kind != "read-only"
            moved.append(y)
        assert_all_same(attend(tuple(moved)), expected)


def test_one_row_for_a_whole_batch(isa: str, dtype: DTypeLike) -> None:
    query, key, value, weight = draw(dtype)
    shared = (query, np.broadcast_to(key[:1], key.shape), value[0], weight)
    expected = attend((query, key[:1].repeat(4, 0), value[:1].repeat(4, 0), weight))
    assert_all_same(attend(shared), expected)


@pytest.mark.parametrize("bad", POISON)
@pytest.mark.parametrize("queries", [1, 5, QUERIES])
def test_keys_that_nobody_sees(isa: str, dtype: DTypeLike, queries: int, bad: float) -> None:
    query, key, value, weight = draw(dtype)
    hidden = np.random.default_rng(3).random(KEYS) < 0.4
    for options in (
        {"attn_mask": ~hidden},
        {"attn_mask": np.where(hidden, -np.inf, 0.3).astype(dtype)},
        {"attn_mask": ~hidden, "key_lengths": [KEYS, 70, 130, 0]},
    ):
        args = (query[:, :queries], key.copy(), value.copy(), weight)
        expected = attend(args, **options)
        args[1][:, hidden] = args[2][:, hidden] = bad
        if "key_lengths" in options:
            args[1][1, 70:] = args[2][1, 70:] = bad
        assert_all_same(attend(args, **options), expected)


@pytest.mark.parametrize("position", [0, 5, 127, 128, KEYS - 1])
def test_a_key_that_some_do_not_see(isa: str, dtype: DTypeLike, position: int) -> None:
    args = draw(dtype, batch=2)
    seen = np.random.default_rng(4).random((QUERIES, KEYS)) < 0.7
    expected = attend(args, attn_mask=seen)
    blind = ~seen[:, position]
    args[1][:, position, 3] = np.nan
    args[2][:, position, 5] = np.inf
    for result, wanted in zip(attend(args, attn_mask=seen), expected, strict=True):
        assert_same_bits(result[:, blind], wanted[:, blind])
        assert np.isnan(result[:, ~blind]).any(axis=-1).all()


def test_nan_in_a_query_stays_in_its_row(isa: str, dtype: DTypeLike) -> None:
    args = draw(dtype, batch=2)
    expected = attend(args)
    args[0][1, 7, 9] = np.nan
    rest = np.arange(QUERIES) != 7
    for result, wanted in zip(attend(args), expected, strict=True):
        assert_same_bits(result[:, rest], wanted[:, rest])
        assert_same_bits(result[0], wanted[0])
        assert np.isnan(result[1, 7]).all()


@pytest.mark.parametrize("queries", [1, 20])
def test_keys_past_their_length_are_not_read(isa: str, dtype: DTypeLike, queries: int) -> None:
    rng = np.random.default_rng(0)
    rows = mmap.PAGESIZE // (64 * np.dtype(dtype).itemsize)
    query, weight = rng.standard_normal((queries, 64)), rng.standard_normal(64)
    key, value = rng.standard_normal((2, 3 * rows, 64)).astype(dtype)
    query, weight = query.astype(dtype), weight.astype(dtype)
    expected = attend((query, key[:rows], value[:rows], weight))
    guarded = [GuardedArray(x, at="start") for x in (key, value)]
    for x in guarded:
        x.forbid_rows(rows)
    out, weights = attend((query, *(x.array for x in guarded), weight), key_lengths=rows)
    assert_same_bits(out, expected[0])
    assert_same_bits(weights[:, :rows], expected[1])


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("units", [1, 3, 8, 15, 16, 17, 33])
def test_nothing_outside_the_arrays_is_touched(
    isa: str, dtype: DTypeLike, units: int, at: str
) -> None:
    rng = np.random.default_rng(0)
    for queries, keys in ((1, 1), (3, 7), (20, 131)):
        shapes = ((queries, units), (keys, units), (keys, units + 2), (units,))
        args = tuple(rng.standard_normal(s).astype(dtype) for s in shapes)
        mask = rng.random((queries, keys)) < 0.8
        held = [GuardedArray(x, at=at) for x in (*args, mask)]
        *inside, inside_mask = (x.array for x in held)
        assert_all_same(attend(tuple(inside), attn_mask=inside_mask), attend(args, attn_mask=mask))


@given(data=st.data())
def test_any_part_of_any_call(isa: str, data: st.DataObject) -> None:
    pick = data.draw
    dtype = pick(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(pick(st.integers(0, 999)))
    queries, keys, units = (
        pick(st.integers(1, 60)),
        pick(st.integers(1, 140)),
        pick(st.integers(1, 70)),
    )
    size = rng.choice([0.01, 1.0, 20.0], (3, queries + keys, 1))
    rows = (rng.standard_normal((3, queries + keys, units)) * size).astype(dtype)
    value = rng.standard_normal((3, keys, pick(st.integers(1, 40)))).astype(dtype)
    weight = rng.standard_normal(units).astype(dtype)
    lengths = np.array(pick(st.lists(st.integers(0, keys), min_size=3, max_size=3)))
    query, key = rows[:, :queries], rows[:, queries:]
    expected = attend(
        (query, key, value, weight), key_lengths=lengths, num_threads=pick(st.integers(1, 4))
    )
    b, first = pick(st.integers(0, 2)), pick(st.integers(0, queries - 1))
    part = slice(first, pick(st.integers(first + 1, queries)))
    cut = slice(0, pick(st.integers(int(lengths[b]), keys)))
    out, weights = attend(
        (query[b, part], key[b, cut], value[b, cut], weight), key_lengths=lengths[b]
    )
    assert_same_bits(out, expected[0][b, part])
    assert_same_bits(weights, expected[1][b, part, cut])


MEMORY = """
import json
import numpy as np
import attnx

def memory(name):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(name)).split()[1]) * 1024

rng = np.random.default_rng(0)
shapes = {shapes}
query, key, value = (rng.standard_normal(shape, np.float32) for shape in shapes)
weight = rng.standard_normal(query.shape[-1], np.float32)
attnx.additive_attention(query[:1, :1, :8], key[:1, :4, :8], value[:1, :4, :8], weight[:8])
before = memory("VmRSS")
out = attnx.additive_attention(query, key, value, weight, num_threads=2)
print(json.dumps(memory("VmHWM") - before - out.nbytes))
"""


@pytest.mark.parametrize("shapes", [
    ((16, 40, 256), (16, 50, 256), (16, 50, 512)),
    ((1, 2000, 256), (1, 2000, 256), (1, 2000, 64)),
    ((1, 300, 4096), (1, 300, 4096), (1, 300, 512)),
])  # fmt: skip
def test_memory_within_two_mebibytes_of_the_output(shapes: Any) -> None:
    """An L x S x U array would take 31 MiB, 3.8 GiB and 1.4 GiB."""
    grown = run(MEMORY.replace("{shapes}", repr(shapes)), prelude="")
    assert grown <= 2 << 20
