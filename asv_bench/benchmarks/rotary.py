"""Rotary positions: B x H x L x E, all of E turned, and their tables."""

from __future__ import annotations

import numpy as np

import attnx

Shape = tuple[int, int, int, int]


class Rotary:
    params = [[(1, 32, 1, 128), (16, 32, 1, 128), (1, 32, 2048, 128)], [False, True]]
    param_names = ["shape", "interleaved"]

    def setup(self, shape: Shape, interleaved: bool) -> None:
        batch, _, length, dim = shape
        self.x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self.out = np.empty_like(self.x)
        self.tables = attnx.rotary_tables(4096, dim)
        self.positions = np.arange(length) + np.arange(batch)[:, np.newaxis]

    def time_rotary(self, shape: Shape, interleaved: bool) -> None:
        attnx.apply_rotary(self.x, *self.tables, interleaved=interleaved, out=self.out)

    def time_rotary_positions(self, shape: Shape, interleaved: bool) -> None:
        attnx.apply_rotary(
            self.x, *self.tables, interleaved=interleaved, positions=self.positions, out=self.out
        )


class RotaryTables:
    def time_rotary_tables(self) -> None:
        attnx.rotary_tables(4096, 128)


class Merge:
    params = [2, 16]
    param_names = ["parts"]

    def setup(self, parts: int) -> None:
        rng = np.random.default_rng(0)
        self.outputs = [rng.standard_normal((32, 16, 128), dtype=np.float32) for _ in range(parts)]
        self.lses = [rng.standard_normal((32, 16), dtype=np.float32) for _ in range(parts)]

    def time_merge_attention(self, parts: int) -> None:
        attnx.merge_attention(self.outputs, self.lses)
