"""Arrays as they come: axes, broadcasting, strides, alignment, empty ones, ``out``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_like_oracle, assert_same_bits, make_qkv
from numpy.typing import DTypeLike

import attnx

attention = attnx.scaled_dot_product_attention


def reversed_axis(x: Array, axis: int) -> Array:
    """Return equal numbers with a negative stride on this axis."""
    return np.flip(np.ascontiguousarray(np.flip(x, axis)), axis)


def spread(x: Array, step: int, axis: int) -> Array:
    """Return equal numbers, each ``step`` apart on this axis, with NaN between them."""
    shape = list(x.shape)
    shape[axis] *= step
    wide = np.full(shape, np.nan, x.dtype)
    inside = [slice(None)] * x.ndim
    inside[axis] = slice(step - 1, None, step)
    wide[tuple(inside)] = x
    return wide[tuple(inside)]


def unaligned(x: Array) -> Array:
    """Return equal numbers one byte off their alignment."""
    shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    shifted[...] = x
    assert not shifted.flags.aligned
    return shifted


def field_of_records(x: Array) -> Array:
    """Return equal numbers whose strides are no multiple of their size."""
    records = np.zeros(x.shape, np.dtype([("flag", "u1"), ("number", x.dtype)]))
    records["number"] = x
    return records["number"]


def shifted_by_elements(x: Array, count: int) -> Array:
    """Return equal numbers that start ``count`` elements into their memory."""
    room = np.empty(x.size + count, x.dtype)
    room[count:] = x.ravel()
    return room[count:].reshape(x.shape)


def read_only(x: Array) -> Array:
    """Return a copy that may not be written."""
    copy = x.copy()
    copy.flags.writeable = False
    return copy


STRIDES: dict[str, Any] = {
    **{f"reversed{a}": lambda x, a=a: reversed_axis(x, a) for a in range(4)},
    **{f"spread{a}": lambda x, a=a: spread(x, 3, a) for a in range(4)},
    "fortran": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.swapaxes(2, 3)).swapaxes(2, 3),
    "unaligned": unaligned,
    "records": field_of_records,
    "shifted": lambda x: shifted_by_elements(x, 3),
    "read_only": read_only,
    "bytes": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "memmap": lambda x: x.view(np.memmap),
}


@pytest.mark.parametrize("way", STRIDES)
@pytest.mark.parametrize("queries", [1, 5, 49])
def test_memory_layout_changes_no_bit(isa: str, dtype: DTypeLike, way: str, queries: int) -> None:
    args = make_qkv(queries, 70, 24, heads=4, kv_heads=2, value_dim=20, dtype=dtype)
    expected = attention(*args, is_causal=True, query_offset=60)
    for which in range(3):
        changed = [STRIDES[way](x) if k == which else x for k, x in enumerate(args)]
        assert_same_bits(attention(*changed, is_causal=True, query_offset=60), expected)
    changed = [STRIDES[way](x) for x in args]
    assert_same_bits(attention(*changed, is_causal=True, query_offset=60), expected)
    weights = attnx.attention_weights(*args[:2])
    assert_same_bits(attnx.attention_weights(*changed[:2]), weights)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_zero_strides(isa: str, dtype: DTypeLike, axis: int) -> None:
    args = make_qkv(17, 17, 17, batch=(17,), heads=17, dtype=dtype)
    for which in range(3):
        thin = np.take(args[which], [0], axis)
        repeated = np.broadcast_to(thin, args[which].shape)
        assert repeated.strides[axis] == 0
        views = [repeated if k == which else x for k, x in enumerate(args)]
        copies = [np.ascontiguousarray(x) for x in views]
        assert_same_bits(attention(*views), attention(*copies))


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("queries", [1, 9, 50])
def test_views_of_one_fused_projection(isa: str, layout: str, queries: int) -> None:
    """The (B, L, 3 * H * E) rows of a fused QKV layer, read where they are."""
    fused = np.random.default_rng(0).standard_normal((2, queries, 3, 4, 16)).astype(np.float32)
    query, key, value = (fused[:, :, k] for k in range(3))
    copies = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in (query, key, value)]
    expected = attention(*copies)
    if layout == "blhd":
        out = attention(query, key, value, layout="blhd")
        assert_same_bits(out.swapaxes(1, 2), expected)
    else:
        out = attention(*(x.swapaxes(1, 2) for x in (query, key, value)))
        assert_same_bits(out, expected)


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3), (1, 2, 1, 2)])
def test_number_of_axes(isa: str, dtype: DTypeLike, layout: str, batch: tuple[int, ...]) -> None:
    args = make_qkv(6, 9, batch=batch, heads=4, kv_heads=2, dtype=dtype, layout=layout)
    out, lse = attention(*args, layout=layout, return_lse=True)
    assert_like_oracle("scaled_dot_product_attention", out, args, layout=layout)
    assert lse.shape == (*batch, 4, 6)


def test_two_axes_are_one_head(isa: str, dtype: DTypeLike) -> None:
    args = make_qkv(6, 9, batch=(), heads=1, dtype=dtype)
    out, lse = attention(*args, return_lse=True)
    for layout in ("bhld", "blhd"):
        flat, flat_lse = attention(*(x[0] for x in args), return_lse=True, layout=layout)
        assert_same_bits(flat, out[0])
        assert_same_bits(flat_lse, lse[0])


@pytest.mark.parametrize(
    ("query_batch", "key_batch", "value_batch"),
    [((2, 1), (3,), (2, 3)), ((), (2, 3), (2, 3)), ((4,), (), ()), ((1,), (5,), (1,))],
)
def test_leading_axes_broadcast(
    isa: str,
    query_batch: tuple[int, ...],
    key_batch: tuple[int, ...],
    value_batch: tuple[int, ...],
) -> None:
    query = make_qkv(6, 9, batch=query_batch)[0]
    key = make_qkv(6, 9, batch=key_batch)[1]
    value = make_qkv(6, 9, batch=value_batch)[2]
    out, lse = attention(query, key, value, return_lse=True)
    batch = np.broadcast_shapes(query_batch, key_batch, value_batch)
    assert out.shape == (*batch, 2, 6, 16)
    assert lse.shape == (*batch, 2, 6)
    copies = [
        np.ascontiguousarray(np.broadcast_to(x, (*batch, *x.shape[-3:])))
        for x in (query, key, value)
    ]
    assert_same_bits(out, attention(*copies))


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize(
    "empty", ["batch", "heads", "queries", "keys", "head_dim", "value_dim", "queries and keys"]
)
def test_empty_axes(isa: str, dtype: DTypeLike, layout: str, empty: str) -> None:
    sizes = {"batch": 2, "heads": 3, "queries": 5, "keys": 7, "head_dim": 4, "value_dim": 6}
    sizes |= {name: 0 for name in empty.split(" and ")}
    args = make_qkv(
        sizes["queries"], sizes["keys"], sizes["head_dim"], batch=(sizes["batch"],),
        heads=sizes["heads"], value_dim=sizes["value_dim"], dtype=dtype, layout=layout,
    )  # fmt: skip
    for causal in (False, True):
        out, lse = attention(*args, layout=layout, is_causal=causal, return_lse=True)
        heads_first = (sizes["batch"], sizes["heads"], sizes["queries"])
        assert lse.shape == heads_first
        middle = heads_first[1:] if layout == "bhld" else heads_first[:0:-1]
        assert out.shape == (sizes["batch"], *middle, sizes["value_dim"])
        assert out.dtype == dtype
        if sizes["keys"] == 0:
            assert not out.any()
            assert np.isneginf(lse).all()
        elif out.size:  # no head dim: every score is 0
            assert_like_oracle(
                "scaled_dot_product_attention", out, args, layout=layout, is_causal=causal
            )
    weights = attnx.attention_weights(*args[:2], layout=layout)
    assert weights.shape == (*heads_first, sizes["keys"])


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize(
    "way", ["plain", "spread2", "reversed1", "spread3", "unaligned", "records", "shifted"]
)
def test_out(isa: str, dtype: DTypeLike, layout: str, way: str) -> None:
    args = make_qkv(11, 50, value_dim=13, dtype=dtype, layout=layout)
    expected, expected_lse = attention(*args, layout=layout, return_lse=True)
    room = np.full(expected.shape, np.nan, dtype)
    room = room if way == "plain" else STRIDES[way](room)
    result, lse = attention(*args, layout=layout, out=room, return_lse=True)
    assert result is room
    assert_same_bits(room, expected)
    assert_same_bits(lse, expected_lse)
    if way == "spread2":
        assert np.isnan(room.base[:, :, ::3]).all()
    assert attention(*args, layout=layout, out=room) is room


def test_out_of_weights(isa: str, dtype: DTypeLike) -> None:
    query, key, _ = make_qkv(11, 50, dtype=dtype)
    expected = attnx.attention_weights(query, key)
    room = np.full((2, 2, 11, 100), np.nan, dtype)
    assert attnx.attention_weights(query, key, out=room[..., 1::2]) is not None
    assert_same_bits(room[..., 1::2], expected)
    assert np.isnan(room[..., ::2]).all()


def test_out_is_filled_where_nothing_is_seen(isa: str) -> None:
    args = make_qkv(3, 5)
    for options in ({"key_lengths": 0}, {"query_lengths": 0}, {"query_offset": -9}):
        room = np.full((2, 2, 3, 16), np.nan, np.float32)
        attention(*args, out=room, is_causal=True, **options)
        assert not room.any()
    room = np.full((2, 2, 3, 16), np.nan, np.float32)
    attention(args[0], args[1][:, :, :0], args[2][:, :, :0], out=room)
    assert not room.any()


def test_inputs_are_left_alone(isa: str) -> None:
    args = make_qkv(9, 60)
    before = [x.copy() for x in args]
    lengths, offsets = np.array([3, 60]), np.array([5, -2])
    attention(*args, key_lengths=lengths, query_offset=offsets, is_causal=True)
    for x, old in zip(args, before, strict=True):
        assert_same_bits(x, old)
    np.testing.assert_array_equal(lengths, [3, 60])
    np.testing.assert_array_equal(offsets, [5, -2])


def test_results_are_fresh_arrays(isa: str) -> None:
    args = make_qkv(9, 60)
    first = attention(*args)
    kept = first.copy()
    second = attention(*(x * 2 for x in args))
    assert not np.shares_memory(first, second)
    assert_same_bits(first, kept)
    assert first.flags.owndata
    assert first.flags.c_contiguous
