"""attnx's two models of letters and phonemes in float64, a word at a time, in plain NumPy.

Like `truth.py` this shares no line with attnx. Token 0 ends a word, its letters as its phonemes, and
stands before the first phoneme.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from . import truth

DATA = Path(__file__).resolve().parents[2] / "attnx" / "models" / "data"


class Model(ABC):
    """A model's weights, under the names that they have in its file."""

    def __init__(self, name: str) -> None:
        from safetensors.numpy import load_file

        weights = load_file(DATA / f"{name}.safetensors")
        self.w = {key: array.astype(np.float64) for key, array in weights.items()}
        self.config: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())

    def letters(self, word: str) -> list[int]:
        """Return the tokens of a word's letters."""
        return [self.config["letters"].index(letter) + 1 for letter in word]

    def pronounce(self, word: str) -> list[int]:
        """Return the tokens of the likeliest phonemes, one after the other, without the end."""
        memory, found = self.encode(self.letters(word)), [0]
        while len(found) <= 2 * len(word) + 8:
            found.append(int(self.decode(memory, found)[-1].argmax()))
            if found[-1] == 0:
                return found[1:-1]
        return found[1:]

    @abstractmethod
    def encode(self, letters: list[int]) -> Any:
        """Return what the decoder needs to know of a word."""

    @abstractmethod
    def decode(self, memory: Any, before: list[int]) -> np.ndarray:
        """Return the logits (T, phonemes) after each of the phonemes (T,)."""

    def flops(self, word: str) -> float:
        """Count two operations for each weight and each token that it is multiplied with."""
        phonemes = len(self.pronounce(word)) + 1
        weights = {"encoder": 0, "decoder": 0}
        for name, array in self.w.items():
            if array.ndim == 2 and name not in ("letters.weight", "phonemes.weight"):
                of_letters = name.startswith("encoder.") or name == "attention.key_weight"
                weights["encoder" if of_letters else "decoder"] += array.size
        return 2.0 * (weights["encoder"] * len(word) + weights["decoder"] * phonemes)

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """Apply a linear layer."""
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]


class Seq2Seq(Model):
    """Two GRUs with additive attention between them."""

    def encode(self, letters: list[int]) -> Any:
        """Return the encoder's outputs (S, 2 * hidden) and the decoder's first state."""
        x = self.w["letters.weight"][letters]
        for layer in range(self.config["encoder_layers"]):
            ahead = self._gru(x, "encoder", f"l{layer}")
            back = self._gru(x[::-1], "encoder", f"l{layer}_reverse")[::-1]
            x, last = np.hstack((ahead, back)), np.concatenate((ahead[-1], back[0]))
        return x, np.tanh(self.linear(last, "start"))

    def decode(self, memory: Any, before: list[int]) -> np.ndarray:
        """Return the logits (T, phonemes) after each of the phonemes (T,)."""
        keys, start = memory
        states = self._gru(self.w["phonemes.weight"][before], "decoder", "l0", start)
        queries = states @ self.w["attention.query_weight"].T + self.w["attention.bias"]
        projected = keys @ self.w["attention.key_weight"].T
        scores = np.tanh(queries[:, None] + projected) @ self.w["attention.score_weight"]
        both = np.hstack((states, truth.softmax(scores) @ keys))
        return self.linear(np.tanh(self.linear(both, "combine")), "output")

    def _gru(
        self, x: np.ndarray, name: str, suffix: str, state: np.ndarray | float = 0.0
    ) -> np.ndarray:
        weight_ih, weight_hh, bias_ih, bias_hh = (
            self.w[f"{name}.{part}_{suffix}"]
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state = state + np.zeros(weight_hh.shape[1])
        states = []
        for row in x:
            i_reset, i_update, i_new = np.split(weight_ih @ row + bias_ih, 3)
            h_reset, h_update, h_new = np.split(weight_hh @ state + bias_hh, 3)
            reset, update = _sigmoid(i_reset + h_reset), _sigmoid(i_update + h_update)
            state = (1 - update) * np.tanh(i_new + reset * h_new) + update * state
            states.append(state)
        return np.array(states)


class Transformer(Model):
    """Encoder and decoder with multi-head attention, normalised before each block."""

    def encode(self, letters: list[int]) -> Any:
        """Return the encoder's outputs (S, width), without that of the end mark it also reads."""
        x = self._embed([*letters, 0], "letters")
        for layer in range(self.config["encoder_layers"]):
            name = f"encoder.layers.{layer}"
            y = self._norm(x, f"{name}.norm1")
            x = x + self._attend(y, y, f"{name}.self_attn")
            x = x + self._feed_forward(self._norm(x, f"{name}.norm2"), name)
        return self._norm(x, "encoder.norm")[:-1]

    def decode(self, memory: Any, before: list[int]) -> np.ndarray:
        """Return the logits (T, phonemes) after each of the phonemes (T,)."""
        x = self._embed(before, "phonemes")
        for layer in range(self.config["decoder_layers"]):
            name = f"decoder.layers.{layer}"
            y = self._norm(x, f"{name}.norm1")
            x = x + self._attend(y, y, f"{name}.self_attn", causal=True)
            x = x + self._attend(self._norm(x, f"{name}.norm2"), memory, f"{name}.multihead_attn")
            x = x + self._feed_forward(self._norm(x, f"{name}.norm3"), name)
        return self.linear(self._norm(x, "decoder.norm"), "output")

    def _embed(self, tokens: list[int], name: str) -> np.ndarray:
        table = self.w[f"{name}.weight"]
        width = table.shape[1]
        place = np.arange(len(tokens))[:, None] / 10000.0 ** (np.arange(width) // 2 * 2 / width)
        waves = np.where(np.arange(width) % 2, np.cos(place), np.sin(place))
        return table[tokens] * np.sqrt(width) + waves

    def _attend(
        self, x: np.ndarray, memory: np.ndarray, name: str, causal: bool = False
    ) -> np.ndarray:
        weights = np.split(self.w[f"{name}.in_proj_weight"], 3)
        biases = np.split(self.w[f"{name}.in_proj_bias"], 3)
        query, key, value = (
            truth.split_heads((source @ weight.T + bias)[None], self.config["heads"])
            for source, weight, bias in zip((x, memory, memory), weights, biases, strict=True)
        )
        joined = truth.attention(query, key, value, causal=causal).transpose(0, 2, 1, 3)
        return self.linear(joined.reshape(x.shape), f"{name}.out_proj")

    def _feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        return self.linear(np.maximum(self.linear(x, f"{name}.linear1"), 0), f"{name}.linear2")

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)
        return x / scale * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]


def load(name: str) -> Model:
    """Return a model of the package."""
    return {"seq2seq": Seq2Seq, "transformer": Transformer}[name](name)


def tokens_of(answers: list[list[str]]) -> np.ndarray:
    """Return phonemes as tokens (B, T), behind them 0."""
    names = json.loads((DATA / "seq2seq.json").read_text())["phonemes"]
    token = {name: number for number, name in enumerate(names, 1)}
    return padded([[token[name] for name in answer] for answer in answers])


def padded(rows: list[list[int]]) -> np.ndarray:
    """Return tokens as an array (B, T), behind each row 0."""
    longest = max(map(len, rows))
    return np.array([row + [0] * (longest - len(row)) for row in rows])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
