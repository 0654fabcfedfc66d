"""The text encoder: a float64 BERT, sentence-transformers' habits, the same bits in any batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tiny_model import SIZES, WORDS, edit_json, make_tensors, write_model

import attnx
from attnx import reference
from attnx.models import TextEncoder
from attnx.models.batching import token_batches
from attnx.models.pooling import pool, unit

TEXTS = ["The cat sat on a mat.", "", "dogs", "the dog ran and ran and then slept, very old tree!",
         "by river", "zzz ?", "the " * 40]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> TextEncoder:
    return TextEncoder.from_pretrained(tiny)


@pytest.fixture(scope="module")
def minilm() -> Path:
    folder = Path(os.environ.get("ATTNX_MINILM", ".cache/minilm"))
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"no model in {folder}: python tools/fetch_minilm.py")
    return folder


def bert(tensors: dict[str, np.ndarray], ids: np.ndarray, heads: int) -> np.ndarray:
    """Return the last layer's rows for one text, in float64, from the checkpoint's names."""

    def linear(x: np.ndarray, name: str, **options: Any) -> np.ndarray:
        return reference.linear(x, tensors[name + ".weight"], tensors[name + ".bias"], **options)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        name += "LayerNorm."
        return reference.layer_norm(x, tensors[name + "weight"], tensors[name + "bias"], eps=1e-12)

    tables = [tensors[f"embeddings.{name}_embeddings.weight"].astype(np.float64)
              for name in ("word", "position", "token_type")]  # fmt: skip
    x = norm(tables[0][ids] + tables[1][: len(ids)] + tables[2][0], "embeddings.")
    for number in range(sum(n.endswith("self.query.bias") for n in tensors)):
        start = f"encoder.layer.{number}."
        query, key, value = (
            linear(x, f"{start}attention.self.{name}").reshape(len(ids), heads, -1)
            for name in ("query", "key", "value")
        )
        seen = reference.scaled_dot_product_attention(query, key, value, layout="blhd")
        y = linear(seen.reshape(len(ids), -1), start + "attention.output.dense", residual=x)
        x = norm(y, start + "attention.output.")
        hidden = linear(x, start + "intermediate.dense", activation="gelu")
        x = norm(linear(hidden, start + "output.dense", residual=x), start + "output.")
    return x


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_vectors_are_those_of_a_float64_bert(isa: str, tiny: Path, tmp_path: Path, pooling: str):
    folder = tmp_path / "model"
    folder.symlink_to(tiny) if pooling == "mean" else write_model(folder)
    if pooling != "mean":
        modes = {f"pooling_mode_{name}": False for name in ("mean_tokens", "max_tokens")}
        modes["pooling_mode_cls_token" if pooling == "cls" else "pooling_mode_max_tokens"] = True
        edit_json(folder / "1_Pooling" / "config.json", **modes)
    encoder = TextEncoder.from_pretrained(folder)
    tensors = make_tensors(SIZES)
    for ids, vector in zip(
        encoder.tokenize(TEXTS), encoder.encode(TEXTS, normalize=False), strict=True
    ):
        rows = bert(tensors, ids, SIZES["num_attention_heads"])
        truth = {"mean": rows.mean(0), "cls": rows[0], "max": rows.max(0)}[pooling]
        np.testing.assert_allclose(vector, truth, rtol=2e-5, atol=1e-5)


def test_tokens_are_bounded_and_keep_their_ends(encoder: TextEncoder) -> None:
    ids = {name: i for i, name in enumerate(WORDS)}
    cat, empty, *_, long = (part.tolist() for part in encoder.tokenize(TEXTS))
    words = "[CLS] the cat sat on a mat . [SEP]".split()
    assert cat == [ids[word] for word in words]  # the file's own truncation to 6 is not used
    assert empty == [ids["[CLS]"], ids["[SEP]"]]
    assert len(long) == SIZES["max_position_embeddings"] == encoder.max_length
    assert long[0] == ids["[CLS]"]
    assert long[-1] == ids["[SEP]"]
    (short,) = encoder.tokenize(TEXTS[0], max_length=4)
    assert short.tolist() == [ids[word] for word in ("[CLS]", "the", "cat", "[SEP]")]


def test_truncation_is_the_tokenizers_own(encoder: TextEncoder, tiny: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(tiny / "tokenizer.json"))
    theirs.no_padding()
    for limit in (2, 3, 7, 20):
        theirs.enable_truncation(limit)
        for text, ids in zip(TEXTS, encoder.tokenize(TEXTS, max_length=limit), strict=True):
            assert ids.tolist() == theirs.encode(text).ids


@pytest.mark.parametrize(("files", "limit"), [
    ({}, 20),
    ({"tokenizer_config": {"model_max_length": 12}}, 12),
    ({"tokenizer_config": {"model_max_length": 1000000000000000019884624838656}}, 20),
    ({"tokenizer_config": {"model_max_length": 12},
      "sentence_bert_config": {"max_seq_length": 9}}, 9),
    ({"tokenizer_config": {"model_max_length": 12}, "sentence_bert_config": {}}, 12),
    ({"sentence_bert_config": {"max_seq_length": 512}}, 20),
])  # fmt: skip
def test_default_max_length(tmp_path: Path, files: dict[str, Any], limit: int) -> None:
    folder = write_model(tmp_path / "model")
    for name, entries in files.items():
        (folder / f"{name}.json").write_text(json.dumps(entries))
    encoder = TextEncoder.from_pretrained(folder)
    assert encoder.max_length == limit
    assert len(encoder.tokenize(TEXTS[-1])[0]) == limit


def test_a_vector_has_the_same_bits_in_any_batch(isa: str, encoder: TextEncoder) -> None:
    texts = TEXTS * 3
    vectors = encoder.encode(texts)
    for batch_tokens in (1, 7, 50, 10**6):
        np.testing.assert_array_equal(encoder.encode(texts, batch_tokens=batch_tokens), vectors)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(encoder.encode(text), vector[None])
    np.testing.assert_array_equal(encoder.encode(texts[::-1]), vectors[::-1])
    before = attnx.get_num_threads()
    try:
        for threads in (1, 2, 3):
            attnx.set_num_threads(threads)
            np.testing.assert_array_equal(encoder.encode(texts), vectors)
    finally:
        attnx.set_num_threads(before)


def test_several_threads_share_an_encoder(encoder: TextEncoder) -> None:
    truth = encoder.encode(TEXTS)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(encoder.encode(TEXTS))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for result in results:
        np.testing.assert_array_equal(result, truth)


def test_kinds_of_input(encoder: TextEncoder) -> None:
    one = encoder.encode("the cat")
    assert one.shape == (1, encoder.dim)
    assert one.dtype == np.float32
    assert encoder.encode([]).shape == (0, encoder.dim)
    for texts in (["the cat"], ("the cat",), np.array(["the cat"]), iter(["the cat"])):
        np.testing.assert_array_equal(encoder.encode(texts), one)
    lengths = np.linalg.norm(encoder.encode(TEXTS).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    raw = encoder.encode("the cat", normalize=False)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), one, atol=1e-6)


@pytest.mark.parametrize(("texts", "options", "error", "message"), [
    (["a", None], {}, TypeError, r"texts\[1\] must be a str, got NoneType"),
    (["a", "b", b"c"], {}, TypeError, r"texts\[2\].*bytes"),
    ([["a"]], {}, TypeError, r"texts\[0\].*list"),
    (b"a", {}, TypeError, "texts.*bytes"),
    (3, {}, TypeError, "texts.*int"),
    (["a", "\ud800"], {}, ValueError, r"texts\[1\].*surrogate"),
    ("a", {"max_length": 1}, ValueError, "max_length.*between 2 and 20"),
    ("a", {"max_length": 21}, ValueError, "max_length.*21"),
    ("a", {"max_length": 2.0}, TypeError, "max_length"),
    ("a", {"batch_tokens": 0}, ValueError, "batch_tokens"),
])  # fmt: skip
def test_wrong_input(
    encoder: TextEncoder, texts: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encoder.encode(texts, **options)


def test_attentions(encoder: TextEncoder) -> None:
    tokens, weights = encoder.attentions("The cats sat")
    assert tokens == ["[CLS]", "the", "cat", "##s", "sat", "[SEP]"]
    assert weights.shape == (2, 4, 6, 6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert weights.std() > 0.01
    with pytest.raises(TypeError, match="text must be a str"):
        encoder.attentions(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_checkpoints_of_other_makes(tiny: Path, tmp_path: Path, prefix: str) -> None:
    """Names with a prefix, other tensors beside the encoder's, half precision, early names."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from safetensors.numpy import save_file

    folder = write_model(tmp_path / "model")
    rounded = {
        name: array.astype(ml_dtypes.bfloat16).astype(np.float16).astype(np.float32)
        for name, array in make_tensors(SIZES).items()
    }
    results = []
    for dtype in (np.float32, np.float16, np.float64, ml_dtypes.bfloat16):
        tensors = {
            prefix + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): a
            for name, a in rounded.items()
        }
        tensors = {name: array.astype(dtype) for name, array in tensors.items()}
        tensors["cls.predictions.bias"] = np.zeros(3, np.float32)
        tensors[prefix + "pooler.dense.bias"] = np.zeros(3, np.float32)
        tensors[prefix + "embeddings.position_ids"] = np.zeros((1, 20), np.int64)
        save_file(tensors, folder / "model.safetensors")
        results.append(TextEncoder.from_pretrained(folder).encode(TEXTS))
    for result in results[:3]:
        np.testing.assert_array_equal(result, results[0])
    np.testing.assert_allclose(results[3], results[0], atol=0.02)


