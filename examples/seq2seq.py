#!/usr/bin/env python3
"""Sequence to sequence with attention (Bahdanau, Cho and Bengio 2015), in NumPy and attnx.

The weights are drawn, so what it writes means nothing; `examples/transliterate.py` has real ones.

    python examples/seq2seq.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnx.decoding import Hypothesis, greedy_search
from attnx.layers import GRU, AdditiveAttention, Linear

START, END = 0, 1


class Seq2Seq:
    """A GRU reads in both directions; another one writes, with a context for each token."""

    def __init__(self, words: int, dim: int, hidden: int) -> None:
        random = np.random.default_rng(0)
        self.embedding = random.standard_normal((words, dim), dtype=np.float32)
        self.encoder = GRU(dim, hidden, bidirectional=True)
        self.attention = AdditiveAttention(hidden, 2 * hidden, hidden)
        self.decoder = GRU(dim + 2 * hidden, hidden)
        self.output = Linear(3 * hidden, words)
        for layer in (self.encoder, self.attention, self.decoder, self.output):
            shapes = {name: array.shape for name, array in layer.state_dict().items()}
            layer.load_state_dict({n: random.standard_normal(s) / 3 for n, s in shapes.items()})

    def __call__(self, sources: NDArray[np.int64], lengths: list[int]) -> list[Hypothesis]:
        """Write something for each source (B, S), where lengths (B,) say how long each is."""
        outputs, states = self.encoder(self.embedding[sources], lengths=lengths)
        memory = self.attention.project(outputs)  # once, for all steps
        state = states[1:]  # the backward direction's: it has just read the beginning

        def step(tokens: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            nonlocal state
            context, weights = self.attention(
                state.swapaxes(0, 1), memory, key_lengths=lengths, return_weights=True
            )
            x = np.concatenate([self.embedding[tokens][:, None], context], axis=-1)
            hidden, state = self.decoder(x, state)
            scores = self.output(np.concatenate([hidden, context], axis=-1))
            return scores[:, 0], weights[:, 0]

        starts = np.full(len(sources), START)
        return greedy_search(step, starts, end_token=END, max_length=12)


def main() -> None:
    """Write something for three sources of different lengths, and show what was looked at."""
    model = Seq2Seq(words=20, dim=16, hidden=32)
    sources = np.random.default_rng(1).integers(2, 20, (3, 7))
    lengths = [7, 4, 5]
    for source, n, found in zip(sources, lengths, model(sources, lengths), strict=True):
        print("read", source[:n].tolist(), "wrote", found.tokens.tolist())
        assert found.weights is not None
        print("  each looked most at", found.weights.argmax(axis=1).tolist())


if __name__ == "__main__":
    main()
