"""Inference layers: multi-head attention and encoder layers with drawn weights."""

from __future__ import annotations

from typing import Any

import numpy as np

import attnx

Shape = tuple[int, int, int]


def with_weights(layer: Any) -> Any:
    """Give a layer weights of the size that training leaves them."""
    rng = np.random.default_rng(0)
    state = {
        name: rng.standard_normal(array.shape, np.float32) / np.float32(array.shape[-1] ** 0.5)
        for name, array in layer.state_dict().items()
    }
    layer.load_state_dict(state)
    return layer


def draw(shape: Shape) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


class MultiHeadAttention:
    params = [[(1, 16, 768), (1, 128, 384), (8, 128, 768)]]
    param_names = ["shape"]

    def setup(self, shape: Shape) -> None:
        self.layer = with_weights(attnx.layers.MultiHeadAttention(shape[-1], 12))
        self.x = draw(shape)

    def time_self(self, shape: Shape) -> None:
        self.layer(self.x)

    def time_causal(self, shape: Shape) -> None:
        self.layer(self.x, is_causal=True)

    def time_need_weights(self, shape: Shape) -> None:
        self.layer(self.x, need_weights=True)


class TransformerEncoder:
    params = [["relu", "gelu"], [False, True]]
    param_names = ["activation", "norm_first"]

    def setup(self, activation: str, norm_first: bool) -> None:
        layers = attnx.layers
        one = layers.TransformerEncoderLayer(
            384, 12, 1536, activation=activation, norm_first=norm_first
        )
        self.encoder = with_weights(layers.TransformerEncoder(one, 3))
        self.x = draw((4, 64, 384))

    def time_encoder(self, activation: str, norm_first: bool) -> None:
        self.encoder(self.x)


class LayersMemory:
    """`peakmem_reference` is the process with the layer and its input, before any work."""

    def setup(self) -> None:
        self.layer = with_weights(attnx.layers.MultiHeadAttention(768, 12))
        self.x = draw((32, 128, 768))

    def peakmem_reference(self) -> None:
        pass

    def peakmem_multi_head_attention(self) -> None:
        self.layer(self.x)
