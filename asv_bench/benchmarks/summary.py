"""What attention looks at, beside the same attention without looking; peaks beside the matrix."""

from __future__ import annotations

from typing import Any

import attnx

from .attention import draw

ASKED: dict[str, dict[str, Any]] = {
    "output": {},
    "entropy": {"entropy": True},
    "received": {"received": True},
    "both": {"entropy": True, "received": True},
    "both, top 16": {"entropy": True, "received": True, "top_k": 16},
    "rows": {"rows": [0, 1000, -1]},
}


class Summary:
    params = [[(1, 1, 8192, 64), (1, 12, 512, 64), (8, 12, 128, 64)], list(ASKED), [False, True]]
    param_names = ["shape", "asked", "is_causal"]

    def setup(self, shape: tuple[int, int, int, int], asked: str, is_causal: bool) -> None:
        if asked == "rows" and shape[2] <= 1000:
            raise NotImplementedError("too few rows")  # how a benchmark tells asv to skip it
        self.arrays = draw(shape)

    def time_summary(self, shape: tuple[int, int, int, int], asked: str, is_causal: bool) -> None:
        attnx.attention_summary(*self.arrays, is_causal=is_causal, **ASKED[asked])

    def time_attention(self, shape: tuple[int, int, int, int], asked: str, is_causal: bool) -> None:
        attnx.scaled_dot_product_attention(*self.arrays, is_causal=is_causal)


class SummaryMemory:
    """L = S = 4096 and 8 heads: the matrix would take 512 MB.

    `peakmem_reference` is the process with its arrays, before any work.
    """

    def setup(self) -> None:
        self.arrays = draw((1, 8, 4096, 64))

    def peakmem_reference(self) -> None:
        pass

    def peakmem_summary(self) -> None:
        attnx.attention_summary(*self.arrays, top_k=16, entropy=True, received=True)
