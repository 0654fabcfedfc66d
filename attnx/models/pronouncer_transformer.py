"""The Pronouncer's Transformer: an encoder of letters and a decoder of phonemes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from attnx.layers import (
    LayerNorm,
    Linear,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from attnx.layers.decoder_cache import DecoderCache
from attnx.layers.decoder_pass import Stack, next_rows
from attnx.layers.module import FloatArray
from attnx.linear import linear_into
from attnx.models.documents import Document
from attnx.models.pronouncer_weights import Weights, load_into

Tokens = npt.NDArray[np.int64]

# More than the letters and the phonemes of the longest word that is taken.
_POSITIONS = 256


class Transformer:
    """Self-attention over the letters and over the phonemes so far, and from these to the letters.

    The encoder also reads the mark that ends a word (token 0), by which a letter knows how far the
    end is; the decoder attends to the letters alone.

    References
    ----------
    Vaswani et al., Attention Is All You Need, 2017; normalised before each block.
    """

    def __init__(self, config: Document, weights: Weights) -> None:
        width, heads, hidden = (
            config.size("width"),
            config.size("heads"),
            config.size("feedforward"),
        )
        self._letters, self._phonemes = (
            weights[f"{name}.weight"] * np.float32(math.sqrt(width))
            for name in ("letters", "phonemes")
        )
        self._encoder = TransformerEncoder(
            TransformerEncoderLayer(width, heads, hidden, norm_first=True),
            config.size("encoder_layers"),
            LayerNorm(width),
        )
        self._decoder = TransformerDecoder(
            TransformerDecoderLayer(width, heads, hidden, norm_first=True),
            config.size("decoder_layers"),
            LayerNorm(width),
        )
        self._output = Linear(width, len(self._phonemes))
        self._positions = positions(_POSITIONS, width)
        for name in ("encoder", "decoder", "output"):
            load_into(getattr(self, "_" + name), weights, name)

    def steps(self, letters: Tokens, lengths: Tokens | None, most: int) -> TransformerSteps:
        """Return the steps that pronounce words of letters (B, S), at most so many of them."""
        memory = self._encode(letters, lengths)
        cache = self._decoder.make_cache(memory, most, memory_lengths=lengths)
        return TransformerSteps(self, cache)

    def align(self, letters: Tokens, phonemes: Tokens) -> FloatArray:
        """Return what each phoneme (T,), the first after the start, took of each letter (S,).

        It is the mean over the heads of the last layer.
        """
        memory = self._encode(letters[None], None)
        targets = self._phonemes[phonemes] + self._positions[: len(phonemes)]
        _, weights = self._decoder(targets[None], memory, tgt_is_causal=True, need_weights=True)
        last: FloatArray = weights[-1, 0].mean(axis=0)
        return last

    def _encode(self, letters: Tokens, lengths: Tokens | None) -> FloatArray:
        """Return what the encoder makes of letters (B, S): (B, S, width)."""
        ended = np.pad(letters, ((0, 0), (0, 1)))
        rows = self._letters[ended] + self._positions[: ended.shape[1]]
        return self._encoder(rows, src_lengths=None if lengths is None else lengths + 1)[:, :-1]


class TransformerSteps:
    """Words that are pronounced side by side, one phoneme a step."""

    def __init__(self, model: Transformer, cache: DecoderCache) -> None:
        self._model = model
        self._stack = Stack(model._decoder.layers, model._decoder.norm)
        self._cache = cache
        self._step = 0

    def __call__(self, tokens: Tokens) -> FloatArray:
        """Take the newest phonemes (B,) and return the logits (B, phonemes) of the next ones."""
        model = self._model
        targets = model._phonemes[tokens]
        targets += model._positions[self._step]
        self._step += 1
        output = model._output
        rows = next_rows(self._stack, targets, self._cache)
        logits = np.empty((len(rows), output.out_features), np.float32)
        linear_into(rows, output._weight, output._bias, logits)
        return logits

    def keep(self, rows: Tokens) -> None:
        """Go on with these words alone."""
        self._cache.keep(rows)


def positions(length: int, width: int) -> FloatArray:
    """Return the sinusoids (length, width) of Vaswani et al., sines in the even columns."""
    rates = np.exp(np.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = np.arange(length)[:, None] * rates
    table: FloatArray = np.stack((np.sin(angles), np.cos(angles)), -1).astype(np.float32)
    return table.reshape(length, width)
