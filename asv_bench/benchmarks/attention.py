"""Scaled dot-product attention: B x H x L x E."""

from __future__ import annotations

import numpy as np

import attnx

Shape = tuple[int, int, int, int]


def draw(shape: Shape, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)  # drawn in dtype: a larger temporary would be the peak
    query, key, value = (rng.standard_normal(shape, dtype=np.dtype(dtype)) for _ in range(3))
    return query, key, value


class Attention:
    params = [
        [(1, 12, 16, 64), (1, 12, 128, 64), (8, 12, 128, 64), (1, 12, 512, 64), (1, 4, 2048, 128)],
        ["float32", "float64"],
        [False, True],
    ]
    param_names = ["shape", "dtype", "is_causal"]

    def setup(self, shape: Shape, dtype: str, is_causal: bool) -> None:
        self.arrays = draw(shape, dtype)

    def time_attention(self, shape: Shape, dtype: str, is_causal: bool) -> None:
        attnx.scaled_dot_product_attention(*self.arrays, is_causal=is_causal)


class AttentionThreads:
    params = [[1, 2]]
    param_names = ["num_threads"]

    def setup(self, num_threads: int) -> None:
        self.arrays = draw((1, 12, 512, 64))

    def time_attention(self, num_threads: int) -> None:
        attnx.scaled_dot_product_attention(*self.arrays, num_threads=num_threads)


class AttentionMask:
    """16 rows of different lengths, hidden in each of the ways that there are."""

    params = [["none", "lengths", "bool", "float"]]
    param_names = ["mask"]

    def setup(self, mask: str) -> None:
        batch, rows = 16, 256
        self.arrays = draw((batch, 12, rows, 64))
        lengths = np.linspace(96, rows, batch).astype(np.int64)
        visible = (np.arange(rows) < lengths[:, None])[:, None, None]
        self.options = {
            "none": {},
            "lengths": {"key_lengths": lengths, "query_lengths": lengths},
            "bool": {"attn_mask": visible},
            "float": {"attn_mask": np.where(visible, np.float32(0), np.float32(-np.inf))},
        }[mask]

    def time_attention(self, mask: str) -> None:
        attnx.scaled_dot_product_attention(*self.arrays, **self.options)


class AttentionGrouped:
    """32 query heads that share kv_heads keys and values, causal."""

    params = [[32, 8, 1]]
    param_names = ["kv_heads"]

    def setup(self, kv_heads: int) -> None:
        self.query, key, value = draw((1, 32, 512, 128))
        self.key, self.value = (np.ascontiguousarray(a[:, :kv_heads]) for a in (key, value))

    def time_attention(self, kv_heads: int) -> None:
        attnx.scaled_dot_product_attention(self.query, self.key, self.value, is_causal=True)


class AttentionVariants:
    def setup(self) -> None:
        self.arrays = draw((4, 12, 128, 64))
        self.swapped = [np.ascontiguousarray(a.swapaxes(1, 2)) for a in self.arrays]
        self.packed = [a.reshape(4 * 128, 12, 64) for a in self.swapped]
        self.starts = np.arange(5) * 128

    def time_bhld(self) -> None:
        attnx.scaled_dot_product_attention(*self.arrays)

    def time_blhd(self) -> None:
        attnx.scaled_dot_product_attention(*self.swapped, layout="blhd")

    def time_return_lse(self) -> None:
        attnx.scaled_dot_product_attention(*self.arrays, return_lse=True)

    def time_varlen(self) -> None:
        attnx.varlen_attention(*self.packed, self.starts, self.starts)

    def time_weights(self) -> None:
        attnx.attention_weights(*self.arrays[:2])


class AttentionMemory:
    """L = S = 4096: a matrix of all scores would take 512 MB.

    `peakmem_reference` is the process with its arrays, before any work.
    """

    def setup(self) -> None:
        self.arrays = draw((1, 8, 4096, 64))

    def peakmem_reference(self) -> None:
        pass

    def peakmem_attention(self) -> None:
        attnx.scaled_dot_product_attention(*self.arrays)
