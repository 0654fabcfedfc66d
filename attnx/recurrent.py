"""What follows the linear maps of a recurrent step: the gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnx._core import _recurrent
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

__all__ = ["recurrent_step_into"]


def recurrent_step_into(
    x: FloatArray, h: FloatArray, state: FloatArray, cell: FloatArray | None, out: FloatArray
) -> None:
    """Take rows of state (n, H) to the next step in place, and write the new state to out as well; without a check.

    x = W_i input + b_i and h = W_h state + b_h hold the gates in PyTorch's order: (n, 3 H) of a GRU where cell is None,
    (n, 4 H) of an LSTM where it is (n, H) and is taken along. For layers, between buffers of their own.
    """
    _recurrent.step(x, h, state, cell, out, threads_for(None))
