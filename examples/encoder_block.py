#!/usr/bin/env python3
"""A transformer encoder block from its parts, and the same block as one layer.

Sentences of different lengths stand in one padded array; their lengths say where each ends. Nothing of the padding is
read, and a sentence has the same bits alone and in any batch.

    python examples/encoder_block.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnx.layers import LayerNorm, Linear, MultiHeadAttention, TransformerEncoderLayer

Array = NDArray[np.float32]


class EncoderBlock:
    """Vaswani et al. 2017, section 3.1: attention and a network, each with a residual and a norm."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        self.attention = MultiHeadAttention(dim, heads)
        self.widen, self.narrow = Linear(dim, hidden), Linear(hidden, dim)
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)

    def __call__(self, x: Array, lengths: list[int]) -> Array:
        """Take (B, L, dim) to the same shape."""
        x = self.norm1(x + self.attention(x, key_lengths=lengths))
        return self.norm2(x + self.narrow(np.maximum(self.widen(x), 0)))

    def load(self, state: dict[str, Array]) -> None:
        """Take the weights of one layer of ``torch.nn.TransformerEncoder``, by their names there."""
        parts = {
            "self_attn.": self.attention, "linear1.": self.widen, "linear2.": self.narrow,
            "norm1.": self.norm1, "norm2.": self.norm2,
        }  # fmt: skip
        for prefix, layer in parts.items():
            own = {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
            layer.load_state_dict(own)


def main() -> None:
    """Run both on three sentences and print how far apart they are."""
    dim, heads, hidden = 64, 4, 256
    sentences = np.random.default_rng(0).standard_normal((3, 9, dim), dtype=np.float32)
    lengths = [9, 4, 6]
    whole, block = TransformerEncoderLayer(dim, heads, hidden), EncoderBlock(dim, heads, hidden)
    block.load(whole.state_dict())

    from_parts, as_layer = block(sentences, lengths), whole(sentences, src_lengths=lengths)
    apart = max(
        np.abs(a[:n] - b[:n]).max() for a, b, n in zip(from_parts, as_layer, lengths, strict=True)
    )
    print(f"parts and layer are at most {apart:.0e} apart")
    alone = whole(sentences[1, : lengths[1]])
    print("a sentence alone has the same bits:", (alone == as_layer[1, : lengths[1]]).all())


if __name__ == "__main__":
    main()
