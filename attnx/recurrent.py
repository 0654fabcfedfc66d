"""A recurrent layer's way through its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnx._calls import L2_BYTES, Calls, Direction
from attnx._core import _recurrent
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]
    Counts = NDArray[np.int64]

__all__ = ["recurrent_into"]

# Multiply-adds of the steps that one call of the core makes, between which signals are seen: some milliseconds, a tenth
# of a second without SIMD.
_PART = 1 << 26


def recurrent_into(directions: list[Direction], counts: Counts) -> None:
    """Take the states of each direction in place through its steps, each new state to out (T, H); without a check.

    Step s has counts[s] rows, those of the first states.
    """
    threads, first = threads_for(None), directions[0]
    work = len(first.x) * first.weight.out_features * first.weight.in_features
    if (
        len(directions) != 2
        or threads != 2
        or work > _PART
        or first.weight.panels.nbytes > L2_BYTES
    ):
        for direction in directions:
            _through(direction, counts, threads)
        return
    # A thread for each direction: with both in every step, 12 steps of up to 64 rows of 96 took 1.6 times as long.
    calls = Calls()
    for direction in directions:
        calls.begin_part()
        calls.steps(direction, counts)
    calls.run()


def _through(direction: Direction, counts: Counts, threads: int) -> None:
    x, weight, bias, states, out, backwards = direction
    gates = np.empty((len(states[0]), weight.out_features), np.float32)
    part = max(1, _PART // (gates.size * weight.in_features + 1))
    if part >= len(counts):  # nearly always
        _recurrent.steps(x, (weight.panels, bias), states, counts, backwards, gates, out, threads)
        return
    begins = range(0, len(counts), part)
    ends = np.cumsum(counts)
    for begin in reversed(begins) if backwards else begins:
        end = min(begin + part, len(counts))
        rows = slice(ends[begin - 1] if begin else 0, ends[end - 1])
        _recurrent.steps(
            x[rows],
            (weight.panels, bias),
            states,
            counts[begin:end],
            backwards,
            gates,
            out[rows],
            threads,
        )
