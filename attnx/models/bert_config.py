"""What the JSON files of a BERT model folder say, checked before anything large is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from attnx.models.documents import Document, existing, parse_json, read_bounded
from attnx.models.pooling import Pooling

_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes of the model, and how texts go in and vectors come out."""

    weights: Path
    tokenizer: Path
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    activation: Literal["relu", "gelu"]
    pooling: Pooling
    max_length: int
    lower_case: bool


def read_config(folder: Path) -> BertConfig:
    """Return the configuration of a model folder.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its three files is missing.
    ValueError
        If a file is damaged, or describes a model of another kind.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder not found: {folder}")
    base, pooling_folder = _modules(folder)
    weights, tokenizer = base / "model.safetensors", base / "tokenizer.json"
    config = Document.read(base / "config.json")
    for path in (weights, tokenizer):
        existing(path)
    _check_kind(config)
    hidden_size, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden_size % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden_size})")
    eps = config.real("layer_norm_eps", 1e-12)
    if not 0 <= eps < 1:
        raise config.wrong("layer_norm_eps", "between 0 and 1")
    positions = config.size("max_position_embeddings")
    sentence = Document.read_if_there(base / "sentence_bert_config.json")
    return BertConfig(
        weights=weights,
        tokenizer=tokenizer,
        hidden_size=hidden_size,
        num_hidden_layers=config.size("num_hidden_layers"),
        num_attention_heads=heads,
        intermediate_size=config.size("intermediate_size"),
        vocab_size=config.size("vocab_size"),
        max_position_embeddings=positions,
        type_vocab_size=config.size("type_vocab_size"),
        layer_norm_eps=eps,
        activation=config.get("hidden_act"),
        pooling=_pooling(pooling_folder, hidden_size),
        max_length=_max_length(base, sentence, positions),
        lower_case=sentence.flag("do_lower_case"),
    )


def _check_kind(config: Document) -> None:
    """Raise unless the configuration is of an encoder that is computed here."""
    if config.get("model_type") not in (None, "bert"):
        raise config.wrong("model_type", "'bert'")
    if config.get("hidden_act") not in ("gelu", "relu"):
        raise config.wrong("hidden_act", "'gelu' or 'relu'")
    if config.get("position_embedding_type") not in (None, "absolute"):
        raise config.wrong("position_embedding_type", "'absolute'")
    for name in ("is_decoder", "add_cross_attention"):
        if config.flag(name):
            raise config.wrong(name, "false: only encoders are read")


def _max_length(base: Path, sentence: Document, positions: int) -> int:
    """Return the most tokens of a text: sentence-transformers' limit, else the tokenizer's."""
    limit = sentence.limit("max_seq_length", positions)
    if limit is None:
        tokenizer = Document.read_if_there(base / "tokenizer_config.json")
        limit = tokenizer.limit("model_max_length", positions)
    return positions if limit is None else limit


def _modules(folder: Path) -> tuple[Path, Path]:
    """Return the folders of the transformer and of the pooling, by modules.json if it is there."""
    path = folder / "modules.json"
    base, pooling = folder, folder / "1_Pooling"
    if not path.exists():
        return base, pooling
    modules = parse_json(path, read_bounded(path, 1 << 16))
    if not isinstance(modules, list) or not all(isinstance(entry, dict) for entry in modules):
        raise ValueError(f"{path} must hold a list of JSON objects")
    for entry in modules:
        kind, where = str(entry.get("type")).rpartition(".")[2], entry.get("path")
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(
                f"{path}: type must be Transformer, Pooling or Normalize, got {kind[:80]!r}"
            )
        # A name inside this folder, nothing that leads out of it.
        if not isinstance(where, str) or not re.fullmatch(r"[\w-]*", where):
            raise ValueError(f"{path}: path must name a folder, got {str(where)[:80]!r}")
        if kind == "Transformer":
            base = folder / where
        if kind == "Pooling":
            pooling = folder / where
            existing(pooling / "config.json")
    return base, pooling


def _pooling(folder: Path, hidden_size: int) -> Pooling:
    """Return how the rows of a text become one vector; the mean where nothing is said."""
    config = Document.read_if_there(folder / "config.json")
    if config.get("word_embedding_dimension") not in (None, hidden_size):
        raise config.wrong("word_embedding_dimension", f"hidden_size ({hidden_size})")
    mode = config.get("pooling_mode")
    if mode is not None:
        if mode not in ("mean", "cls", "max"):
            raise config.wrong("pooling_mode", "'mean', 'cls' or 'max'")
        return cast(Pooling, mode)
    chosen = [name for name in config.names("pooling_mode_") if config.flag(name)]
    if not chosen:
        return "mean"
    if len(chosen) > 1 or chosen[0] not in _MODES:
        raise ValueError(
            f"{config.path}: exactly one of {', '.join(_MODES)} must be true, "
            f"got {', '.join(chosen)[:200]}"
        )
    return _MODES[chosen[0]]
