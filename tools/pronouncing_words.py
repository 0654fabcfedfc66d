"""The words of the CMU dictionary: which are used, how they are split, and how answers are scored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

LETTERS = "'abcdefghijklmnopqrstuvwxyz"
SPLITS = ("train", "validation", "test")

Pronunciation = tuple[str, ...]
Words = dict[str, list[Pronunciation]]


def split_of(word: str) -> str:
    """Return the split that a word belongs to, whatever other words there are.

    The first eight bytes of the SHA-256 of the word, as a big-endian integer modulo 100: below 5 is
    "test", 5 and 6 are "validation", the rest is "train". All pronunciations of a word fall together.
    """
    number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") % 100
    return "test" if number < 5 else "validation" if number < 7 else "train"


def read_words(dictionary: Path) -> Words:
    """Return the pronunciations of each word that has letters a to z and apostrophes alone.

    A line is a word, with "(2)" and so on for its further pronunciations, and phonemes; what follows
    a # is a comment. Words with a digit, full stop or hyphen are left out.
    """
    words: Words = {}
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        entry, *phonemes = line.partition("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", entry)
        if set(word) <= set(LETTERS) and any(letter != "'" for letter in word):
            words.setdefault(word, []).append(tuple(phonemes))
    return words


def words_of(words: Words, split: str) -> Words:
    """Return the words of one split."""
    return {word: ways for word, ways in words.items() if split_of(word) == split}


def phonemes_of(words: Words) -> list[str]:
    """Return all phonemes there are, sorted."""
    return sorted({phoneme for ways in words.values() for way in ways for phoneme in way})


def score(words: Words, answers: Iterable[Sequence[str]]) -> tuple[float, float]:
    """Return phoneme error rate and word accuracy of an answer for each word, both without stress.

    An answer is right when it is any of the word's pronunciations. Phoneme errors are counted
    against the pronunciation that is closest to the answer, and divided by its phonemes.
    """
    right = errors = phonemes = 0
    for ways, answer in zip(words.values(), answers, strict=True):
        plain = _without_stress(answer)
        distance, length = min(
            (_edit_distance(_without_stress(way), plain), len(way)) for way in ways
        )
        right += distance == 0
        errors += distance
        phonemes += length
    return errors / phonemes, right / len(words)


def _without_stress(phonemes: Sequence[str]) -> list[str]:
    return [phoneme.rstrip("012") for phoneme in phonemes]


def _edit_distance(wanted: Sequence[str], given: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and substitutions between two sequences."""
    row = list(range(len(given) + 1))
    for i, phoneme in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(given, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (phoneme != other)),
            )
    return row[-1]
