"""Rule 5, bit for bit: what a query cannot see has no influence on it, NaN and inf included."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
from conftest import HALVES, Array, GuardedArray, assert_same_bits, make_qkv
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx
from attnx import reference

POISON = (np.nan, np.inf, -np.inf, 1e38)
QUERIES, KEYS = 37, 250


def ways(queries: int, dtype: DTypeLike) -> dict[str, dict[str, Any]]:
    """Return every way of hiding keys, alone and together."""
    rng = np.random.default_rng(queries)
    some = (rng.random((queries, KEYS)) < 0.5) & (rng.random(KEYS) < 0.8)
    few = rng.random((2, 1, 1, KEYS)) < 0.3
    heads = rng.random((2, 2, queries, KEYS)) < 0.02
    added = np.where(some, rng.standard_normal((queries, KEYS)), -np.inf).astype(dtype)
    offset = 120 - queries
    return {
        "bool mask": {"attn_mask": some},
        "bool mask of a batch": {"attn_mask": few},
        "bool mask of a head": {"attn_mask": heads},
        "float mask": {"attn_mask": added},
        "float mask of a batch": {"attn_mask": np.where(few, 0.5, -np.inf).astype(dtype)},
        "key lengths": {"key_lengths": [113, 48]},
        "causal": {"is_causal": True},
        "causal with offset": {"is_causal": True, "query_offset": offset},
        "causal with offsets": {"is_causal": True, "query_offset": [-queries // 2, offset]},
        "query lengths": {"query_lengths": [queries // 2, 0]},
        "window": {"window": (30, 2)},
        "window with offsets": {"window": (20, 0), "query_offset": [-queries // 2, offset]},
        "window to the right": {"window": (None, 9), "query_offset": offset},
        "bias": {"bias": added},
        "bias of a batch": {"bias": np.where(few, 0.5, -np.inf).astype(dtype)},
        "window under a softcap": {"window": (30, 2), "softcap": 0.7, "sinks": [0.5, -np.inf]},
        "window of a bias": {"window": (30, 2), "bias": attnx.bias.ALiBi([0.5, 0.1])},
        "causal of a relative bias": {
            "bias": attnx.bias.RelativePosition(rng.standard_normal((8, 2)), True, 20),
            "is_causal": True,
            "query_offset": [-queries // 2, offset],
        },
        "all together": {
            "attn_mask": added,
            "is_causal": True,
            "query_offset": [offset, 3],
            "key_lengths": [100, 7],
            "query_lengths": [queries, queries // 2],
            "window": (90, 7),
            "bias": np.where(few, 0.5, -np.inf).astype(dtype),
            "softcap": 3.0,
            "sinks": [0.5, 0.1],
        },
    }


def results(args: tuple[Array, ...], options: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Return output, log-sum-exp and weights."""
    out, lse = attnx.scaled_dot_product_attention(*args, return_lse=True, **options)
    return out, lse, attnx.attention_weights(*args[:2], **options)


def visibility(args: tuple[Array, ...], options: dict[str, Any]) -> Array:
    """Return who sees whom, (2, 2, queries, KEYS), from the oracle."""
    given_options = dict(options)
    mask = given_options.pop("attn_mask", None)
    given_options.pop("sinks", None)
    query, key = (x.astype(np.float64) for x in args[:2])
    return reference.scores_and_visibility(query, key, mask, **given_options)[1]


@pytest.mark.parametrize("way", ways(2, np.float32))
@pytest.mark.parametrize("queries", [1, 7, QUERIES])
def test_keys_that_nobody_sees(isa: str, dtype: DTypeLike, queries: int, way: str) -> None:
    args = make_qkv(queries, KEYS, dtype=dtype)
    options = ways(queries, dtype)[way]
    expected = results(args, options)
    hidden = ~visibility(args, options).any(axis=2)
    assert hidden.any(), "the way hides nothing"
    for bad in POISON:
        with np.errstate(over="ignore"):
            args[1][hidden] = args[2][hidden] = np.array(bad, dtype)
        for result, wanted in zip(results(args, options), expected, strict=True):
            assert_same_bits(result, wanted)


@pytest.mark.parametrize("way", ways(2, np.float32))
@pytest.mark.parametrize("position", [0, 5, 47, 48, 100, 192, KEYS - 1])
def test_a_key_that_some_do_not_see(isa: str, dtype: DTypeLike, position: int, way: str) -> None:
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    options = ways(QUERIES, dtype)[way]
    expected = results(args, options)
    blind = ~visibility(args, options)[..., position]
    args[1][:, :, position, 3] = np.nan
    args[2][:, :, position, 5] = np.inf
    for result, wanted in zip(results(args, options), expected, strict=True):
        assert_same_bits(result[blind], wanted[blind])
        rows = np.isnan(result[~blind])
        assert rows.any(axis=tuple(range(1, rows.ndim))).all()


