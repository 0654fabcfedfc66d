"""The key/value cache: contents against lists of arrays, decoding against the full forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_like_oracle, assert_same_bits, make_qkv
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import DTypeLike

import attnx
from attnx import KVCache

BATCH, HEADS, KV_HEADS, CAPACITY, DIM, VALUE_DIM = 3, 4, 2, 11, 5, 3


def draw(seed: int, length: int, dtype: DTypeLike = np.float32) -> tuple[Array, Array, Array]:
    return make_qkv(length, length, DIM, batch=(BATCH,), heads=HEADS, kv_heads=KV_HEADS,
                    value_dim=VALUE_DIM, dtype=dtype, seed=seed)  # fmt: skip


class CacheMachine(RuleBasedStateMachine):
    """Each sequence of the model is a list of (key, value) rows, each a (G, dim) pair."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(BATCH, KV_HEADS, CAPACITY, DIM, value_dim=VALUE_DIM)
        self.model: list[list[tuple[Array, Array]]] = [[] for _ in range(BATCH)]
        self.own: list[int] | None = None  # of the last append, where it was ragged
        self.newest = 0

    @rule(
        seed=st.integers(0, 99),
        count=st.integers(0, 6),
        ragged=st.none() | st.lists(st.integers(0, 6), min_size=BATCH, max_size=BATCH),
    )
    def append(self, seed: int, count: int, ragged: list[int] | None) -> None:
        _, key, value = draw(seed, count)
        own = None if ragged is None else [min(n, count) for n in ragged]
        if own is not None:
            for b, n in enumerate(own):
                key[b, :, n:], value[b, :, n:] = np.nan, np.inf  # nobody may look at it
        taken = [count] * BATCH if own is None else own
        if max(len(rows) + n for rows, n in zip(self.model, taken, strict=True)) > CAPACITY:
            with pytest.raises(ValueError, match=f"cache of {CAPACITY} positions"):
                self.cache.append(key, value, own)
            return
        self.cache.append(key, value, own)
        key_copy, value_copy = key.copy(), value.copy()
        key[...] = value[...] = np.nan  # the cache has its own
        for b, n in enumerate(taken):
            self.model[b] += [(key_copy[b, :, i], value_copy[b, :, i]) for i in range(n)]
        self.own = None if taken == [count] * BATCH else taken
        self.newest = count

    @rule(rows=st.lists(st.integers(0, BATCH - 1), min_size=BATCH, max_size=BATCH))
    def reorder(self, rows: list[int]) -> None:
        self.cache.reorder(rows)
        self.model = [list(self.model[b]) for b in rows]
        if self.own is not None:
            self.own = [self.own[b] for b in rows]

    @rule(shares=st.lists(st.floats(0, 1), min_size=BATCH, max_size=BATCH))
    def truncate(self, shares: list[float]) -> None:
        lengths = [round(x * len(rows)) for x, rows in zip(shares, self.model, strict=True)]
        self.cache.truncate(lengths)
        self.model = [rows[:n] for rows, n in zip(self.model, lengths, strict=True)]
        self.own = None

    @precondition(lambda self: max(map(len, self.model)) > 0)
    @rule(
        seed=st.integers(0, 99),
        count=st.integers(0, 6),
        is_causal=st.booleans(),
        masked=st.booleans(),
    )
    def attend(self, seed: int, count: int, is_causal: bool, masked: bool) -> None:
        own = [count] * BATCH if self.own is None else self.own
        query = draw(seed + 100, count if self.own is None else self.newest)[0]
        if self.own is None and any(len(rows) < count for rows in self.model):
            with pytest.raises(ValueError, match="query must have at most"):
                self.cache.attend(query)
            return
        longest = max(map(len, self.model))
        options: dict[str, Any] = {}
        if masked:
            shape = (BATCH, 1, query.shape[2], longest)
            options["attn_mask"] = np.random.default_rng(seed).random(shape) < 0.7
        out = self.cache.attend(query, is_causal=is_causal, **options)
        assert out.shape == (BATCH, HEADS, query.shape[2], VALUE_DIM)
        for b, (rows, n) in enumerate(zip(self.model, own, strict=True)):
            assert_same_bits(out[b, :, n:], np.zeros_like(out[b, :, n:]))
            if not rows or not n:
                continue
            key, value = (np.stack(part, axis=1)[None] for part in zip(*rows, strict=True))
            mask = {k: m[b : b + 1, :, :n, : len(rows)] for k, m in options.items()}
            alone = {"is_causal": is_causal, "query_offset": len(rows) - n} | mask
            arrays = (query[b : b + 1, :, :n], key, value)
            assert_like_oracle(
                "scaled_dot_product_attention", out[b : b + 1, :, :n], arrays, **alone
            )
            same = attnx.scaled_dot_product_attention(*arrays, **alone)
            assert_same_bits(out[b : b + 1, :, :n], same)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert self.cache.lengths.tolist() == [len(rows) for rows in self.model]
        for b, rows in enumerate(self.model):
            for part, buffer in enumerate((self.cache.key, self.cache.value)):
                if rows:
                    wanted = np.stack([row[part] for row in rows], axis=1)
                    assert_same_bits(buffer[b, :, : len(rows)], wanted)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    settings.get_profile("ci"), max_examples=200, stateful_step_count=25
)
