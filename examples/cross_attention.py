#!/usr/bin/env python3
"""Cross-attention: words that look at the patches of a picture.

The words are the queries, the patches keys and values; both have sizes of their own. The weights tell how much each
word took of each patch, and come as one matrix a head.

    python examples/cross_attention.py
"""

from __future__ import annotations

import numpy as np

import attnx
from attnx.layers import MultiHeadAttention


def main() -> None:
    """Attend, look at the weights, and do the same with the function alone."""
    rng = np.random.default_rng(0)
    words = rng.standard_normal((2, 5, 32), dtype=np.float32)  # two captions of five words
    patches = rng.standard_normal((2, 49, 24), dtype=np.float32)  # two pictures of 7 x 7 patches
    counts = [49, 30]  # the second picture is smaller: its last patches are padding

    layer = MultiHeadAttention(32, 4, kdim=24, vdim=24)
    output, weights = layer(words, patches, key_lengths=counts, need_weights=True)
    print("words", words.shape, "and patches", patches.shape, "give", output.shape)
    print("weights", weights.shape, "sum to", weights.sum(axis=-1).round(5).min())
    print("the padding gets", weights[1, ..., 30:].max())
    where = weights[0].mean(axis=0).argmax(axis=-1)
    for word, patch in enumerate(where):
        print(f"word {word} looks most at row {patch // 7}, column {patch % 7}")

    # The layer is three projections, this function, and a fourth projection.
    state = layer.state_dict()
    bias = np.split(state["in_proj_bias"], 3)
    parts = []
    for x, name, b in zip((words, patches, patches), "qkv", bias, strict=True):
        projected = x @ state[f"{name}_proj_weight"].T + b
        parts.append(projected.reshape(*x.shape[:2], 4, 8))  # (batch, length, heads, dim)
    attended = attnx.scaled_dot_product_attention(*parts, key_lengths=counts, layout="blhd")
    by_hand = attended.reshape(2, 5, 32) @ state["out_proj.weight"].T + state["out_proj.bias"]
    print(f"the function alone is at most {np.abs(by_hand - output).max():.0e} away")


if __name__ == "__main__":
    main()
