"""The weights of the Pronouncer, which come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attnx.layers.module import FloatArray, Module
from attnx.models.checkpoint import Checkpoint, read_header
from attnx.models.documents import Document

_DATA = Path(__file__).parent / "data"

Weights = dict[str, FloatArray]


def read_model(name: str) -> tuple[Document, Weights]:
    """Return a model's configuration and its weights as float32.

    The files are read like those of strangers: a package that was damaged on its way is told so.
    """
    path = _DATA / f"{name}.safetensors"
    tensors = read_header(path)
    checkpoint = Checkpoint(path, tensors)
    return Document.read(_DATA / f"{name}.json"), {name: checkpoint.read(name) for name in tensors}


def load_into(layer: Module, weights: Mapping[str, FloatArray], prefix: str) -> None:
    """Load the weights whose names begin with a layer's name into the layer."""
    start = prefix + "."
    layer.load_state_dict(
        {key.removeprefix(start): array for key, array in weights.items() if key.startswith(start)}
    )
