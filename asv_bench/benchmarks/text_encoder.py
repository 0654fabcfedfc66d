"""Sentence embeddings with a real model; skipped where its folder is missing."""

from __future__ import annotations

import os
from pathlib import Path

import attnx

from .sentences import real_sentences


def folder() -> Path:
    """Return all-MiniLM-L6-v2's folder, else skip the benchmark."""
    cache = Path(__file__).resolve().parents[2] / ".cache" / "minilm"
    found = Path(os.environ.get("ATTNX_MINILM") or cache)
    if not (found / "model.safetensors").is_file():
        raise NotImplementedError(f"no model in {found}")  # how a benchmark tells asv to skip it
    return found


class TextEncoder:
    params = [[1, 32, 200]]
    param_names = ["sentences"]

    def setup(self, sentences: int) -> None:
        self.model = attnx.models.TextEncoder.from_pretrained(folder())
        self.texts = real_sentences(sentences)

    def time_encode(self, sentences: int) -> None:
        self.model.encode(self.texts)


class TextEncoderLoad:
    def setup(self) -> None:
        self.folder = folder()

    def time_from_pretrained(self) -> None:
        attnx.models.TextEncoder.from_pretrained(self.folder)


class TextEncoderMemory:
    """`peakmem_reference` is the process with the model and its texts, before any work."""

    def setup(self) -> None:
        self.model = attnx.models.TextEncoder.from_pretrained(folder())
        self.texts = real_sentences(200)

    def peakmem_reference(self) -> None:
        pass

    def peakmem_encode(self) -> None:
        self.model.encode(self.texts)
