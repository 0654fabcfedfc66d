"""One layer of the transformer's decoder."""

from __future__ import annotations

import numpy.typing as npt

from attnx.layers.block import Activation, Block, normalize
from attnx.layers.decoder_pass import Stack, Targets, decode
from attnx.layers.module import FloatArray
from attnx.layers.multihead import MultiHeadAttention
from attnx.layers.norm import LayerNorm
from attnx.layers.packing import Attend
from attnx.layers.workspace import Workspace


class TransformerDecoderLayer(Block):
    """Self-attention, attention to a memory, a feed-forward network; each with residual and norm.

    Parameters
    ----------
    d_model : int
        Size of the last axis of targets and memory, a multiple of `nhead`.
    nhead : int
        Number of heads.
    dim_feedforward : int, default 2048
        Size of the feed-forward network's hidden axis.
    activation : {"relu", "gelu"}, default "relu"
        Between its two linear layers; "gelu" is the exact form with the error function.
    layer_norm_eps : float, default 1e-5
        Added to the variance in all three layer norms.
    norm_first : bool, default False
        Whether the norms come before the attentions and the network, not after them.
    bias : bool, default True
        Whether the linear layers and the norms have biases.

    Notes
    -----
    Parameters are those of ``torch.nn.TransformerDecoderLayer``: ``self_attn.*``,
    ``multihead_attn.*`` (to the memory), ``linear1.*``, ``linear2.*``, ``norm1.*``, ``norm2.*``,
    ``norm3.*``. Unlike there, the batch comes first, True in a mask means 'may attend', padding is
    given as lengths, and there is no dropout.

    References
    ----------
    Vaswani et al., Attention Is All You Need, 2017, section 3.1; Xiong et al., On Layer
    Normalization in the Transformer Architecture, 2020, for `norm_first`.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import TransformerDecoderLayer
    >>> layer = TransformerDecoderLayer(8, 2, 16)
    >>> tgt, memory = np.ones((2, 3, 8), np.float32), np.ones((2, 5, 8), np.float32)
    >>> layer(tgt, memory, memory_lengths=[5, 3], tgt_is_causal=True).shape
    (2, 3, 8)
    """

    _child_names = (
        "self_attn", "multihead_attn", "linear1", "linear2", "norm1", "norm2", "norm3",
    )  # fmt: skip

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        *,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, activation=activation, layer_norm_eps=layer_norm_eps,
            norm_first=norm_first, bias=bias,
        )  # fmt: skip
        self.multihead_attn = MultiHeadAttention(self.d_model, self.nhead, bias=bias)
        self.norm3 = LayerNorm(self.d_model, layer_norm_eps, bias=bias)

    def __call__(
        self,
        tgt: npt.ArrayLike,
        memory: npt.ArrayLike,
        tgt_mask: npt.ArrayLike | None = None,
        memory_mask: npt.ArrayLike | None = None,
        *,
        tgt_lengths: npt.ArrayLike | None = None,
        memory_lengths: npt.ArrayLike | None = None,
        tgt_is_causal: bool = False,
    ) -> FloatArray:
        """Return the layer's output; the arguments are those of `TransformerDecoder`.

        Parameters
        ----------
        tgt, memory : array_like
            Shapes (..., L, d_model) and (..., S, d_model), float32, with the same batch axes.
        tgt_mask, memory_mask : array_like, optional
            Broadcastable to (..., nhead, L, L) and (..., nhead, L, S).
        tgt_lengths, memory_lengths : array_like, optional
            Number of positions of each target and each memory, in the shape of the batch axes.
        tgt_is_causal : bool, default False
            Whether target i sees the targets 0 to i only.

        Returns
        -------
        ndarray
            Shape of `tgt`.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerDecoderLayer
        >>> x = np.ones((3, 4), dtype=np.float32)
        >>> TransformerDecoderLayer(4, 1, 8)(x, x[:2], tgt_mask=np.tri(3, dtype=bool)).shape
        (3, 4)
        """
        call = Targets(tgt, tgt_mask, memory_mask, tgt_lengths)
        return decode(Stack([self], None), call, memory, memory_lengths, tgt_is_causal)

    def _forward(
        self, x: FloatArray, work: Workspace, attend: Attend, attend_memory: Attend
    ) -> FloatArray:
        """Take rows (T, d_model) to `work.result`, which may be where they are."""
        query_key_value, bias = self.self_attn._projection.fused()
        to_query, query_bias = self.multihead_attn._projection.at_least(2)[0]
        own, cross = self.self_attn.out_proj, self.multihead_attn.out_proj
        result, other, attended = work.result, work.other, work.attended
        queries = work.projected[:, : self.d_model]
        first = self.norm_first
        source = normalize(self.norm1, x, other, work) if first else x
        work.linear(source, query_key_value, bias, work.projected)
        attend(work)
        work.linear(attended, own._weight, own._bias, other, residual=x)
        # x is done with, so result is free.
        normalize(self.norm2 if first else self.norm1, other, result, work)
        work.linear(result, to_query, query_bias, queries)
        attend_memory(work)
        if not first:
            work.linear(attended, cross._weight, cross._bias, other, residual=result)
            normalize(self.norm2, other, result, work)
            for rows, hidden_rows, _, hidden in work.chunks:
                self._feed_forward(rows, hidden, rows, hidden_rows, work)
            return normalize(self.norm3, other, result, work)
        work.linear(attended, cross._weight, cross._bias, result, residual=other)
        normalize(self.norm3, result, attended, work)
        for rows, _, normed, hidden in work.chunks:
            self._feed_forward(normed, hidden, rows, rows, work)  # in place: each sum is its own
        return result
