"""Decoding from a key/value cache: one query a sequence, many keys."""

from __future__ import annotations

import numpy as np

import attnx

Case = tuple[int, int, int, int, int]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def filled(case: Case) -> attnx.KVCache:
    """Return a cache that is full but for a few positions."""
    batch, _, kv_heads, keys, dim = case
    cache = attnx.KVCache(batch, kv_heads, keys + 8, dim)
    cache.append(draw(batch, kv_heads, keys, dim), draw(batch, kv_heads, keys, dim))
    return cache


class Decode:
    """Batch, query heads, key heads, keys, head dim; each step reads the whole cache."""

    params = [[(1, 32, 8, 4096, 128), (16, 32, 8, 1024, 128), (1, 12, 12, 512, 64)]]
    param_names = ["case"]

    def setup(self, case: Case) -> None:
        batch, heads, _, _, dim = case
        self.cache = filled(case)
        self.query = draw(batch, heads, 1, dim)
        self.drafted = draw(batch, heads, 5, dim)

    def time_attend(self, case: Case) -> None:
        self.cache.attend(self.query)

    def time_attend_five(self, case: Case) -> None:
        """The positions of a draft, checked together."""
        self.cache.attend(self.drafted)


class DecodeRagged:
    """16 sequences of lengths 64 to 1024."""

    def setup(self) -> None:
        self.cache = filled((16, 32, 8, 1024, 128))
        self.cache.truncate(np.arange(1, 17) * 64)
        self.query = draw(16, 32, 1, 128)

    def time_attend(self) -> None:
        self.cache.attend(self.query)


class DecodeSmall:
    """What a step costs beside its arithmetic: there is next to none."""

    params = [[1, 16]]
    param_names = ["batch"]

    def setup(self, batch: int) -> None:
        self.cache = filled((batch, 4, 2, 8, 8))
        self.query, self.key = draw(batch, 4, 1, 8), draw(batch, 2, 1, 8)
        self.lengths = self.cache.lengths

    def time_attend(self, batch: int) -> None:
        self.cache.attend(self.query, num_threads=1)

    def time_append_and_truncate(self, batch: int) -> None:
        self.cache.append(self.key, self.key)
        self.cache.truncate(self.lengths)


class Cache:
    def setup(self) -> None:
        self.cache = filled((8, 8, 8, 512, 64))
        self.layer = attnx.layers.MultiHeadAttention(512, 8)
        self.x = draw(8, 1, 512)
        self.lengths = self.cache.lengths

    def time_reorder(self) -> None:
        self.cache.reorder([1, 0, 2, 3, 4, 4, 4, 7])

    def time_multi_head_attention(self) -> None:
        self.layer(self.x, cache=self.cache)
        self.cache.truncate(self.lengths)


class DecodeMemory:
    """`peakmem_reference` is the process with its cache, before any step."""

    def setup(self) -> None:
        self.cache = filled((4, 32, 8, 4096, 128))
        self.query = draw(4, 32, 1, 128)

    def peakmem_reference(self) -> None:
        pass

    def peakmem_attend(self) -> None:
        self.cache.attend(self.query)