def test_modules_in_folders_of_their_own(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model(folder / "0_Transformer")
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True)
    names = {"Transformer": "0_Transformer", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"models.{kind}", "path": path} for kind, path in names.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    edit_json(folder / "0_Transformer" / "sentence_bert_config.json", do_lower_case=True)
    vectors = TextEncoder.from_pretrained(folder).encode(TEXTS)
    assert not np.array_equal(vectors, TextEncoder.from_pretrained(tiny).encode(TEXTS))


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(0, 40, 200)
    for budget in (1, 39, 100, 10**9):
        batches = token_batches(lengths, budget)
        assert sorted(np.concatenate(batches).tolist()) == np.flatnonzero(lengths).tolist()
        assert all(lengths[b].sum() <= budget or len(b) == 1 for b in batches)
    assert token_batches(np.zeros(3, np.int64), 5) == []


def test_pooling_and_unit_length() -> None:
    rows = np.array([[1, 5], [3, 1], [7, 7]], np.float32)
    starts = np.array([0, 2, 3])
    np.testing.assert_array_equal(pool(rows, starts, "mean"), [[2, 3], [7, 7]])
    np.testing.assert_array_equal(pool(rows, starts, "max"), [[3, 5], [7, 7]])
    np.testing.assert_array_equal(pool(rows, starts, "cls"), [[1, 5], [7, 7]])
    zeros = np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(unit(zeros), zeros)


