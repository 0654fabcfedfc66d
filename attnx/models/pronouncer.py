"""Words in, their sounds out: models of letters and phonemes that come with the package."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from attnx.decoding import greedy_search
from attnx.layers.module import FloatArray
from attnx.models.pronouncer_seq2seq import Seq2Seq
from attnx.models.pronouncer_transformer import Transformer
from attnx.models.pronouncer_weights import read_model

Tokens = npt.NDArray[np.int64]

# Token 0: after the last letter, before the first phoneme and after the last one.
_END = 0
# The longest word of the dictionary has 28 letters; far beyond, the models know nothing, and a
# bound on the letters is one on time and memory.
_MOST_LETTERS = 100
# Words computed together. More would not be faster: the weights are read once a step.
_BATCH = 256


class _Steps(Protocol):
    """What gives the next phonemes of words that are pronounced side by side."""

    def __call__(self, tokens: Tokens) -> FloatArray: ...

    def keep(self, rows: Tokens) -> None: ...


class _Model(Protocol):
    """What the Pronouncer asks of a model."""

    def steps(self, letters: Tokens, lengths: Tokens | None, most: int) -> _Steps: ...

    def align(self, letters: Tokens, phonemes: Tokens) -> FloatArray: ...


_MODELS: dict[str, type[Seq2Seq] | type[Transformer]] = {
    "seq2seq": Seq2Seq,
    "transformer": Transformer,
}


class Pronouncer:
    """A model that pronounces English words, letters to ARPAbet phonemes.

    Made by `load`. It was trained on the CMU Pronouncing Dictionary and has learned to spell out
    words that are not in it: it is no dictionary, and may be wrong about a word that is. A word's
    phonemes are the same alone and in any batch. One pronouncer may be used by several threads.

    Notes
    -----
    Vowels end in their stress: 1 primary, 2 secondary, 0 none. Words have the letters a to z and
    the apostrophe, at most 100 of them; upper case is taken as lower case.

    The training, the split of the dictionary's words and the measurement on those that were not
    trained on are in ``tools/train_pronouncer.py``.

    References
    ----------
    Yao and Zweig, Sequence-to-Sequence Neural Net Models for Grapheme-to-Phoneme Conversion, 2015;
    Yolchuyeva, Németh and Gyires-Tóth, Transformer based Grapheme-to-Phoneme Conversion, 2019.

    Examples
    --------
    >>> from attnx.models import Pronouncer
    >>> pronouncer = Pronouncer.load("seq2seq")
    >>> pronouncer.pronounce("attention")
    ['AH0', 'T', 'EH1', 'N', 'SH', 'AH0', 'N']
    """

    def __init__(self, model: _Model, letters: str, phonemes: list[str]) -> None:
        self._model = model
        self._tokens = {letter: token for token, letter in enumerate(letters, 1)}
        self._phonemes = phonemes

    @classmethod
    def load(cls, model: Literal["seq2seq", "transformer"] = "seq2seq") -> Self:
        """Read a model that is part of the package.

        Parameters
        ----------
        model : {"seq2seq", "transformer"}, default "seq2seq"
            "seq2seq": GRUs and additive attention; "transformer": multi-head attention.

        Returns
        -------
        Pronouncer
            Needs NumPy alone.

        Raises
        ------
        ValueError
            If there is no such model.

        Examples
        --------
        >>> from attnx.models import Pronouncer
        >>> Pronouncer.load("transformer").pronounce("attention")
        ['AH0', 'T', 'EH1', 'N', 'SH', 'AH0', 'N']
        """
        if not isinstance(model, str) or model not in _MODELS:
            raise ValueError(f'model must be "seq2seq" or "transformer", got {model!r}')
        config, weights = read_model(model)
        letters, phonemes = config.get("letters"), config.get("phonemes")
        return cls(_MODELS[model](config, weights), letters, phonemes)

    def pronounce(self, word: str) -> list[str]:
        """Return the phonemes of a word.

        Parameters
        ----------
        word : str
            Letters a to z and apostrophes, at least one letter.

        Returns
        -------
        list of str
            ARPAbet symbols, vowels with stress.

        Raises
        ------
        TypeError
            If `word` is not a str.
        ValueError
            If it is empty, too long or has another character; the message names it.

        Examples
        --------
        >>> from attnx.models import Pronouncer
        >>> Pronouncer.load().pronounce("It's")
        ['IH1', 'T', 'S']
        """
        return self._names(self._decode([self._letters("word", word)])[0])

    def pronounce_batch(self, words: Iterable[str]) -> list[list[str]]:
        """Return the phonemes of many words, which is faster than one after the other.

        Parameters
        ----------
        words : iterable of str
            As `pronounce` takes them.

        Returns
        -------
        list of list of str
            One list for each word, in their order.

        Raises
        ------
        TypeError
            If `words` is a str or one of them is none; the message names its index.
        ValueError
            If a word cannot be pronounced; the message names its index.

        Examples
        --------
        >>> from attnx.models import Pronouncer
        >>> Pronouncer.load().pronounce_batch(["knight", "thing"])
        [['N', 'AY1', 'T'], ['TH', 'IH1', 'NG']]
        """
        if isinstance(words, (str, bytes)) or not isinstance(words, Iterable):
            raise TypeError(f"words must be an iterable of str, got {type(words).__name__}")
        letters = [self._letters(f"words[{index}]", word) for index, word in enumerate(words)]
        # Words of about one length together: the longest of a batch decides how long it takes.
        order = sorted(range(len(letters)), key=lambda index: len(letters[index]))
        answers: list[list[str]] = [[] for _ in letters]
        for begin in range(0, len(order), _BATCH):
            part = order[begin : begin + _BATCH]
            for index, tokens in zip(part, self._decode([letters[i] for i in part]), strict=True):
                answers[index] = self._names(tokens)
        return answers

    def align(self, word: str) -> tuple[list[str], list[str], FloatArray]:
        """Return the phonemes of a word, and which letters each was taken from.

        Parameters
        ----------
        word : str
            As in `pronounce`.

        Returns
        -------
        phonemes : list of str
            What `pronounce` returns.
        letters : list of str
            The word's letters, in lower case.
        weights : ndarray
            Shape (len(phonemes), len(letters)), float32: what the attention gave each letter when
            it chose the phoneme; rows sum to 1. Of the transformer, the mean over the heads of
            the last layer.

        Examples
        --------
        >>> from attnx.models import Pronouncer
        >>> phonemes, letters, weights = Pronouncer.load("seq2seq").align("phone")
        >>> phonemes, letters, weights.shape
        (['F', 'OW1', 'N'], ['p', 'h', 'o', 'n', 'e'], (3, 5))
        """
        letters = self._letters("word", word)
        tokens = self._decode([letters])[0]
        before = np.array([_END, *tokens[:-1]][: len(tokens)], np.int64)
        weights = self._model.align(np.array(letters, np.int64), before)
        return self._names(tokens), list(word.lower()), weights

    def _letters(self, name: str, word: object) -> list[int]:
        """Return the tokens of a word, or raise naming the argument and what is wrong with it."""
        if not isinstance(word, str):
            raise TypeError(f"{name} must be a str, got {type(word).__name__}")
        lower, known = word.lower(), self._tokens
        if len(lower) > _MOST_LETTERS:
            raise ValueError(f"{name} must have at most {_MOST_LETTERS} letters, got {len(lower)}")
        try:
            tokens = [known[letter] for letter in lower]
        except KeyError as error:
            raise ValueError(
                f"{name} must have letters a to z and apostrophes alone, "
                f"got {error.args[0]!r} in {word!r}"
            ) from None
        if not lower.strip("'"):
            raise ValueError(f"{name} must have at least one letter, got {word!r}")
        return tokens

    def _names(self, tokens: list[int]) -> list[str]:
        return [self._phonemes[token - 1] for token in tokens]

    def _decode(self, words: list[list[int]]) -> list[list[int]]:
        """Return the tokens of the phonemes of words, the likeliest one after the other."""
        lengths = np.array([len(word) for word in words])
        letters = np.zeros((len(words), lengths.max()), np.int64)
        letters[np.arange(letters.shape[1]) < lengths[:, np.newaxis]] = list(chain(*words))
        # A batch goes on for as long as its longest word may; each word is cut where it would be alone.
        limits = 2 * lengths + 8
        most = int(limits.max())
        ragged = None if (lengths == lengths[0]).all() else lengths
        steps = self._model.steps(letters, ragged, most)
        found = greedy_search(
            steps, np.full(len(words), _END), end_token=_END, max_length=most, keep=steps.keep
        )
        return [
            hypothesis.tokens.tolist()[:limit]
            for hypothesis, limit in zip(found, limits.tolist(), strict=True)
        ]