@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.parametrize("bad", POISON[:3])
def test_causal_rows_before_the_poison(isa: str, dtype: DTypeLike, where: str, bad: float) -> None:
    args = make_qkv(150, 150, dtype=dtype)
    expected = attnx.scaled_dot_product_attention(*args, is_causal=True)
    for first in (149, 130, 97, 48, 16, 1):
        args[1 if where == "key" else 2][:, :, first:] = bad
        out = attnx.scaled_dot_product_attention(*args, is_causal=True)
        assert_same_bits(out[:, :, :first], expected[:, :, :first])
        assert not np.isfinite(out[:, :, first:]).any()


@pytest.mark.parametrize("bad", POISON[:3])
def test_poisoned_queries_past_their_length(isa: str, dtype: DTypeLike, bad: float) -> None:
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    options = {"query_lengths": [20, 1]}
    expected = results(args, options)
    args[0][0, :, 20:] = args[0][1, :, 1:] = bad
    for result, wanted in zip(results(args, options), expected, strict=True):
        assert_same_bits(result, wanted)


@pytest.mark.parametrize("bad", POISON)
def test_poisoned_masks_where_nothing_is_seen(isa: str, dtype: DTypeLike, bad: float) -> None:
    """Other restrictions hide a mask's numbers too."""
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    mask = np.random.default_rng(1).standard_normal((2, 1, QUERIES, KEYS)).astype(dtype)
    restrictions = {"is_causal": True, "query_offset": 100, "key_lengths": [120, 49]}
    expected = results(args, {"attn_mask": mask} | restrictions)
    hidden = ~visibility(args, restrictions)[:, :1]
    with np.errstate(over="ignore"):
        mask[hidden] = np.array(bad, dtype)
    for result, wanted in zip(
        results(args, {"attn_mask": mask} | restrictions), expected, strict=True
    ):
        assert_same_bits(result, wanted)


