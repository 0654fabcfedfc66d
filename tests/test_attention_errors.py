"""Bad input to the attention functions: the error's type, the name in it, nothing written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits, make_qkv

import attnx

attention = attnx.scaled_dot_product_attention
NAMES = ("query", "key", "value")
L, S = 5, 9


def qkv(**changes: Any) -> dict[str, Any]:
    """Return good arguments by name, some of them replaced."""
    return dict(zip(NAMES, make_qkv(L, S), strict=True)) | changes


BAD_KINDS = {
    "integer": lambda x: x.astype(np.int32),
    "int8": lambda x: x.astype(np.int8),
    "bool": lambda x: x > 0,
    "complex": lambda x: x.astype(np.complex64),
    "object": lambda x: x.astype(object),
    "string": lambda x: x.astype(str),
    "longdouble": lambda x: x.astype(np.longdouble),
    "byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "byte order of a view": lambda x: x.view(x.dtype.newbyteorder()),
    "masked array": lambda x: np.ma.masked_array(x),
    "matrix": lambda x: np.zeros((4, 16), np.float32).view(np.matrix),
    "none": lambda x: None,
    "text": lambda x: "query",
}


@pytest.mark.parametrize("kind", BAD_KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_kinds_of_array(name: str, kind: str) -> None:
    good = qkv()
    bad = good | {name: BAD_KINDS[kind](good[name])}
    with pytest.raises(TypeError, match=name):
        attention(**bad)
    if name != "value":
        with pytest.raises(TypeError, match=name):
            attnx.attention_weights(bad["query"], bad["key"])


@pytest.mark.parametrize("name", ["key", "value"])
def test_wider_keys_or_values_than_the_query(name: str) -> None:
    good = qkv()
    with pytest.raises((TypeError, ValueError), match=name):
        attention(**good | {name: good[name].astype(np.float64)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("query", (16,)),
        ("key", ()),
        ("value", (9,)),
        ("key", (2, 2, 9, 15)),
        ("query", (2, 2, 5, 17)),
        ("value", (2, 2, 8, 16)),
        ("key", (2, 2, 10, 16)),
        ("key", (3, 2, 9, 16)),
        ("value", (3, 2, 9, 16)),
        ("query", (2, 3, 5, 16)),
        ("key", (2, 3, 9, 16)),
        ("value", (2, 1, 9, 16)),
        ("key", (2, 0, 9, 16)),
    ],
)
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"query|key|value"):
        attention(**qkv(**{name: np.zeros(shape, np.float32)}))


@pytest.mark.parametrize(
    ("error", "mask"),
    [
        (TypeError, np.ones((L, S), np.int32)),
        (TypeError, np.ones((L, S), np.uint8)),
        (TypeError, np.ones((L, S), complex)),
        (TypeError, np.ones((L, S), object)),
        (TypeError, np.ones((L, S), np.dtype(np.float32).newbyteorder())),
        (TypeError, np.ma.ones((L, S), bool)),
        (TypeError, "causal"),
        (ValueError, np.ones((L, S + 1), bool)),
        (ValueError, np.ones((L + 1, S), bool)),
        (ValueError, np.ones((L,), bool)),
        (ValueError, np.ones((3, 1, L, S), np.float32)),
        (ValueError, np.ones((2, 3, L, S), np.float32)),
        (ValueError, np.ones((0,), bool)),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}" if isinstance(x, np.ndarray) else None,
)
def test_masks(error: type[Exception], mask: Any) -> None:
    for call in (lambda: attention(**qkv(), attn_mask=mask), lambda: weights(attn_mask=mask)):
        with pytest.raises(error, match="attn_mask"):
            call()


def weights(**options: Any) -> Array:
    """Return the weights of good arrays."""
    query, key, _ = make_qkv(L, S)
    result: Array = attnx.attention_weights(query, key, **options)
    return result


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"key_lengths": -1}),
        (ValueError, {"key_lengths": S + 1}),
        (ValueError, {"key_lengths": [1, S + 1]}),
        (ValueError, {"key_lengths": [-1, 2]}),
        (ValueError, {"key_lengths": 2**63 - 1}),
        (ValueError, {"key_lengths": np.uint64(2**64 - 1)}),
        (ValueError, {"key_lengths": [1, 2, 3]}),
        (ValueError, {"key_lengths": [[1], [2]]}),
        (TypeError, {"key_lengths": 3.0}),
        (TypeError, {"key_lengths": [3.0, 2.0]}),
        (TypeError, {"key_lengths": [True, False]}),
        (TypeError, {"key_lengths": "all"}),
        (ValueError, {"query_lengths": L + 1}),
        (ValueError, {"query_lengths": [-1, 2]}),
        (ValueError, {"query_lengths": [1, 2, 3]}),
        (TypeError, {"query_lengths": 2.0}),
        (ValueError, {"query_offset": [1, 2, 3]}),
        (TypeError, {"query_offset": 1.5}),
        (TypeError, {"query_offset": None}),
        (TypeError, {"scale": "large"}),
        (TypeError, {"scale": [1.0, 2.0]}),
        (TypeError, {"scale": 1j}),
        (ValueError, {"layout": "bhdl"}),
        ((TypeError, ValueError), {"layout": None}),
        (ValueError, {"num_threads": 0}),
        (ValueError, {"num_threads": -1}),
        (TypeError, {"num_threads": 1.5}),
        (TypeError, {"num_threads": "2"}),
    ],
    ids=str,
)
def test_options(error: type[Exception], options: dict[str, Any]) -> None:
    for call in (lambda: attention(**qkv(), **options), lambda: weights(**options)):
        with pytest.raises(error, match=next(iter(options))):
            call()


def test_options_are_keywords() -> None:
    query, key, value = make_qkv(L, S)
    with pytest.raises(TypeError):
        attention(query, key, value, None, True)
    with pytest.raises(TypeError):
        attention(query, key, value, windows=3)


OUT_SHAPE = (2, 2, L, 16)
BAD_OUTS = {
    "too short": (ValueError, lambda: np.empty((2, 2, L - 1, 16), np.float32)),
    "one axis more": (ValueError, lambda: np.empty((1, *OUT_SHAPE), np.float32)),
    "broadcastable": (ValueError, lambda: np.empty((1, 2, L, 16), np.float32)),
    "float64": ((TypeError, ValueError), lambda: np.empty(OUT_SHAPE, np.float64)),
    "integer": ((TypeError, ValueError), lambda: np.empty(OUT_SHAPE, np.int32)),
    "byte order": ((TypeError, ValueError), lambda: np.empty(OUT_SHAPE, ">f4")),
    "list": (TypeError, lambda: [0.0]),
    "masked array": (TypeError, lambda: np.ma.zeros(OUT_SHAPE, np.float32)),
    "repeated": (
        ValueError,
        lambda: np.lib.stride_tricks.as_strided(
            np.empty(64, np.float32), OUT_SHAPE, (0, 0, 0, 4), writeable=True
        ),
    ),
}


@pytest.mark.parametrize("bad", BAD_OUTS)
def test_out_of_the_wrong_kind(bad: str) -> None:
    error, make = BAD_OUTS[bad]
    with pytest.raises(error, match="out"):
        attention(**qkv(), out=make())


def test_out_that_may_not_be_written() -> None:
    out = np.zeros(OUT_SHAPE, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        attention(**qkv(), out=out)
    assert not out.any()


@pytest.mark.parametrize("name", [*NAMES, "attn_mask"])
def test_out_over_an_input(name: str) -> None:
    arguments = qkv(query=make_qkv(S, S)[0], attn_mask=np.zeros((2, 2, S, S), np.float32))
    shape = (2, 2, S, 16)
    size = max(arguments[name].size, 2 * 2 * S * 16)
    for shift in (0, 5):
        room = np.zeros(size + shift, np.float32)
        inside = room[: arguments[name].size].reshape(arguments[name].shape)
        inside[...] = arguments[name]
        before = room.copy()
        out = room[room.size - 2 * 2 * S * 16 :].reshape(shape)
        if np.shares_memory(out, inside):
            with pytest.raises(ValueError, match="out"):
                attention(**arguments | {name: inside}, out=out)
            assert_same_bits(room, before)
        else:
            pytest.fail("the test's own arrays must overlap")


def test_out_beside_an_input_in_one_block_is_fine() -> None:
    room = np.zeros((2, 2, L, 32), np.float32)
    query, key, value = make_qkv(L, S)
    room[..., :16] = query
    attention(room[..., :16], key, value, out=room[..., 16:])
    assert_same_bits(room[..., :16], query)
    assert_same_bits(room[..., 16:], attention(query, key, value))


@pytest.mark.parametrize(
    "options",
    [
        {"key_lengths": [1, S + 1]},
        {"query_lengths": -1},
        {"attn_mask": np.ones((L, S), int)},
        {"attn_mask": np.ones((L, S + 1), bool)},
        {"layout": "bdlh"},
        {"num_threads": 0},
        {"value": np.zeros((2, 2, S + 1, 16), np.float32)},
        {"key": np.zeros((2, 2, S, 16), np.int32)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_nothing_is_written_on_error(options: dict[str, Any]) -> None:
    out = np.full(OUT_SHAPE, np.nan, np.float32)
    with pytest.raises((TypeError, ValueError)):
        attention(**qkv() | options, out=out)
    assert np.isnan(out).all()


def test_numpy_lengths_of_every_integer_type() -> None:
    expected = attention(**qkv(), key_lengths=[2, 9])
    for kind in np.typecodes["AllInteger"]:
        lengths = np.array([2, 9], kind)
        assert_same_bits(attention(**qkv(), key_lengths=lengths), expected)
    huge = attention(**qkv(), is_causal=True, query_offset=2**62)
    np.testing.assert_array_equal(huge, attention(**qkv(), is_causal=True, query_offset=S))
    low = attention(**qkv(), is_causal=True, query_offset=-(2**62))
    assert not low.any()


def test_out_may_not_overlap_a_bias_or_sinks() -> None:
    query, memory = np.ones((1, 2, 4, 4), np.float32), np.ones((1, 2, 4, 4), np.float32)
    for option in ({"bias": memory}, {"sinks": memory.reshape(-1)[:2]}):
        with pytest.raises(ValueError, match="out must not overlap an input"):
            attnx.scaled_dot_product_attention(query, query, query, out=memory, **option)
        with pytest.raises(ValueError, match="out must not overlap an input"):
            attnx.attention_weights(query, query, out=memory, **option)


def test_a_sink_that_is_no_number_makes_its_rows_none(isa: str) -> None:
    query = np.ones((2, 3, 4), np.float32)
    out = attnx.scaled_dot_product_attention(query, query, query, sinks=np.float32([np.nan, 0]))
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()
