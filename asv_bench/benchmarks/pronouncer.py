"""Words to phonemes with the models of the package."""

from __future__ import annotations

import attnx

from .sentences import real_words

MODELS = ["seq2seq", "transformer"]


class Pronouncer:
    params = [MODELS, [1, 64, 1000]]
    param_names = ["model", "words"]

    def setup(self, model: str, words: int) -> None:
        self.model = attnx.models.Pronouncer.load(model)
        self.words = real_words(words)

    def time_pronounce_batch(self, model: str, words: int) -> None:
        self.model.pronounce_batch(self.words)


class PronouncerLoad:
    params = [MODELS]
    param_names = ["model"]

    def time_load(self, model: str) -> None:
        attnx.models.Pronouncer.load(model)


class PronouncerAlign:
    params = [MODELS]
    param_names = ["model"]

    def setup(self, model: str) -> None:
        self.model = attnx.models.Pronouncer.load(model)

    def time_align(self, model: str) -> None:
        self.model.align("attention")
