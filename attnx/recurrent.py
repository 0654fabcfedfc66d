"""A recurrent layer's way through its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnx._core import _recurrent
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import NDArray

    from attnx.linear import PackedWeight

    FloatArray = NDArray[np.float32]
    Counts = NDArray[np.int64]

__all__ = ["recurrent_into"]

# Multiply-adds of the steps that one call of the core makes, between which signals are seen: some milliseconds, a tenth
# of a second without SIMD.
_PART = 1 << 26


def recurrent_into(
    x: FloatArray,
    weight: PackedWeight,
    bias: FloatArray | None,
    states: tuple[FloatArray, ...],
    counts: Counts,
    out: FloatArray,
    *,
    backwards: bool = False,
) -> None:
    """Take states (B, H) in place through the steps of one direction, each new state to out (T, H); without a check.

    x = W_i input + b_i (T, gates * H) stands step by step, counts[s] rows of step s, those of the first states; weight
    and bias make the rest of a state's gates. One of the states is a GRU's, of three gates; two are state and cell of
    an LSTM, of four. For layers, between buffers of their own.
    """
    gates = np.empty((len(states[0]), weight.out_features), np.float32)
    part = max(1, _PART // (gates.size * weight.in_features + 1))
    if part >= len(counts):  # nearly always
        _recurrent.steps(
            x, (weight.panels, bias), states, counts, backwards, gates, out, threads_for(None)
        )
        return
    begins = range(0, len(counts), part)
    ends = np.cumsum(counts)
    for begin in reversed(begins) if backwards else begins:
        end = min(begin + part, len(counts))
        rows = slice(ends[begin - 1] if begin else 0, ends[end - 1])
        _recurrent.steps(
            x[rows], (weight.panels, bias), states, counts[begin:end], backwards, gates, out[rows],
            threads_for(None),
        )  # fmt: skip
