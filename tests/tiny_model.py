"""A BERT model folder of a few kilobytes, with random weights, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] the cat sat on a mat dog ran and then slept . , ! ##s ##ing over red "
    "house very old tree by river"
).split()
SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
}


def write_model(folder: Path, *, prefix: str = "", dtype: Any = np.float32, **config: Any) -> Path:
    """Write a model folder and return it; further arguments go to its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        **SIZES,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(entries))
    tensors = {prefix + name: array.astype(dtype) for name, array in make_tensors(entries).items()}
    save_file(tensors, folder / "model.safetensors")
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def make_tensors(sizes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return random weights under the names of a BERT checkpoint."""
    rng = np.random.default_rng(0)
    width, hidden = sizes["hidden_size"], sizes["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings": (sizes["vocab_size"], width),
        "embeddings.position_embeddings": (sizes["max_position_embeddings"], width),
        "embeddings.token_type_embeddings": (sizes["type_vocab_size"], width),
    }
    maps = {
        **dict.fromkeys(("self.query", "self.key", "self.value"), (width, width)),
        "output.dense": (width, width),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(sizes["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        shapes |= {f"{layer}attention.{name}": shape for name, shape in maps.items()}
        shapes |= {f"{layer}intermediate.dense": (hidden, width)}
        shapes |= {f"{layer}output.dense": (width, hidden)}
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float32) / 3
        if "embeddings" not in name:
            tensors[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32) / 3
    for name in norms:
        tensors[f"{name}.weight"] = 1 + rng.standard_normal(width).astype(np.float32) / 9
        tensors[f"{name}.bias"] = rng.standard_normal(width).astype(np.float32) / 9
    return tensors


def make_tokenizer() -> Tokenizer:
    """Return a WordPiece tokenizer of few words, with padding and truncation set to be ignored."""
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=9)
    return tokenizer


def edit_json(path: Path, **changes: Any) -> None:
    """Change the fields of a JSON object in a file; a value of None removes its field."""
    entries = json.loads(path.read_bytes()) if path.exists() else {}
    entries |= changes
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({name: v for name, v in entries.items() if v is not None}))


def split_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_file(path: Path, header: Any, data: bytes) -> None:
    """Write a safetensors file from a header (JSON text, or what becomes it) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
