"""Every option with every other: any call, as hypothesis draws it, against the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import (
    Array,
    assert_like_oracle,
    assert_same_bits,
    assert_within,
    computed_in,
    tolerance,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import attnx
from attnx import reference

Draw = Callable[[st.SearchStrategy[Any]], Any]

HALVES = (np.float16, ml_dtypes.bfloat16)
# Of the query, and what its keys and values may be stored in.
STORAGE: dict[Any, tuple[Any, ...]] = {
    np.float32: (np.float32, *HALVES),
    np.float64: (np.float64, np.float32, *HALVES),
    np.float16: (np.float16,),
    ml_dtypes.bfloat16: (ml_dtypes.bfloat16,),
}
NUMBERS = st.floats(-2, 2, width=16)


# --- arrays --------------------------------------------------------------------------------------


def moved(x: Array, how: str) -> Array:
    """Return the same numbers in other strides."""
    if how == "reversed":
        return np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :]
    if how == "fortran":
        return np.asfortranarray(x)
    if how == "unaligned":
        room = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        room[...] = x
        return room
    gaps = {"columns apart": (1, 2), "rows apart": (3, 1), "items after": (1, 1)}
    if how in gaps:
        rows, columns = gaps[how]
        wide = np.zeros((*x.shape[:-2], x.shape[-2] * rows, x.shape[-1] * columns + 3), x.dtype)
        view = wide[..., ::rows, : x.shape[-1] * columns : columns]
        view[...] = x
        return view
    x = x.copy()
    x.flags.writeable = how != "read-only"
    return x


STRIDES = st.sampled_from(
    ["plain", "reversed", "fortran", "unaligned", "columns apart", "rows apart", "items after"]
    + ["read-only"]
)


def draw_batch(draw: Draw) -> tuple[tuple[int, ...], ...]:
    """Return the batch axes of query, key and value, and those of the result."""
    full = draw(st.sampled_from([(), (2,), (3,), (1,), (2, 2)]))
    parts = []
    for _ in range(3):
        ones = [1 if draw(st.booleans()) and n > 1 else n for n in full]
        parts.append(tuple(ones[draw(st.integers(0, 1)) if ones and ones[0] == 1 else 0 :]))
    parts[0] = full
    return (*parts, full)


def draw_broadcast(draw: Draw, shape: tuple[int, ...], make: Callable[..., Array]) -> Array:
    """Return an array that broadcasts to this shape."""
    kept = [1 if draw(st.integers(0, 3)) == 0 else n for n in shape]
    return make(tuple(kept[draw(st.integers(0, len(kept))) :]))


# --- calls ---------------------------------------------------------------------------------------


def draw_added(draw: Draw, shape: tuple[int, ...], rng: Any, dtype: Any) -> Array:
    """Return floats to add to scores; some are -inf."""
    share = draw(st.sampled_from([0.0, 0.2, 0.9]))
    other = draw(st.sampled_from([dtype, dtype, np.float32, np.float64]))

    def make(kept: tuple[int, ...]) -> Array:
        added = rng.standard_normal(kept).astype(other)
        return np.where(rng.random(kept) < share, np.array(-np.inf, other), added)

    return draw_broadcast(draw, shape, make)


def draw_bias(draw: Draw, shape: tuple[int, ...], rng: Any, dtype: Any) -> Any:
    """Return no bias, an array, or one of the objects."""
    kind = draw(st.sampled_from(["none", "array", "alibi", "one way", "both ways"]))
    heads = shape[-3] if len(shape) > 2 else 1
    if kind == "array":
        return draw_added(draw, shape, rng, dtype)
    if kind == "alibi":
        return attnx.bias.ALiBi(rng.uniform(-0.1, 0.5, heads))
    if kind == "none":
        return None
    table = rng.standard_normal((draw(st.sampled_from([4, 6, 32])), heads))
    return attnx.bias.RelativePosition(table, kind == "both ways", draw(st.integers(20, 130)))


def draw_numbers(draw: Draw, batch: tuple[int, ...], low: int, high: int) -> Any:
    """Return an integer, or one for each batch entry, or one for some axes of the batch."""
    if not batch or draw(st.booleans()):
        return draw(st.integers(low, high))
    return draw_broadcast(
        draw, batch, lambda kept: np.array(
            [draw(st.integers(low, high)) for _ in range(int(np.prod(kept)))], dtype=np.int64
        ).reshape(kept),
    )  # fmt: skip


def draw_positional(draw: Draw, batch: tuple[int, ...], keys: int) -> dict[str, Any]:
    """Return what dense and packed calls share, but for the bias."""
    side = st.none() | st.integers(0, 3) | st.integers(0, 200)
    return {
        "is_causal": draw(st.booleans()),
        "query_offset": draw_numbers(draw, batch, -9, keys + 9),
        "window": draw(st.none() | st.tuples(side, side)),
        "scale": draw(st.none() | st.sampled_from([0.0, 0.1, 0.7, -0.3])),
        "softcap": draw(st.none() | st.sampled_from([0.5, 3.0, 30.0])),
    }


def draw_sinks(draw: Draw, heads: int) -> Array | None:
    """Return no sinks, or a logit a head; -inf is no sink either."""
    if draw(st.booleans()):
        return None
    logits = st.lists(NUMBERS | st.just(-np.inf), min_size=heads, max_size=heads)
    return np.array(draw(logits), np.float32)


def draw_call(draw: Draw) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """Return query, key, value and the options of a call."""
    dtype = draw(st.sampled_from(list(STORAGE)))
    stored = draw(st.sampled_from(STORAGE[dtype]))
    lengths = st.sampled_from([1, 2, 8, 9, 16, 17, 48, 49]) | st.integers(0, 70)
    queries, keys = draw(lengths), draw(lengths | st.integers(180, 200) | st.integers(1, 400))
    head_dim, value_dim = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    *parts, batch = draw_batch(draw)
    kv_heads, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3, 8]))
    heads: tuple[int, ...] = (kv_heads * group,)
    one_head = batch == () and draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from(["bhld", "blhd"]))
    args = []
    for part, count, rows, width in zip(
        parts, (heads[0], kv_heads, kv_heads), (queries, keys, keys),
        (head_dim, head_dim, value_dim), strict=True,
    ):  # fmt: skip
        middle = () if one_head else (count,)
        x = rng.standard_normal((*part, *middle, rows, width)).astype(stored if args else dtype)
        if layout == "blhd" and not one_head:
            x = x.swapaxes(-2, -3)
        args.append(moved(x, draw(STRIDES)))
    heads = () if one_head else heads
    shape = (*batch, *heads, queries, keys)
    options = draw_positional(draw, batch, keys) | {
        "bias": draw_bias(draw, shape, rng, dtype),
        "sinks": draw_sinks(draw, heads[0] if heads else 1),
        "layout": layout,
        "key_lengths": draw(st.none() | st.just(1)) and draw_numbers(draw, batch, 0, keys),
        "query_lengths": draw(st.none() | st.just(1)) and draw_numbers(draw, batch, 0, queries),
    }
    mask = draw(st.sampled_from(["none", "bool", "float"]))
    if mask == "float":
        options["attn_mask"] = draw_added(draw, shape, rng, dtype)
    if mask == "bool":
        share = draw(st.sampled_from([0.02, 0.5, 1.0]))
        make = lambda kept: rng.random(kept) < share  # noqa: E731
        options["attn_mask"] = draw_broadcast(draw, shape, make)
    return tuple(args), options


# --- tests ---------------------------------------------------------------------------------------


def assert_lse(lse: Array, dtype: DTypeLike, oracle: Callable[..., Any]) -> None:
    """Hold a log-sum-exp: natural, and never in 16 bits."""
    computed = computed_in(dtype)
    assert lse.dtype == computed
    truth, plain = oracle(np.longdouble)[1], oracle(computed)[1]
    scores = np.abs(truth[np.isfinite(truth)]).max(initial=1.0)
    assert_within(lse, truth, tolerance(computed, truth, plain, length=1, value_max=float(scores)))


@given(data=st.data())
def test_any_call(isa: str, data: st.DataObject) -> None:
    args, options = draw_call(data.draw)
    threads = data.draw(st.sampled_from([None, 1, 2, 3]))
    out, lse = attnx.scaled_dot_product_attention(
        *args, return_lse=True, num_threads=threads, **options
    )
    assert out.dtype == args[0].dtype
    assert_like_oracle("scaled_dot_product_attention", out, args, **options)

    def oracle(dtype: DTypeLike) -> Any:
        return reference.scaled_dot_product_attention(
            *args, return_lse=True, dtype=dtype, **options
        )

    assert_lse(lse, args[0].dtype, oracle)
    again = np.full_like(out, 7)
    attnx.scaled_dot_product_attention(*args, out=again, **options)
    assert_same_bits(again, out)


@given(data=st.data())
def test_any_stage_of_any_call(isa: str, data: st.DataObject) -> None:
    args, options = draw_call(data.draw)
    stage = data.draw(st.sampled_from(["scores", "capped", "biased", "weights"]))
    weights = attnx.attention_weights(*args[:2], stage=stage, **options)
    assert weights.dtype == args[0].dtype
    if stage == "weights" or computed_in(args[0].dtype) != args[0].dtype:
        assert_like_oracle("attention_weights", weights, args[:2], stage=stage, **options)
        return

    def oracle(dtype: DTypeLike) -> Any:
        return reference.attention_weights(*args[:2], stage=stage, dtype=dtype, **options)

    # A score's error goes with the sum of |q k| behind it, however little a sum or a softcap leaves of that.
    scale = options.get("scale")
    behind = reference.attention_weights(
        *(np.abs(x.astype(np.float64)) for x in args[:2]),
        stage="scores",
        scale=None if scale is None else abs(scale),
        layout=options["layout"],
    )
    truth = oracle(np.longdouble)
    size = max(behind.max(initial=1.0), np.abs(truth[np.isfinite(truth)]).max(initial=1.0))
    plain = oracle(args[0].dtype)
    bound = tolerance(args[0].dtype, truth, plain, length=1, value_max=float(size))
    assert_within(weights, truth, bound)


@given(data=st.data())
def test_any_packed_call(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from(list(STORAGE)))
    stored = draw(st.sampled_from(STORAGE[dtype]))
    lengths = st.integers(0, 3) | st.integers(0, 60) | st.integers(0, 300)
    pairs = draw(st.lists(st.tuples(lengths, lengths), min_size=1, max_size=4))
    starts = [np.concatenate([[0], np.cumsum(column)]) for column in zip(*pairs, strict=True)]
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    width, value_width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    args = (
        rng.standard_normal((starts[0][-1], kv_heads * group, width)).astype(dtype),
        rng.standard_normal((starts[1][-1], kv_heads, width)).astype(stored),
        rng.standard_normal((starts[1][-1], kv_heads, value_width)).astype(stored),
    )
    bias = draw_bias(draw, (kv_heads * group, 1, 1), rng, dtype)
    options = draw_positional(draw, (len(pairs),), 60) | {
        "bias": None if isinstance(bias, np.ndarray) else bias,
        "sinks": draw_sinks(draw, kv_heads * group),
    }
    calls = (*(moved(x, draw(STRIDES)) for x in args), *starts)
    out, lse = attnx.varlen_attention(*calls, return_lse=True, **options)
    assert out.dtype == dtype
    assert_like_oracle("varlen_attention", out, calls, **options)
    oracle = lambda t: reference.varlen_attention(*calls, return_lse=True, dtype=t, **options)  # noqa: E731
    assert_lse(lse, dtype, oracle)


@pytest.mark.parametrize("how", ["reversed", "fortran", "unaligned", "columns apart", "rows apart"])
def test_the_strides_of_this_module_are_what_they_say(how: str) -> None:
    """Else the tests above would all run on plain arrays."""
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype(np.float32)
    other = moved(x, how)
    np.testing.assert_array_equal(other, x)
    assert other.strides != x.strides or not other.flags.aligned