@pytest.mark.parametrize("half", HALVES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("way", ways(2, np.float32))
@pytest.mark.parametrize("queries", [1, 7, QUERIES])
def test_16_bits(isa: str, queries: int, way: str, half: DTypeLike) -> None:
    """In keys and values of 16 bits too, under queries of 16 and of 32."""
    for dtype in (half, np.float32):
        args = make_qkv(queries, KEYS, dtype=half)
        args = (args[0].astype(dtype), *args[1:])
        options = ways(queries, np.float32)[way]
        expected = results(args, options)
        hidden = ~visibility(args, options).any(axis=2)
        for bad in (np.nan, np.inf, -np.inf):
            args[1][hidden] = args[2][hidden] = bad
            for result, wanted in zip(results(args, options), expected, strict=True):
                assert_same_bits(result, wanted)


@pytest.mark.parametrize("bad", POISON)
def test_poisoned_biases_where_nothing_is_seen(isa: str, dtype: DTypeLike, bad: float) -> None:
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    bias = np.random.default_rng(1).standard_normal((2, 1, QUERIES, KEYS)).astype(dtype)
    mask = np.random.default_rng(2).random((QUERIES, KEYS)) < 0.7
    restrictions = {"attn_mask": mask, "window": (40, 3), "query_offset": 100}
    expected = results(args, {"bias": bias} | restrictions)
    hidden = ~visibility(args, restrictions)[:, :1]
    with np.errstate(over="ignore"):
        bias[hidden] = np.array(bad, dtype)
    for result, wanted in zip(results(args, {"bias": bias} | restrictions), expected, strict=True):
        assert_same_bits(result, wanted)


def test_visible_numbers_that_overflow_beside_hidden_nan(isa: str, dtype: DTypeLike) -> None:
    """A block that is not finite for a good reason must still skip what is hidden in it."""
    args = make_qkv(QUERIES, KEYS, dtype=dtype)
    args[2][:, :, 10, 0] = np.inf
    mask = np.random.default_rng(2).random((QUERIES, KEYS)) < 0.5
    mask[:, 10] = True
    mask[:, 11] = False
    expected = results(args, {"attn_mask": mask})
    args[1][:, :, 11] = args[2][:, :, 11] = np.nan
    for result, wanted in zip(results(args, {"attn_mask": mask}), expected, strict=True):
        assert_same_bits(result, wanted)
    assert np.isposinf(expected[0][..., 0]).all()
    assert np.isfinite(expected[0][..., 1:]).all()


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("queries", [1, 5, 70])
@pytest.mark.parametrize("pages", [0, 1, 2, 3])
def test_keys_past_their_length_are_not_read(
    isa: str, dtype: DTypeLike, pages: int, queries: int, layout: str
) -> None:
    """Their pages may not be read: touching one kills the process."""
    rows = mmap.PAGESIZE // (64 * np.dtype(dtype).itemsize)
    query, key, value = make_qkv(queries, 4 * rows, 64, batch=(), heads=1, dtype=dtype)
    shown = pages * rows
    expected = results((query, key[:, :shown], value[:, :shown]), {})
    hidden = [GuardedArray(x[0], at="start") for x in (key, value)]
    for x in hidden:
        x.forbid_rows(shown)
    views = [x.array[None] if layout == "bhld" else x.array[:, None] for x in hidden]
    if layout == "blhd":
        query = query.swapaxes(0, 1)
    for causal in (False, True):
        options = {"key_lengths": shown, "layout": layout, "is_causal": causal}
        out, lse, weights = results((query, *views), options | {"query_offset": 4 * rows})
        assert_same_bits(out if layout == "bhld" else out.swapaxes(0, 1), expected[0])
        assert_same_bits(lse, expected[1])
        assert_same_bits(weights[..., :shown], expected[2])
        assert not weights[..., shown:].any()


def test_lengths_of_a_batch_are_not_read_past(isa: str, dtype: DTypeLike) -> None:
    page = mmap.PAGESIZE
    rows = page // (64 * np.dtype(dtype).itemsize)
    query, key, value = make_qkv(9, 2 * rows, 64, batch=(3,), heads=1, dtype=dtype)
    lengths = np.array([rows, 2 * rows, 0])
    expected = results((query, key, value), {"key_lengths": lengths})
    hidden = [GuardedArray(x, at="start") for x in (key, value)]
    for x in hidden:
        x.forbid(page + page, page)
        x.forbid(page + 4 * page, 2 * page)
    views = tuple(x.array for x in hidden)
    found = results((query, *views), {"key_lengths": lengths})
    for result, wanted in zip(found, expected, strict=True):
        assert_same_bits(result, wanted)


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("head_dim", [1, 3, 8, 15, 16, 17, 40])
def test_nothing_outside_the_arrays_is_touched(
    isa: str, dtype: DTypeLike, head_dim: int, at: str
) -> None:
    for queries, keys in ((1, 1), (1, 50), (3, 7), (17, 49), (50, 131)):
        args = make_qkv(queries, keys, head_dim, value_dim=head_dim + 2, batch=(), dtype=dtype)
        mask = np.random.default_rng(3).random((queries, keys)) < 0.8
        added = np.where(mask, 1.0, 0.5).astype(dtype)
        inside = [GuardedArray(x, at=at).array for x in args]
        for attn_mask in (None, mask, added):
            held = None if attn_mask is None else GuardedArray(attn_mask, at=at)
            out, lse, weights = results(args, {"attn_mask": attn_mask})
            room = GuardedArray(np.zeros_like(out), at=at)
            options = {"attn_mask": None if held is None else held.array}
            attnx.scaled_dot_product_attention(*inside, out=room.array, **options)
            assert_same_bits(room.array, out)
            found = results(tuple(inside), options)
            assert_same_bits(found[1], lse)
            assert_same_bits(found[2], weights)


@given(data=st.data())
def test_poison_in_any_hidden_slot(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    queries, keys = draw(st.integers(1, 60)), draw(st.integers(1, 210))
    args = make_qkv(queries, keys, draw(st.integers(1, 33)), dtype=dtype)
    mask = np.random.default_rng(draw(st.integers(0, 99))).random((queries, keys))
    lengths = st.lists(st.integers(0, keys), min_size=2, max_size=2)
    options = {
        "attn_mask": draw(st.sampled_from([None, mask < 0.1, mask < 0.9])),
        "key_lengths": draw(st.none() | lengths),
        "is_causal": draw(st.booleans()),
        "query_offset": draw(st.integers(-queries, keys)),
        "window": draw(st.none() | st.tuples(st.integers(0, 60), st.none() | st.integers(0, 9))),
        "softcap": draw(st.sampled_from([None, 2.0])),
        "sinks": draw(st.sampled_from([None, [0.5, -1.0]])),
        "bias": draw(st.sampled_from([None, attnx.bias.ALiBi([0.1, 0.3])])),
    }
    expected = results(args, options)
    blind = ~visibility(args, options)
    for j in range(draw(st.integers(0, 6)), keys, 7):
        args[draw(st.integers(1, 2))][:, :, j] = draw(st.sampled_from(POISON[:3]))
    touched = ~np.isfinite(args[1]).all(-1) | ~np.isfinite(args[2]).all(-1)
    safe = (blind | ~touched[:, :, None]).all(-1)
    for result, wanted in zip(results(args, options), expected, strict=True):
        assert_same_bits(result[safe], wanted[safe])
