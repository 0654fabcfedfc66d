"""The gated recurrent unit."""

from __future__ import annotations

import numpy.typing as npt

from attnx.layers.module import FloatArray
from attnx.layers.recurrent import Recurrent


class GRU(Recurrent):
    """Gated recurrent units: a state that each step of a sequence updates.

    Parameters
    ----------
    input_size : int
        Size F of the input's last axis.
    hidden_size : int
        Size H of the state.
    num_layers : int, default 1
        How many layers, each on the outputs of the one before.
    bias : bool, default True
        Whether the linear maps have biases.
    bidirectional : bool, default False
        Whether each layer also goes through the sequence backwards; its outputs are then both
        directions', side by side.

    Notes
    -----
    With gates r, z and n, in this order in the parameters::

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h = (1 - z) * n + z * h

    Parameters are those of ``torch.nn.GRU``: ``weight_ih_l0`` (3 * H, F), ``weight_hh_l0``
    (3 * H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (3 * H,), the layer's number after ``_l``,
    ``_reverse`` behind the backward direction's. Unlike there, the batch comes first, there is no
    dropout, and ragged sequences are given as `lengths`, without packing: a sequence has the same
    bits alone and in any batch. Keras has ``reset_after`` for where r multiplies; it is True here.

    References
    ----------
    Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation, 2014, equations 5 to 8, with r applied after the matrix as in cuDNN.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import GRU
    >>> layer = GRU(3, 4, num_layers=2, bidirectional=True)
    >>> outputs, state = layer(np.ones((2, 5, 3), dtype=np.float32), lengths=[5, 2])
    >>> outputs.shape, state.shape
    ((2, 5, 8), (4, 2, 4))
    """

    _gates = 3

    def __call__(
        self,
        x: npt.ArrayLike,
        state: npt.ArrayLike | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Go through the sequences.

        Parameters
        ----------
        x : array_like
            Shape (..., L, F), float32; the leading axes are the batch.
        state : array_like, optional
            Shape (num_layers * directions, ..., H): what the first steps start from; default 0. A
            layer's two directions stand next to each other, the backward one second.
        lengths : array_like, optional
            How many steps each sequence has, in the shape of the batch axes. Later steps are not
            read, leave the state alone and have outputs of 0; the backward direction starts at
            each sequence's own last step.

        Returns
        -------
        outputs : ndarray
            Shape (..., L, directions * H): the last layer's state after each step.
        state : ndarray
            Shape (num_layers * directions, ..., H): all layers' states after the last step.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import GRU
        >>> layer, x = GRU(3, 4), np.ones((2, 5, 3), dtype=np.float32)
        >>> outputs, state = layer(x)
        >>> _, half = layer(x[:, :2])
        >>> rest, _ = layer(x[:, 2:], half)
        >>> bool((rest == outputs[:, 2:]).all()), bool((outputs[:, -1] == state[0]).all())
        (True, True)
        """
        outputs, states = self._run(x, None if state is None else [state], lengths, 1)
        return outputs, states[0]
