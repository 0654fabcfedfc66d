"""What a cache refuses, and that it is then as it was."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import assert_same_bits

from attnx import KVCache


def make() -> KVCache:
    cache = KVCache(2, 1, 4, 3)
    rows = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3)
    cache.append(rows, -rows, [3, 2])
    return cache


def rows(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


@pytest.mark.parametrize(("call", "error", "message"), [
    (("append", rows(2, 1, 2, 3), rows(2, 1, 2, 3)), ValueError, "key must fit .* 4 positions.*3, 2"),
    (("append", rows(2, 1, 2, 3), rows(2, 1, 2, 3), [2, 0]), ValueError, "key must fit"),
    (("append", rows(2, 1, 1, 3), rows(2, 1, 2, 3)), ValueError, "value must have the 1 rows"),
    (("append", rows(1, 1, 1, 3), rows(2, 1, 1, 3)), ValueError, r"key .*\(2, 1, length, 3\)"),
    (("append", rows(2, 1, 1, 3), rows(2, 1, 1, 4)), ValueError, r"value .*\(2, 1, length, 3\)"),
    (("append", rows(2, 1, 3), rows(2, 1, 1, 3)), ValueError, "key must have shape"),
    (("append", rows(2, 1, 1, 3, dtype=int), rows(2, 1, 1, 3)), TypeError, "key must be float"),
    (("append", rows(2, 1, 1, 3), rows(2, 1, 1, 3, dtype=">f4")), TypeError, "value must be float"),
    (("append", rows(2, 1, 1, 3), rows(2, 1, 1, 3), [1, 2]), ValueError, "lengths must lie"),
    (("append", rows(2, 1, 1, 3), rows(2, 1, 1, 3), [-1, 0]), ValueError, "lengths must lie"),
    (("append", rows(2, 1, 1, 3), rows(2, 1, 1, 3), [1.0, 0.0]), TypeError, "lengths must be int"),
    (("append", rows(2, 1, 1, 3), rows(2, 1, 1, 3), [1, 1, 1]), ValueError, "lengths must broad"),
    (("reorder", [0]), ValueError, r"rows must have shape \(2,\)"),
    (("reorder", 0), ValueError, r"rows must have shape \(2,\)"),
    (("reorder", [0, 2]), ValueError, "rows must lie between 0 and 1"),
    (("reorder", [0, -1]), ValueError, "rows must lie between 0 and 1"),
    (("reorder", [0.0, 1.0]), TypeError, "rows must be integers"),
    (("reorder", [False, True]), TypeError, "rows must be integers"),
    (("truncate", [3, 3]), ValueError, r"lengths must lie .* \[3, 2\], got \[3, 3\]"),
    (("truncate", -1), ValueError, "lengths must lie"),
    (("truncate", 1.0), TypeError, "lengths must be integers"),
    (("attend", rows(2, 1, 2, 3)), ValueError, "query must have the 3 rows of the ragged append"),
    (("attend", rows(1, 1, 3, 3)), ValueError, "query must have shape"),
    (("attend", rows(2, 3, 3)), ValueError, "query must have shape"),
    (("attend", rows(2, 1, 3, 4)), ValueError, r"query .*\(2, a multiple of 1, length, 3\)"),
    (("reorder", [[0], [1, 2]]), TypeError, "rows must be an array"),
])  # fmt: skip
def test_errors_change_nothing(call: tuple[Any, ...], error: type[Exception], message: str):
    cache, twin = make(), make()
    with pytest.raises(error, match=message):
        getattr(cache, call[0])(*call[1:])
    assert cache.lengths.tolist() == [3, 2]
    query = np.linspace(-1, 1, 18, dtype=np.float32).reshape(2, 1, 3, 3)
    assert_same_bits(cache.attend(query), twin.attend(query))
    assert_same_bits(cache.key, twin.key)
    assert_same_bits(cache.value, twin.value)


@pytest.mark.parametrize("name", ["key_lengths", "query_lengths", "query_offset", "layout"])
def test_positions_are_the_caches_own(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is the cache's own"):
        make().attend(rows(2, 1, 3, 3), **{name: "bhld" if name == "layout" else 1})


def test_unknown_options_and_kinds() -> None:
    with pytest.raises(TypeError, match="no_such"):
        make().attend(rows(2, 1, 3, 3), no_such=1)
    with pytest.raises(TypeError, match="is_causal must be a bool"):
        make().attend(rows(2, 1, 3, 3), is_causal=1)
    even = KVCache(1, 1, 4, 3)
    even.append(rows(1, 1, 1, 3), rows(1, 1, 1, 3))
    for not_bool in (1, "yes", None):
        with pytest.raises(TypeError, match="is_causal must be a bool"):
            even.attend(rows(1, 1, 1, 3), is_causal=not_bool)


def test_more_queries_than_positions() -> None:
    cache = KVCache(2, 1, 4, 3)
    with pytest.raises(ValueError, match="query must have at most"):
        cache.attend(rows(2, 1, 1, 3))
    assert cache.attend(rows(2, 1, 0, 3)).shape == (2, 1, 0, 3)
    cache.append(rows(2, 1, 3, 3), rows(2, 1, 3, 3), [3, 1])
    cache.truncate([3, 1])
    with pytest.raises(ValueError, match="query must have at most"):
        cache.attend(rows(2, 1, 2, 3))


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"batch": -1}, ValueError, "batch must not be negative"),
    ({"num_kv_heads": 2.0}, TypeError, "num_kv_heads must be an integer"),
    ({"capacity": True}, TypeError, "capacity must be an integer"),
    ({"head_dim": "8"}, TypeError, "head_dim must be an integer"),
    ({"value_dim": -2}, ValueError, "value_dim must not be negative"),
    ({"dtype": "int8"}, TypeError, "dtype must be one of float32.* got 'int8'"),
    ({"dtype": ">f4"}, TypeError, "dtype must be one of"),
    ({"dtype": "no such"}, TypeError, "dtype must be one of"),
    ({"dtype": None}, TypeError, "dtype must be one of"),
])  # fmt: skip
def test_constructor(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KVCache(**({"batch": 1, "num_kv_heads": 1, "capacity": 4, "head_dim": 2} | changes))


def test_nothing_to_hold() -> None:
    for sizes in [(0, 1, 4, 2), (1, 0, 4, 2), (1, 1, 4, 0)]:
        cache = KVCache(*sizes)
        batch, heads, _, dim = sizes
        new = rows(batch, heads, 2, dim)
        cache.append(new, new)
        assert cache.attend(new).shape == new.shape
        cache.reorder(np.arange(batch))
        cache.truncate(1)
        assert cache.lengths.tolist() == [1] * batch
    full = KVCache(1, 1, 0, 2)
    with pytest.raises(ValueError, match="cache of 0 positions"):
        full.append(rows(1, 1, 1, 2), rows(1, 1, 1, 2))


def test_append_converts_to_the_storage_dtype() -> None:
    cache = KVCache(1, 1, 4, 2)
    cache.append(np.full((1, 1, 1, 2), 1 / 3), np.full((1, 1, 1, 2), 0.1))
    assert cache.key.dtype == np.float32
    assert cache.key[0, 0, 0, 0] == np.float32(1 / 3)
    assert cache.value[0, 0, 0, 0] == np.float32(0.1)
    assert "dtype='float32', lengths=[1]" in repr(cache)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", np.float16, ml_dtypes.bfloat16])
def test_append_rounds_to_sixteen_bits(dtype: Any) -> None:
    cache = KVCache(1, 1, 4, 2, dtype=dtype)
    cache.append(np.full((1, 1, 1, 2), 1 / 3), np.full((1, 1, 1, 2), 0.1, np.float32))
    half = cache.key.dtype
    assert half.itemsize == 2
    assert half.name in str(dtype)
    assert cache.key[0, 0, 0, 0] == half.type(1 / 3)
    assert cache.value[0, 0, 0, 0] == half.type(0.1)


def test_bfloat16_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="dtype bfloat16 needs the package ml_dtypes"):
        KVCache(1, 1, 4, 2, dtype="bfloat16")


def test_lengths_are_copied() -> None:
    cache, own = KVCache(2, 1, 4, 3), np.array([2, 1])
    cache.append(rows(2, 1, 2, 3), rows(2, 1, 2, 3), own)
    cache.truncate(own)
    own[:] = 0
    cache.lengths[:] = 0
    assert cache.lengths.tolist() == [2, 1]


def overlapping() -> tuple[np.ndarray, np.ndarray]:
    one = rows(1, 1, 5, 2)
    return one[:, :, :4], one[:, :, 1:]


def readonly() -> np.ndarray:
    one = rows(1, 1, 4, 2)
    one.flags.writeable = False
    return one


@pytest.mark.parametrize(("buffers", "error", "message"), [
    ((rows(1, 1, 4, 2).tolist(), rows(1, 1, 4, 2)), TypeError, "key must be a numpy array"),
    ((rows(1, 1, 4, 2, dtype=int), rows(1, 1, 4, 2)), TypeError, "key must be one of float32"),
    ((rows(1, 1, 4, 2), rows(1, 1, 4, 2, dtype=float)), TypeError, "value must have dtype float32"),
    ((rows(1, 1, 4, 2), rows(1, 1, 3, 2)), ValueError, r"value must have shape \(1, 1, 4\)"),
    ((rows(1, 4, 2), rows(1, 4, 2)), ValueError, "key must have shape"),
    ((rows(1, 1, 4, 2), readonly()), ValueError, "value must be writeable"),
    ((rows(1, 1, 4, 4)[..., ::2], rows(1, 1, 4, 2)), ValueError, "key .* stride one"),
    (overlapping(), ValueError, "value must not overlap"),
    ((readonly().copy(),) * 2, ValueError, "value must not be the key's own"),
    ((np.broadcast_to(rows(1, 1, 4, 2), (2, 1, 4, 2)), rows(2, 1, 4, 2)), ValueError, "key must"),
])  # fmt: skip
def test_buffers_that_cannot_be_one(buffers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KVCache.from_buffers(*buffers)


@pytest.mark.parametrize("lengths", [[5], [-1], 5])
def test_lengths_of_given_buffers(lengths: Any) -> None:
    with pytest.raises(ValueError, match="lengths must lie between 0 and 4"):
        KVCache.from_buffers(rows(1, 1, 4, 2), rows(1, 1, 4, 2), lengths)
