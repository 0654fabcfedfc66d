"""Softmax over the last axis."""

from __future__ import annotations

import numpy as np

import attnx


class Softmax:
    params = [[(64, 64), (4096, 512), (32, 50257)], ["float32", "float64"]]
    param_names = ["shape", "dtype"]

    def setup(self, shape: tuple[int, int], dtype: str) -> None:
        self.x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        self.out = np.empty_like(self.x)
        self.mask = np.arange(shape[1]) < shape[1] // 2

    def time_softmax(self, shape: tuple[int, int], dtype: str) -> None:
        attnx.softmax(self.x)

    def time_softmax_in_place(self, shape: tuple[int, int], dtype: str) -> None:
        attnx.softmax(self.x, out=self.out)

    def time_softmax_masked(self, shape: tuple[int, int], dtype: str) -> None:
        attnx.softmax(self.x, mask=self.mask)


class SoftmaxMemory:
    """`peakmem_reference` is the process with its arrays, before any work."""

    def setup(self) -> None:
        self.x = np.ones((32, 50257), dtype=np.float32)

    def peakmem_reference(self) -> None:
        pass

    def peakmem_softmax(self) -> None:
        attnx.softmax(self.x)
