"""Few queries on many keys of few heads: threads share the keys of a head, and change no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits, make_qkv
from numpy.typing import DTypeLike

import attnx

KEYS = 2100  # 17 blocks of 128 keys: spans of unlike length, the last block cut

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True, "query_offset": 1500},
    "window": {"window": (700, 3), "query_offset": 1800},
    "window at the start": {"window": (20, 0)},
    "lengths": {"key_lengths": np.array([KEYS, 130])},
    "nothing": {"key_lengths": np.array([0, 1]), "query_lengths": np.array([2, 0])},
    "softcap and sinks": {"softcap": 5.0, "sinks": np.ones(2)},
}


def attend(args: tuple[Array, ...], threads: int, **options: Any) -> tuple[Array, Array]:
    if "sinks" in options:
        options["sinks"] = options["sinks"].astype(args[0].dtype)
    out, lse = attnx.scaled_dot_product_attention(
        *args, return_lse=True, num_threads=threads, **options
    )
    return out, lse


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_share_the_keys(isa: str, dtype: DTypeLike, case: str) -> None:
    rng = np.random.default_rng(7)
    query = rng.standard_normal((2, 2, 2, 24)).astype(dtype)
    key, value = (rng.standard_normal((2, 1, KEYS, 24)).astype(dtype) for _ in range(2))
    alone = attend((query, key, value), 1, **CASES[case])
    for threads in (2, 3, 4, 8):
        for got, expected in zip(
            attend((query, key, value), threads, **CASES[case]), alone, strict=True
        ):
            assert_same_bits(got, expected)


def test_a_token_has_the_bits_of_the_whole(isa: str) -> None:
    query, key, value = make_qkv(1200, 1200, batch=(1,), heads=1)
    whole = attnx.scaled_dot_product_attention(query, key, value, is_causal=True)
    for token in (1199, 1024, 640):
        last = query[:, :, token : token + 1]
        got = attnx.scaled_dot_product_attention(
            last, key[:, :, : token + 1], value[:, :, : token + 1], num_threads=2
        )
        assert_same_bits(got, whole[:, :, token : token + 1])


@pytest.mark.parametrize("hidden", [0, 700, KEYS - 1])
def test_an_invisible_nan_changes_no_bit(isa: str, hidden: int) -> None:
    rng = np.random.default_rng(3)
    query = rng.standard_normal((1, 1, 1, 32), dtype=np.float32)
    key, value = (rng.standard_normal((1, 1, KEYS, 32), dtype=np.float32) for _ in range(2))
    mask = np.arange(KEYS) != hidden
    clean = attnx.scaled_dot_product_attention(query, key, value, mask, num_threads=2)
    key[..., hidden, :] = value[..., hidden, :] = np.nan
    got = attnx.scaled_dot_product_attention(query, key, value, mask, num_threads=2)
    assert_same_bits(got, clean)


@pytest.mark.parametrize("hides", [{"key_lengths": [1000]}, {"window": (100, 0)}])
def test_memory_follows_the_visible_keys(hides: dict[str, Any]) -> None:
    """2^40 keys (of one number each, broadcast), a few of them visible: no memory, no time."""
    query = np.ones((1, 1, 1, 8), dtype=np.float32)
    key = np.broadcast_to(query, (1, 1, 2**40, 8))
    for threads in (1, 2):
        out = attnx.scaled_dot_product_attention(query, key, key, num_threads=threads, **hides)
        np.testing.assert_array_equal(out, query)
