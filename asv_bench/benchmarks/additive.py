"""Additive attention: the kernel alone, and the layer with its projections."""

from __future__ import annotations

import numpy as np

import attnx

#: B, L, S: one step of a decoder, and all steps at once.
SHAPES = [(32, 1, 50), (16, 40, 50)]
WIDTH, UNITS = 512, 256


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


class AdditiveAttention:
    params = [SHAPES, ["float32", "float64"]]
    param_names = ["shape", "dtype"]

    def setup(self, shape: tuple[int, int, int], dtype: str) -> None:
        batch, queries, keys = shape
        arrays = draw(batch, queries, UNITS), draw(batch, keys, UNITS), draw(batch, keys, WIDTH)
        self.arrays = [x.astype(dtype) for x in (*arrays, draw(UNITS) / 16)]
        self.mask = np.random.default_rng(1).random((batch, queries, keys)) < 0.8

    def time_additive(self, shape: tuple[int, int, int], dtype: str) -> None:
        attnx.additive_attention(*self.arrays)

    def time_masked(self, shape: tuple[int, int, int], dtype: str) -> None:
        attnx.additive_attention(*self.arrays, self.mask)

    def time_return_weights(self, shape: tuple[int, int, int], dtype: str) -> None:
        attnx.additive_attention(*self.arrays, return_weights=True)


class AdditiveSizes:
    """Numbers past what exponentials can hold go another way, row by row."""

    params = [[0.01, 1.0, 20.0]]
    param_names = ["size"]

    def setup(self, size: float) -> None:
        self.arrays = draw(16, 40, UNITS) * size, draw(16, 50, UNITS) * size, draw(16, 50, WIDTH)
        self.score_weight = draw(UNITS) / 16

    def time_additive(self, size: float) -> None:
        attnx.additive_attention(*self.arrays, self.score_weight)


class AdditiveLayer:
    params = [SHAPES]
    param_names = ["shape"]

    def setup(self, shape: tuple[int, int, int]) -> None:
        batch, queries, keys = shape
        self.layer = attnx.layers.AdditiveAttention(WIDTH, WIDTH, UNITS)
        self.query, self.key = draw(batch, queries, WIDTH), draw(batch, keys, WIDTH)
        self.memory = self.layer.project(self.key)

    def time_layer(self, shape: tuple[int, int, int]) -> None:
        self.layer(self.query, self.key)

    def time_projected(self, shape: tuple[int, int, int]) -> None:
        self.layer(self.query, self.memory)


class LuongAttention:
    params = [["dot", "general", "concat"]]
    param_names = ["score"]

    def setup(self, score: str) -> None:
        units = UNITS if score == "concat" else None
        self.layer = attnx.layers.LuongAttention(WIDTH, WIDTH, score=score, units=units)
        self.query, self.key = draw(16, 40, WIDTH), draw(16, 50, WIDTH)

    def time_layer(self, score: str) -> None:
        self.layer(self.query, self.key)


class AdditiveMemory:
    """An L x S x U array would take 4 GB. `peakmem_reference` is the process with its arrays, before any work."""

    def setup(self) -> None:
        self.arrays = draw(1, 2000, UNITS), draw(1, 2000, UNITS), draw(1, 2000, 64), draw(UNITS)

    def peakmem_reference(self) -> None:
        pass

    def peakmem_additive(self) -> None:
        attnx.additive_attention(*self.arrays)
