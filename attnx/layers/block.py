"""What encoder and decoder layers share: sizes, self-attention, the feed-forward network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attnx.layers.linear import Linear
from attnx.layers.module import FloatArray, Module, as_size
from attnx.layers.multihead import MultiHeadAttention
from attnx.layers.norm import LayerNorm
from attnx.layers.workspace import Workspace

Activation = Literal["relu", "gelu"]


class Block(Module):
    """Base of the transformer's layers: the parts that all of them have."""

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
        if activation not in ("relu", "gelu"):
            raise ValueError(f"activation must be 'relu' or 'gelu', got {activation!r}")
        self.d_model = as_size("d_model", d_model)
        self.nhead = as_size("nhead", nhead)
        self.dim_feedforward = as_size("dim_feedforward", dim_feedforward)
        if self.d_model % self.nhead:
            raise ValueError(f"d_model must be a multiple of nhead, got {d_model} and {nhead}")
        self.activation: Activation = activation
        self.norm_first = bool(norm_first)
        self.self_attn = MultiHeadAttention(self.d_model, self.nhead, bias=bias)
        self.linear1 = Linear(self.d_model, self.dim_feedforward, bias)
        self.linear2 = Linear(self.dim_feedforward, self.d_model, bias)
        self.norm1 = LayerNorm(self.d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(self.d_model, layer_norm_eps, bias=bias)

    def _feed_forward(
        self,
        x: FloatArray,
        hidden: FloatArray,
        residual: FloatArray,
        out: FloatArray,
        work: Workspace,
    ) -> None:
        one, two = self.linear1, self.linear2
        if hidden.shape[1] != self.dim_feedforward:  # of a wider layer of the stack
            hidden = hidden[:, : self.dim_feedforward]
        work.linear(x, one._weight, one._bias, hidden, activation=self.activation)
        work.linear(hidden, two._weight, two._bias, out, residual=residual)


def workspace(layers: Sequence[Block], rows: int) -> Workspace:
    """Return buffers for so many rows on their way through layers, or raise where these do not fit together."""
    first = layers[0]
    for layer in layers:
        if (layer.d_model, layer.nhead) != (first.d_model, first.nhead):
            raise ValueError(
                f"layers must all have d_model {first.d_model} and nhead {first.nhead}, as the first has, "
                f"got {layer.d_model} and {layer.nhead}"
            )
    widest = max(layer.dim_feedforward for layer in layers)
    return Workspace(rows, first.d_model, first.nhead, widest)


def normalize(norm: LayerNorm, x: FloatArray, out: FloatArray, work: Workspace) -> FloatArray:
    """Write the norm of rows to out, which is returned."""
    work.layer_norm(x, norm._weight, norm._bias, norm.eps, out)
    return out
