"""Calls that are written down, to be run again and again without Python between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnx._core import _layers
from attnx.linear import ACTIVATIONS
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    import numpy as np
    from numpy.typing import NDArray

    from attnx._attention_call import Attention
    from attnx.linear import PackedWeight

    FloatArray = NDArray[np.float32]


class Calls:
    """A list of calls between float32 arrays, which live as long as it does and keep their memory.

    `linear`, `layer_norm` and `attend` take what `linear_into`, `layer_norm_into` and `attend_into` take.
    """

    def __init__(self) -> None:
        self._calls = _layers.Calls()

    def begin_part(self) -> None:
        """Let what follows be a part of its own, as many calls as each other part: one thread runs it.

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
        """Add attention; the numbers in its lengths may change from run to run."""
        self._calls.attention(call, out)

    def append(self, rows: FloatArray, cache: FloatArray, lengths: NDArray[Any]) -> None:
        """Add what makes rows (B, G, D) the row lengths[b] - 1 of each entry b of a cache (B, G, capacity, D)."""
        self._calls.append(rows, cache, lengths)

    def run(self) -> None:
        """Run them in order, the parts beside each other."""
        self._calls.run(threads_for(None))
