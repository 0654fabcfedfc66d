"""The encoder half of the transformer: one layer, and a stack of them.

Both work on packed rows (T, d_model): the valid positions of all sequences one after the other.
Only the attention knows where a sequence ends; everything else is a row at a time, so padding costs
nothing and a sequence has the same bits alone and in any batch.
"""

from __future__ import annotations

from typing import Self

import numpy.typing as npt

from attnx.layers.block import Block, normalize
from attnx.layers.module import FloatArray, Module, as_size
from attnx.layers.norm import LayerNorm
from attnx.layers.packing import Attend
from attnx.layers.stack import encode
from attnx.layers.workspace import Workspace


class TransformerEncoderLayer(Block):
    """Self-attention, then a feed-forward network, each with a residual and a layer norm.

    Parameters
    ----------
    d_model : int
        Size of the last axis, a multiple of `nhead`.
    nhead : int
        Number of heads.
    dim_feedforward : int, default 2048
        Size of the feed-forward network's hidden axis.
    activation : {"relu", "gelu"}, default "relu"
        Between its two linear layers; "gelu" is the exact form with the error function.
    layer_norm_eps : float, default 1e-5
        Added to the variance in both layer norms.
    norm_first : bool, default False
        Whether the norms come before the attention and the network, as in GPT-2, not after them,
        as in BERT.
    bias : bool, default True
        Whether the linear layers and the norms have biases.

    Notes
    -----
    Parameters are those of ``torch.nn.TransformerEncoderLayer``: ``self_attn.*``, ``linear1.*``,
    ``linear2.*``, ``norm1.*``, ``norm2.*``. Unlike there, the batch comes first, True in a mask
    means 'may attend', padding is given as lengths, and there is no dropout.

    References
    ----------
    Vaswani et al., Attention Is All You Need, 2017, section 3.1; Xiong et al., On Layer
    Normalization in the Transformer Architecture, 2020, for `norm_first`.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import TransformerEncoderLayer
    >>> layer = TransformerEncoderLayer(8, 2, 16, activation="gelu")
    >>> layer(np.ones((2, 5, 8), dtype=np.float32), src_lengths=[5, 3]).shape
    (2, 5, 8)
    """

    _child_names = ("self_attn", "linear1", "linear2", "norm1", "norm2")

    def __call__(
        self,
        src: npt.ArrayLike,
        src_mask: npt.ArrayLike | None = None,
        *,
        src_lengths: npt.ArrayLike | None = None,
        is_causal: bool = False,
    ) -> FloatArray:
        """Return the layer's output.

        Parameters
        ----------
        src : array_like
            Shape (..., L, d_model), float32; the leading axes are the batch.
        src_mask : array_like, optional
            Broadcastable to (..., nhead, L, L): bool, True where a position may attend, or float,
            added to the scores.
        src_lengths : array_like, optional
            Number of positions of each sequence, in the shape of the batch axes. Positions past
            it are not read and come back as 0.
        is_causal : bool, default False
            Whether position i sees positions 0 to i only.

        Returns
        -------
        ndarray
            Shape of `src`.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerEncoderLayer
        >>> layer = TransformerEncoderLayer(4, 1, 8)
        >>> layer(np.ones((3, 4), dtype=np.float32), np.tri(3, dtype=bool)).shape
        (3, 4)
        """
        return encode([self], None, src, src_mask, src_lengths, is_causal)

    def _forward(self, x: FloatArray, work: Workspace, attend: Attend) -> FloatArray:
        """Take packed rows (T, d_model) to `work.result`, which may be where they are."""
        query_key_value, bias = self.self_attn._projection.fused()
        out_proj, first, second = self.self_attn.out_proj, self.norm1, self.norm2
        source = x
        if self.norm_first:
            source = normalize(first, x, work.other, work)
        work.linear(source, query_key_value, bias, work.projected)
        attend(work)
        work.linear(work.attended, out_proj._weight, out_proj._bias, work.other, residual=x)
        if self.norm_first:
            normalize(second, work.other, work.attended, work)
        else:
            normalize(first, work.other, work.result, work)
        for result, other, attended, hidden in work.chunks:
            if self.norm_first:
                self._feed_forward(attended, hidden, other, result, work)
            else:
                self._feed_forward(result, hidden, result, other, work)
        if self.norm_first:
            return work.result
        return normalize(second, work.other, work.result, work)


class TransformerEncoder(Module):
    """A stack of encoder layers.

    Parameters
    ----------
    encoder_layer : TransformerEncoderLayer
        The layer to stack. As in PyTorch, the stack begins with copies of it.
    num_layers : int
        How many.
    norm : LayerNorm, optional
        Applied after the last layer.

    Notes
    -----
    Parameters are those of ``torch.nn.TransformerEncoder``: ``layers.0.*`` and so on, ``norm.*``.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import TransformerEncoder, TransformerEncoderLayer
    >>> encoder = TransformerEncoder(TransformerEncoderLayer(8, 2, 16), num_layers=3)
    >>> encoder(np.ones((2, 5, 8), dtype=np.float32), src_lengths=[5, 3]).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: LayerNorm | None = None,
    ) -> None:
        if not isinstance(encoder_layer, TransformerEncoderLayer):
            raise TypeError(
                "encoder_layer must be a TransformerEncoderLayer, "
                f"got {type(encoder_layer).__name__}"
            )
        if norm is not None and not isinstance(norm, LayerNorm):
            raise TypeError(f"norm must be a LayerNorm or None, got {type(norm).__name__}")
        self.num_layers = as_size("num_layers", num_layers)
        self.layers = [encoder_layer._copy() for _ in range(self.num_layers)]
        self.norm = None if norm is None else norm._copy()

    def _children(self) -> list[tuple[str, Module]]:
        children: list[tuple[str, Module]] = [
            (f"layers.{number}", layer) for number, layer in enumerate(self.layers)
        ]
        return children if self.norm is None else [*children, ("norm", self.norm)]

    def _copy(self) -> Self:
        return type(self)(self.layers[0], self.num_layers, self.norm)

    def __call__(
        self,
        src: npt.ArrayLike,
        mask: npt.ArrayLike | None = None,
        *,
        src_lengths: npt.ArrayLike | None = None,
        is_causal: bool = False,
    ) -> FloatArray:
        """Return the output of the last layer, normalised where there is a norm.

        Parameters
        ----------
        src, mask, src_lengths, is_causal
            As in `TransformerEncoderLayer`, where the mask is `src_mask`.

        Returns
        -------
        ndarray
            Shape of `src`.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerEncoder, TransformerEncoderLayer
        >>> encoder = TransformerEncoder(TransformerEncoderLayer(4, 2, 8), num_layers=2)
        >>> encoder(np.ones((3, 4), dtype=np.float32), is_causal=True).shape
        (3, 4)
        """
        return encode(self.layers, self.norm, src, mask, src_lengths, is_causal)