def test_importing_loads_nothing_of_the_extra_and_encoding_sets_no_variable(tiny: Path) -> None:
    code = (
        "import os, sys; before = dict(os.environ); from attnx.models import TextEncoder\n"
        "wanted = {'tokenizers', 'safetensors', 'tqdm', 'torch'}\n"
        "assert not wanted & set(sys.modules), wanted & set(sys.modules)\n"
        f"TextEncoder.from_pretrained({str(tiny)!r}).encode(['the cat'] * 9, show_progress=True)\n"
        "assert 'tqdm' not in sys.modules and before == dict(os.environ)\n"
        "if os.fork() == 0: os._exit(before != dict(os.environ))\n"
        "assert os.wait()[1] == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.minilm
def test_minilm_is_a_float64_bert(minilm: Path) -> None:
    encoder = TextEncoder.from_pretrained(minilm)
    assert (encoder.dim, encoder.max_length) == (384, 256)
    with safe_open(minilm / "model.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    texts = [
        "Where is the nearest station?",
        "",
        "How do I get to the train? " * 9,
        "Ä字\U0001f600",
    ]
    vectors = encoder.encode(texts, normalize=False).astype(np.float64)
    for ids, vector in zip(encoder.tokenize(texts), vectors, strict=True):
        truth = bert(tensors, ids, 12).mean(0)
        cosine = vector @ truth / np.linalg.norm(vector) / np.linalg.norm(truth)
        assert cosine >= 1 - 1e-9
        np.testing.assert_allclose(vector, truth, atol=2e-5)
