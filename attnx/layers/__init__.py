"""Inference layers: float32 weights with PyTorch's names, called like functions.

Two things differ from ``torch.nn``: True in a mask means 'may attend', and padding is given as
lengths. Everything is batch first.
"""

from attnx.layers.additive import AdditiveAttention
from attnx.layers.decoder import TransformerDecoder
from attnx.layers.decoder_layer import TransformerDecoderLayer
from attnx.layers.gru import GRU
from attnx.layers.linear import Linear
from attnx.layers.lstm import LSTM
from attnx.layers.luong import LuongAttention
from attnx.layers.multihead import MultiHeadAttention
from attnx.layers.norm import LayerNorm
from attnx.layers.transformer import TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "GRU",
    "LSTM",
    "AdditiveAttention",
    "LayerNorm",
    "Linear",
    "LuongAttention",
    "MultiHeadAttention",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]
