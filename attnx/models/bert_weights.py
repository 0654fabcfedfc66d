"""From the tensor names of a BERT checkpoint to attnx's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attnx.layers import LayerNorm, TransformerEncoder, TransformerEncoderLayer
from attnx.layers.module import FloatArray
from attnx.models.bert_config import BertConfig
from attnx.models.checkpoint import FLOATS, Checkpoint, Tensor, read_header

# A layer's linear maps and norms: the name in the checkpoint, the name in the layer.
_PARTS = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}
_PROJECTIONS = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
# Tables of constants that some versions of transformers saved with the weights.
_CONSTANTS = ("embeddings.position_ids", "embeddings.token_type_ids")
# What TensorFlow called the weight and the bias of a norm; the oldest checkpoints still do.
_EARLIER_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@dataclass(frozen=True)
class BertWeights:
    """What a text encoder computes with."""

    words: FloatArray  # (vocab_size, hidden_size)
    positions: FloatArray  # (max_position_embeddings, hidden_size), with token type 0 added
    norm: LayerNorm
    encoder: TransformerEncoder


def find_tensors(config: BertConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the file's tensors, and the name there of each tensor that the model needs.

    Raises
    ------
    ValueError
        If the file is damaged, or a tensor is missing, of another shape than the configuration
        says, or part of a model that is not computed here.
    """
    tensors = read_header(config.weights)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in tensors else ""
    names: dict[str, str] = {}
    # Bounded by the file: the loop ends at the first layer that is not there.
    for name, shape in _embedding_shapes(config).items():
        names[name] = _find(config, tensors, prefix + name, shape)
    for number in range(config.num_hidden_layers):
        for name, shape in _layer_shapes(config).items():
            full = f"encoder.layer.{number}.{name}"
            names[full] = _find(config, tensors, prefix + full, shape)
    known = {*names.values(), *(prefix + name for name in _CONSTANTS)}
    for name in tensors:
        if name.startswith((f"{prefix}embeddings.", f"{prefix}encoder.")) and name not in known:
            raise ValueError(
                f"{config.weights}: tensor {name[:200]!r} has no place in the model that "
                f"config.json describes ({config.num_hidden_layers} layers)"
            )
    return tensors, names


def load_weights(
    config: BertConfig, tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> BertWeights:
    """Return the model's weights; `tensors` and `names` are those of `find_tensors`."""
    checkpoint = Checkpoint(config.weights, tensors)

    def read(name: str) -> FloatArray:
        return checkpoint.read(names[name])

    norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
    norm.load_state_dict({end: read(f"embeddings.LayerNorm.{end}") for end in ("weight", "bias")})
    layer = TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        activation=config.activation,
        layer_norm_eps=config.layer_norm_eps,
    )
    encoder = TransformerEncoder(layer, config.num_hidden_layers)
    for number, part in enumerate(encoder.layers):
        start = f"encoder.layer.{number}."
        state = {
            f"{ours}.{end}": read(f"{start}{theirs}.{end}")
            for theirs, ours in _PARTS.items()
            for end in ("weight", "bias")
        }
        for end in ("weight", "bias"):
            joined = np.concatenate([read(f"{start}{name}.{end}") for name in _PROJECTIONS])
            state[f"self_attn.in_proj_{end}"] = joined
        part.load_state_dict(state)
    positions = read("embeddings.position_embeddings.weight")
    types = read("embeddings.token_type_embeddings.weight")
    # Texts are never pairs, so every token has type 0.
    return BertWeights(
        read("embeddings.word_embeddings.weight"), positions + types[0], norm, encoder
    )


def _embedding_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    width = config.hidden_size
    return {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }


def _layer_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    width, hidden = config.hidden_size, config.intermediate_size
    weights: dict[str, tuple[int, ...]] = dict.fromkeys(_PROJECTIONS, (width, width))
    weights |= {
        "attention.output.dense": (width, width),
        "attention.output.LayerNorm": (width,),
        "intermediate.dense": (hidden, width),
        "output.dense": (width, hidden),
        "output.LayerNorm": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _find(
    config: BertConfig, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]
) -> str:
    """Return the name under which the file has a tensor, after checking it."""
    start, _, end = name.rpartition("LayerNorm.")
    found = name
    if name not in tensors and start:
        found = start + _EARLIER_NAMES["LayerNorm." + end]
    tensor = tensors.get(found)
    if tensor is None:
        raise ValueError(f"{config.weights}: tensor {name!r} is missing")
    if tensor.shape != shape:
        raise ValueError(
            f"{config.weights}: tensor {name!r} must have shape {shape} by config.json, "
            f"got {tensor.shape}"
        )
    if tensor.dtype not in FLOATS:
        raise ValueError(
            f"{config.weights}: tensor {name!r} must have one of the dtypes "
            f"{', '.join(FLOATS)}, got {tensor.dtype}"
        )
    return found
