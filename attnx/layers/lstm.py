"""The long short-term memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attnx.layers.module import FloatArray
from attnx.layers.recurrent import Recurrent


class LSTM(Recurrent):
    """Long short-term memory: a state and a cell that each step of a sequence updates.

    Parameters
    ----------
    input_size : int
        Size F of the input's last axis.
    hidden_size : int
        Size H of the state and of the cell.
    num_layers : int, default 1
        How many layers, each on the outputs of the one before.
    bias : bool, default True
        Whether the linear maps have biases.
    bidirectional : bool, default False
        Whether each layer also goes through the sequence backwards; its outputs are then both
        directions', side by side.

    Notes
    -----
    With gates i, f, g and o, in this order in the parameters::

        i, f, o = sigmoid(W_i* x + b_i* + W_h* h + b_h*), each with its own rows
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c = f * c + i * g
        h = o * tanh(c)

    Parameters are those of ``torch.nn.LSTM``: ``weight_ih_l0`` (4 * H, F), ``weight_hh_l0``
    (4 * H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (4 * H,), the layer's number after ``_l``,
    ``_reverse`` behind the backward direction's. Unlike there, the batch comes first, there are no
    projections and no dropout, and ragged sequences are given as `lengths`, without packing: a
    sequence has the same bits alone and in any batch.

    References
    ----------
    Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; Gers et al., Learning to Forget, 2000,
    for the forget gate.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import LSTM
    >>> outputs, (h, c) = LSTM(3, 4)(np.ones((2, 5, 3), dtype=np.float32), lengths=[5, 2])
    >>> outputs.shape, h.shape, c.shape
    ((2, 5, 4), (1, 2, 4), (1, 2, 4))
    """

    _gates = 4

    def __call__(
        self,
        x: npt.ArrayLike,
        state: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
    ) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
        """Go through the sequences.

        Parameters
        ----------
        x : array_like
            Shape (..., L, F), float32; the leading axes are the batch.
        state : pair of array_like, optional
            The state h and the cell c that the first steps start from, each of shape
            (num_layers * directions, ..., H); default 0. A layer's two directions stand next to
            each other, the backward one second.
        lengths : array_like, optional
            How many steps each sequence has, in the shape of the batch axes. Later steps are not
            read, leave state and cell alone and have outputs of 0; the backward direction starts
            at each sequence's own last step.

        Returns
        -------
        outputs : ndarray
            Shape (..., L, directions * H): the last layer's state after each step.
        state : tuple of ndarray
            h and c after the last step, each of shape (num_layers * directions, ..., H).

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import LSTM
        >>> layer, x = LSTM(3, 4), np.ones((2, 5, 3), dtype=np.float32)
        >>> outputs, (h, c) = layer(x)
        >>> _, half = layer(x[:, :2])
        >>> rest, _ = layer(x[:, 2:], half)
        >>> bool((rest == outputs[:, 2:]).all()), bool((outputs[:, -1] == h[0]).all())
        (True, True)
        """
        pair = None
        if state is not None:
            if not isinstance(state, (tuple, list, np.ndarray)) or len(state) != 2:
                raise TypeError(f"state must be a pair (h, c), got {type(state).__name__}")
            pair = list(state)
        outputs, states = self._run(x, pair, lengths, 2)
        return outputs, (states[0], states[1])
