"""The Pronouncer's recurrent model: two GRUs, and additive attention between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attnx._calls import Calls, shares
from attnx.layers import GRU, AdditiveAttention, Linear
from attnx.layers.module import FloatArray
from attnx.layers.steps import Steps
from attnx.models.documents import Document
from attnx.models.pronouncer_weights import Weights, load_into

Tokens = npt.NDArray[np.int64]


class Seq2Seq:
    """A bidirectional GRU over the letters; a GRU over the phonemes so far attends to its outputs.

    The attention follows the decoder's step and is not fed back into it.

    References
    ----------
    Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate,
    2015; Luong, Pham and Manning, Effective Approaches to Attention-based Neural Machine
    Translation, 2015, section 3, for the order of step, attention and output.
    """

    def __init__(self, config: Document, weights: Weights) -> None:
        letters, self._phonemes = weights["letters.weight"], weights["phonemes.weight"]
        embedding, hidden = config.size("embedding"), config.size("encoder")
        width, combined = config.size("decoder"), config.size("combine")
        self._encoder = GRU(embedding, hidden, config.size("encoder_layers"), bidirectional=True)
        self._start = Linear(2 * hidden, width)
        self._decoder = GRU(embedding, width)
        self._attention = AdditiveAttention(width, 2 * hidden, config.size("units"), bias=True)
        self._combine = Linear(width + 2 * hidden, combined)
        self._output = Linear(combined, len(self._phonemes))
        for name in ("encoder", "start", "decoder", "attention", "combine", "output"):
            load_into(getattr(self, "_" + name), weights, name)
        # What the GRUs make of each letter and each phoneme does not depend on their states.
        self._letter_gates = self._encoder._gates_of(0, letters)
        self._phoneme_gates = self._decoder._gates_of(0, self._phonemes)

    def steps(self, letters: Tokens, lengths: Tokens | None, most: int) -> Seq2SeqSteps:
        """Return the steps that pronounce words of letters (B, S), at most so many of them."""
        return Seq2SeqSteps(self, *self._encode(letters, lengths), lengths)

    def align(self, letters: Tokens, phonemes: Tokens) -> FloatArray:
        """Return what each phoneme (T,), the first after the start, took of each letter (S,)."""
        memory, state = self._encode(letters[None], None)
        states, _ = self._decoder(self._phonemes[phonemes][None], state)
        _, weights = self._attention(states, memory, return_weights=True)
        only: FloatArray = weights[0]
        return only

    def _encode(self, letters: Tokens, lengths: Tokens | None) -> tuple[FloatArray, FloatArray]:
        """Return the outputs (B, S, 2 * hidden) and the decoder's first state (1, B, width)."""
        encoder, steps = self._encoder, Steps(len(letters), letters.shape[1], lengths)
        gates = self._letter_gates[steps.pack(letters[:, :, np.newaxis])[:, 0]]
        state = np.zeros((2 * encoder.num_layers, len(letters), encoder.hidden_size), np.float32)
        memory = steps.unpack(encoder._through(gates, [state], steps.counts))
        state = steps.restore(state)
        last = np.concatenate((state[-2], state[-1]), axis=-1)
        return memory, np.tanh(self._start(last))[None]


class Seq2SeqSteps:
    """Words that are pronounced side by side, one phoneme a step.

    A step is a few small matrices, whose checks and buffers took as long as all of the arithmetic: its calls are
    written down once and run in one call of the core.
    """

    def __init__(
        self, model: Seq2Seq, memory: FloatArray, state: FloatArray, lengths: Tokens | None
    ) -> None:
        self._model = model
        self._memory = model._attention.project(memory)
        self._state = state[0]
        self._lengths = lengths
        self._write_down()

    def _write_down(self) -> None:
        """Make what a step of so many words writes to, and the calls that do."""
        model, rows = self._model, len(self._state)
        (decoder,) = model._decoder._weights
        used = (
            decoder.hh[0],
            model._attention._weights[0],
            model._combine._weight,
            model._output._weight,
        )
        self._gates = np.empty((rows, decoder.hh[0].out_features), np.float32)
        self._logits = np.empty((rows, model._output.out_features), np.float32)
        self._calls = Calls()
        for words in shares(rows, 1, sum(weight.panels.nbytes for weight in used)):
            self._calls.begin_part()
            self._add_calls(words)

    def _add_calls(self, words: slice) -> None:
        """Add those of a share of the words: the GRU's step, the attention, and what both make of the output."""
        model, calls, state = self._model, self._calls, self._state[words]
        attention, combine, output = model._attention, model._combine, model._output
        (decoder,) = model._decoder._weights
        weight, _, score_weight = attention._weights
        rows, width = state.shape
        hidden = np.empty((rows, decoder.hh[0].out_features), np.float32)
        query = np.empty((rows, attention.units), np.float32)
        both = np.empty((rows, combine.in_features), np.float32)
        combined = np.empty((rows, combine.out_features), np.float32)
        states, context = both[:, :width], both[:, width:]
        lengths = None if self._lengths is None else self._lengths[words]
        calls.linear(state, decoder.hh[0], decoder.bias_hh[0], hidden)
        calls.gru(self._gates[words], hidden, state, states)
        calls.linear(states, weight, attention._bias, query)
        calls.additive(
            query[:, np.newaxis],
            self._memory.reorder(words),
            score_weight,
            lengths,
            context[:, np.newaxis],
        )
        calls.linear(both, combine._weight, combine._bias, combined, activation="tanh")
        calls.linear(combined, output._weight, output._bias, self._logits[words])

    def __call__(self, tokens: Tokens) -> FloatArray:
        """Take the newest phonemes (B,) and return the logits (B, phonemes) of the next ones."""
        # Clipped, for else NumPy copies the buffer; the tokens are of the model's own phonemes.
        self._model._phoneme_gates.take(tokens, axis=0, out=self._gates, mode="clip")
        self._calls.run()
        return self._logits.copy()

    def keep(self, rows: Tokens) -> None:
        """Go on with these words alone."""
        self._memory = self._memory.reorder(rows)
        self._state = self._state[rows]
        if self._lengths is not None:
            self._lengths = self._lengths[rows]
        self._write_down()
