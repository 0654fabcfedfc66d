"""Damaged and disagreeing model folders: an error that names the fault, at once, in little memory."""

from __future__ import annotations

import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import edit_json, join_file, split_file, write_model

from attnx.models import TextEncoder
from attnx.models.checkpoint import read_header

SECONDS = 0.1
QUERY = "encoder.layer.0.attention.self.query.weight"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder without fault, read once so that the packages are imported."""
    folder = write_model(tmp_path_factory.mktemp("sound") / "model")
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=True)
    edit_json(folder / "sentence_bert_config.json", max_seq_length=16)
    TextEncoder.from_pretrained(folder)
    return folder


def config(**changes: Any) -> Damage:
    return lambda folder: edit_json(folder / "config.json", **changes)


def pooling(**changes: Any) -> Damage:
    return lambda folder: edit_json(folder / "1_Pooling" / "config.json", **changes)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def write(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, count: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:count])


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        entries, data = split_file(folder / "model.safetensors")
        change(entries)
        join_file(folder / "model.safetensors", entries, data)

    return damage


def entry(**changes: Any) -> Damage:
    return header(lambda entries: entries[QUERY].update(changes))


def length_field(value: int) -> Damage:
    return write("model.safetensors", value.to_bytes(8, "little") + b"{}")


def raw_header(text: bytes) -> Damage:
    return lambda folder: join_file(folder / "model.safetensors", text, b"")


CRAFTED: dict[str, tuple[Damage, type[Exception], str]] = {
    "no folder": (shutil.rmtree, FileNotFoundError, "model folder"),
    "no config": (remove("config.json"), FileNotFoundError, "config.json"),
    "no weights": (remove("model.safetensors"), FileNotFoundError, "model.safetensors"),
    "no tokenizer": (remove("tokenizer.json"), FileNotFoundError, "tokenizer.json"),
    "empty config": (write("config.json", b""), ValueError, "config.json"),
    "config is a list": (write("config.json", b"[]"), ValueError, "config.json.*object"),
    "config is not text": (write("config.json", b"\xff\xfe\x00"), ValueError, "config.json"),
    "deep config": (write("config.json", b"[" * 100000), ValueError, "config.json"),
    "huge config": (write("config.json", b" " * (1 << 21)), ValueError, "config.json.*bytes"),
    "long number": (write("config.json", b'{"a": ' + b"9" * 9999 + b"}"), ValueError, "config"),
    "field twice": (write("config.json", b'{"a": 1, "a": 2}'), ValueError, "twice"),
    "other model": (config(model_type="gpt2"), ValueError, "model_type.*gpt2"),
    "other activation": (config(hidden_act="gelu_new"), ValueError, "hidden_act.*gelu_new"),
    "activation list": (config(hidden_act=[1]), ValueError, "hidden_act"),
    "relative": (config(position_embedding_type="relative_key"), ValueError, "position_embedding"),
    "decoder": (config(is_decoder=True), ValueError, "is_decoder"),
    "no width": (config(hidden_size=None), ValueError, "hidden_size.*nothing"),
    "negative width": (config(hidden_size=-24), ValueError, "hidden_size.*-24"),
    "zero width": (config(hidden_size=0), ValueError, "hidden_size"),
    "text width": (config(hidden_size="24"), ValueError, "hidden_size"),
    "true width": (config(hidden_size=True), ValueError, "hidden_size"),
    "real width": (config(hidden_size=24.0), ValueError, "hidden_size"),
    "infinite width": (config(hidden_size=float("inf")), ValueError, "hidden_size"),
    "vast width": (config(hidden_size=1 << 40), ValueError, "hidden_size"),
    "wrong width": (config(hidden_size=48), ValueError, r"embeddings.*\(40, 48\).*\(40, 24\)"),
    "odd heads": (config(num_attention_heads=5), ValueError, "num_attention_heads.*divisor"),
    "more layers": (config(num_hidden_layers=3), ValueError, r"layer\.2.*missing"),
    "vast layers": (config(num_hidden_layers=1 << 30), ValueError, r"layer\.2.*missing"),
    "fewer layers": (config(num_hidden_layers=1), ValueError, r"layer\.1.*no place"),
    "wrong hidden": (config(intermediate_size=31), ValueError, "intermediate"),
    "vast vocabulary": (config(vocab_size=(1 << 31) - 1), ValueError, "word_embeddings"),
    "wrong positions": (config(max_position_embeddings=512), ValueError, "position_embeddings"),
    "wrong types": (config(type_vocab_size=1), ValueError, "token_type_embeddings"),
    "nan eps": (config(layer_norm_eps=float("nan")), ValueError, "layer_norm_eps"),
    "negative eps": (config(layer_norm_eps=-1.0), ValueError, "layer_norm_eps"),
    "vast eps": (config(layer_norm_eps=10**400), ValueError, "layer_norm_eps"),
    "pooling of another width": (pooling(word_embedding_dimension=384), ValueError, "384"),
    "two poolings": (pooling(pooling_mode_cls_token=True), ValueError, "exactly one"),
    "unknown pooling": (
        pooling(pooling_mode_mean_tokens=False, pooling_mode_lasttoken=True),
        ValueError, "pooling_mode_lasttoken",
    ),
    "text pooling": (pooling(pooling_mode_mean_tokens="yes"), ValueError, "true or false"),
    "other modules": (
        write("modules.json", b'[{"type": "models.Dense", "path": "2_Dense"}]'),
        ValueError, "modules.json.*Dense",
    ),
    "path out": (
        write("modules.json", b'[{"type": "Transformer", "path": "../model"}]'),
        ValueError, "modules.json.*path",
    ),
    "modules object": (write("modules.json", b"{}"), ValueError, "modules.json.*list"),
    "no pooling folder": (
        write("modules.json", b'[{"type": "Pooling", "path": "3_Pooling"}]'),
        FileNotFoundError, "3_Pooling",
    ),
    "negative limit": (write("sentence_bert_config.json", b'{"max_seq_length": -1}'), ValueError,
                       "max_seq_length"),
    "empty weights": (write("model.safetensors", b""), ValueError, "too short"),
    "half a length": (write("model.safetensors", b"\1\0\0"), ValueError, "too short"),
    "vast header": (length_field((1 << 64) - 1), ValueError, "header.*18446744073709551615"),
    "header past the end": (length_field(3), ValueError, "header"),
    "header of a gigabyte": (
        lambda f: (write("model.safetensors", (1 << 30).to_bytes(8, "little"))(f),
                   __import__("os").truncate(f / "model.safetensors", 1 << 31)),
        ValueError, "header.*1073741824",
    ),
    "header no object": (raw_header(b"[1, 2]"), ValueError, "object"),
    "header no JSON": (raw_header(b"{]"), ValueError, "valid JSON"),
    "empty header": (raw_header(b"{}"), ValueError, "missing"),
    "tensor twice": (raw_header(b'{"a": 1, "a": 1}'), ValueError, "twice"),
    "cut weights": (cut("model.safetensors", 5000), ValueError, "model.safetensors"),
    "longer weights": (
        lambda f: write("model.safetensors", (f / "model.safetensors").read_bytes() + b"0")(f),
        ValueError, "must have",
    ),
    "no tensor": (header(lambda h: h.pop(QUERY)), ValueError, "begin where"),
    "another name": (header(lambda h: h.update(other=h.pop(QUERY))), ValueError, "query.*missing"),
    "tensor no object": (header(lambda h: h.update({QUERY: 3})), ValueError, "query.*dtype"),
    "unknown dtype": (entry(dtype="F31"), ValueError, "query.*F31"),
    "dtype no text": (entry(dtype=[32]), ValueError, "query.*dtype"),
    "integer weights": (entry(dtype="I32"), ValueError, "query.*I32"),
    "shape no list": (entry(shape="24"), ValueError, "query.*shape"),
    "negative shape": (entry(shape=[-24, -24]), ValueError, "query.*shape"),
    "overflowing shape": (entry(shape=[1 << 32, 1 << 32]), ValueError, "query.*another number"),
    "vast shape": (entry(shape=[1 << 62, 4]), ValueError, "query.*shape"),
    "long shape": (entry(shape=[1] * 100), ValueError, "query.*shape"),
    "other shape": (entry(shape=[576]), ValueError, r"query.*\(24, 24\).*\(576,\)"),
    "three offsets": (entry(data_offsets=[0, 1, 2]), ValueError, "query.*data_offsets"),
    "offsets turned": (entry(data_offsets=[2304, 0]), ValueError, "query"),
    "offset no integer": (entry(data_offsets=[0.0, 2304.0]), ValueError, "query.*data_offsets"),
    "offset past the end": (entry(data_offsets=[1 << 40, (1 << 40) + 2304]), ValueError, "begin"),
    "overlap": (entry(data_offsets=[0, 2304]), ValueError, "begin where"),
    "empty tokenizer": (write("tokenizer.json", b""), ValueError, "tokenizer.json"),
    "tokenizer list": (write("tokenizer.json", b"[]"), ValueError, "tokenizer.json"),
    "tokenizer without model": (write("tokenizer.json", b"{}"), ValueError, "tokenizer.json"),
    "cut tokenizer": (cut("tokenizer.json", 700), ValueError, "tokenizer.json"),
    "other tokenizer": (
        write("tokenizer.json", b'{"model": {"type": "None"}}'), ValueError, "tokenizer.json"
    ),
    "ids past the table": (
        lambda f: write("tokenizer.json",
                        (f / "tokenizer.json").read_bytes().replace(b'"river": 27', b'"river": 40'))(f),
        ValueError, "below the vocab_size.*40.*got 40",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_folder(sound: Path, tmp_path: Path, name: str) -> None:
    damage, error, message = CRAFTED[name]
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    damage(folder)
    with pytest.raises(error, match=message):
        read_quickly(folder)


def read_quickly(folder: Path) -> TextEncoder:
    """Read a folder and hold it to its time and memory, whether it can be read or not."""
    tracemalloc.start()
    start = time.process_time()
    try:
        return TextEncoder.from_pretrained(folder)
    finally:
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Counting allocations costs several times the reading itself.
        assert seconds < 5 * SECONDS, f"{seconds:.3f} s"
        assert peak < 8 << 20, f"{peak >> 20} MiB"


def test_the_sound_folder_is_sound(sound: Path) -> None:
    encoder = read_quickly(sound)
    assert (encoder.dim, encoder.max_length) == (24, 16)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_mutated_folders(sound: Path, tmp_path: Path, name: str) -> None:
    """Random bytes changed, removed, repeated: an encoder that works, or a ValueError in time."""
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    original = (sound / name).read_bytes()
    # Damage in the weights' data is a number like any other; it is the header that counts.
    reach = min(len(original), 8 + int.from_bytes(original[:8], "little"))
    reach = reach if name == "model.safetensors" else len(original)
    rng = np.random.default_rng(len(name))
    refused = 0
    spent = []
    for _ in range(150):
        (folder / name).write_bytes(mutated(original, reach, rng))
        start = time.process_time()
        try:
            encoder = TextEncoder.from_pretrained(folder)
        except ValueError:
            refused += 1
        else:
            assert encoder.encode(["the cat sat on a mat"]).shape == (1, encoder.dim)
        spent.append(time.process_time() - start)
    assert refused > 50
    # One of so many may meet a garbage collection or a busy machine.
    assert np.median(spent) < SECONDS
    assert max(spent) < 10 * SECONDS


def mutated(data: bytes, reach: int, rng: np.random.Generator) -> bytes:
    """Return data with a few random faults among the first `reach` bytes."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(reach)), rng.integers(4)
        if kind == 0:
            changed[at : at + 1] = rng.bytes(1)
        elif kind == 1:
            changed[at : at + 1] = rng.choice(list(b'0129-{}[]",:')).astype(np.uint8).tobytes()
        elif kind == 2:
            del changed[at : at + int(rng.integers(1, 9))]
        else:
            changed[at:at] = changed[at : at + int(rng.integers(1, 30))]
    return bytes(changed)


def test_header_places_are_absolute(sound: Path) -> None:
    tensors = read_header(sound / "model.safetensors")
    end = (sound / "model.safetensors").stat().st_size
    assert max(tensor.end for tensor in tensors.values()) == end
    assert tensors[QUERY].shape == (24, 24)
