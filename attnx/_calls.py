"""Calls that are written down, to be run again and again without Python between them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnx._core import _layers
from attnx.linear import ACTIVATIONS
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import NDArray

    from attnx._attention_call import Attention
    from attnx.linear import PackedWeight

    FloatArray = NDArray[np.float32]


# Bytes of weights that every thread can read from its L2, and rows of each thread's own share.
L2_BYTES, _LEAST_SHARE = 2 << 20, 16


def shares(groups: int, size: int, weights: int) -> list[slice]:
    """Cut groups of `size` rows into one share, or one for each thread that then takes its rows through all calls.

    weights: the bytes that all calls read beside the rows.
    """
    count = 1
    if weights <= L2_BYTES:
        count = max(1, min(threads_for(None), groups * size // _LEAST_SHARE, groups))
    ends = [groups * i // count * size for i in range(count + 1)]
    return [slice(begin, end) for begin, end in pairwise(ends)]


class Direction(NamedTuple):
    """One direction of a recurrent layer, in buffers of the layer's own.

    x = W_i input + b_i (T, gates * H) stands step by step; weight and bias make the rest of a state's gates. One of the
    states (B, H) is a GRU's, of three gates; two are state and cell of an LSTM, of four.
    """

    x: FloatArray
    weight: PackedWeight
    bias: FloatArray | None
    states: tuple[FloatArray, ...]
    out: FloatArray
    backwards: bool


class Calls:
    """A list of calls between float32 arrays, which live as long as it does and keep their memory.

    Nothing is checked. `linear` and `layer_norm` take what `linear_into` and `layer_norm_into` take.
    """

    def __init__(self) -> None:
        self._calls = _layers.Calls()

    def begin_part(self) -> None:
        """Let what follows be a part of its own: where there are several, one thread runs it.

        A part touches nothing that another one writes.
        """
        self._calls.begin_part()

    def linear(
        self,
        x: FloatArray,
        weight: PackedWeight,
        bias: FloatArray | None,
        out: FloatArray,
        *,
        activation: str | None = None,
        residual: FloatArray | None = None,
    ) -> None:
        """Add a linear map."""
        self._calls.linear(x, weight.panels, bias, residual, out, ACTIVATIONS[activation])

    def layer_norm(
        self,
        x: FloatArray,
        weight: FloatArray | None,
        bias: FloatArray | None,
        eps: float,
        out: FloatArray,
    ) -> None:
        """Add a norm."""
        self._calls.layer_norm(x, weight, bias, out, eps)

    def attend(self, call: Attention, out: FloatArray) -> None:
        """Add attention to out (..., H, L, D); the numbers in its lengths may change from run to run."""
        self._calls.attention(call, out)

    def additive(
        self,
        query: FloatArray,
        memory: tuple[FloatArray, FloatArray, FloatArray | None],
        score_weight: FloatArray,
        key_lengths: NDArray[Any] | None,
        out: FloatArray,
    ) -> None:
        """Add additive attention of queries (B, L, U) to a memory: value, key and, where they are known, its powers."""
        value, key, powers = memory
        self._calls.additive((query, key, value, None, powers), score_weight, key_lengths, out)

    def steps(self, direction: Direction, counts: NDArray[Any]) -> None:
        """Add a recurrent layer's way through its steps in one direction, on one thread."""
        x, weight, bias, states, out, backwards = direction
        gates = np.empty((len(states[0]), weight.out_features), np.float32)
        self._calls.steps(x, (weight.panels, bias), states, counts, backwards, gates, out)

    def gru(self, x: FloatArray, h: FloatArray, state: FloatArray, out: FloatArray) -> None:
        """Add a GRU's step from its gates x and h (B, 3 * H): the new state in place of the old one, and to out."""
        self._calls.gru(x, h, state, out)

    def append(self, rows: FloatArray, cache: FloatArray, lengths: NDArray[Any]) -> None:
        """Add what makes rows (B, G, D) the row lengths[b] - 1 of each entry b of a cache (B, G, capacity, D)."""
        self._calls.append(rows, cache, lengths)

    def run(self) -> None:
        """Run them in order, the parts beside each other."""
        self._calls.run(threads_for(None))
