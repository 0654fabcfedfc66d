"""The example that generates text: a whole causal model on rotary positions, grouped heads and a cache."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import assert_same_bits

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "generate.py"
REFERENCE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import glassllm
model, tokenizer = glassllm.load_pretrained(sys.argv[2])
prompt = tokenizer.encode(sys.argv[3])
steps = model.generate(prompt, int(sys.argv[4]), greedy=True)
tokens = [step.token for step in steps]
print(json.dumps([prompt, tokens, tokenizer.decode(tokens)]))
"""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def glassllm() -> Path:
    cache = SCRIPT.parents[1] / ".cache" / "glassllm"
    folder = Path(os.environ.get("ATTNX_GLASSLLM", cache))
    if not (folder / "glassllm" / "weights" / "en.npz").is_file():
        pytest.skip(f"no model in {folder}: python tools/fetch_glassllm.py")
    return folder


def run(*arguments: str | Path) -> Any:
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=SCRIPT.parents[1],
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.glassllm
@pytest.mark.parametrize(("language", "prompt", "count"), [
    ("en", "Alice was", 64),
    ("en", "The Queen said", 64),
    ("en", "Once upon a time", 150),  # past the context of 128
    ("pt", "Era uma vez", 64),
])  # fmt: skip
def test_tokens_are_those_of_the_models_own_reference(
    isa: str, example: ModuleType, glassllm: Path, language: str, prompt: str, count: int
) -> None:
    done = run("-c", REFERENCE, glassllm, language, prompt, str(count))
    assert done.returncode == 0, done.stderr
    prompt_tokens, tokens, text = json.loads(done.stdout)
    model, tokenizer = example.load(glassllm, language)
    assert tokenizer.encode(prompt) == prompt_tokens
    assert list(example.generate(model, prompt_tokens, count)) == tokens
    assert tokenizer.decode(tokens) == text


@pytest.mark.glassllm
def test_the_script_prints_text_and_speed(glassllm: Path) -> None:
    done = run(SCRIPT, "Alice was", "--tokens", "9", "--model", glassllm)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Alice was\ngoing to see what she was\n"
    assert "9 tokens, " in done.stderr
    assert "tokens/s" in done.stderr


def write_tiny(folder: Path) -> None:
    """Write a folder as tools/fetch_glassllm.py leaves it, with drawn weights."""
    config = {"vocab_size": 11, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
              "max_len": 12, "rope_base": 10000.0, "eps": 1e-6}  # fmt: skip
    shapes = {"E": (11, 16), "norm_f.gamma": (16,)}
    for number in range(2):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in {
            "norm1.gamma": (16,), "norm2.gamma": (16,), "attn.W_Q": (16, 16), "attn.W_K": (16, 8),
            "attn.W_V": (16, 8), "attn.W_O": (16, 16), "ffn.W1": (16, 20), "ffn.W3": (16, 20),
            "ffn.W2": (20, 16),
        }.items()}  # fmt: skip
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()
    }
    weights = folder / "glassllm" / "weights"
    weights.mkdir(parents=True)
    np.savez(weights / "en.npz", __config__=np.array(json.dumps(config)), **arrays)
    vocabulary = {"alphabet": ["▁", "a", "b", "c"], "merges": [["a", "b"], ["▁", "ab"], ["c", "c"]]}
    (weights / "en.tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")


def test_a_prompt_has_the_bits_of_its_tokens_one_by_one(
    isa: str, example: ModuleType, tmp_path: Path
) -> None:
    write_tiny(tmp_path)
    model, _ = example.load(tmp_path, "en")
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    one_by_one, at_once, none = model.new_caches(), model.new_caches(), model.new_caches()
    for token in tokens:
        logits = model([token], one_by_one)
    assert_same_bits(model(tokens, at_once), logits)
    for a, b in zip(one_by_one, at_once, strict=True):
        assert_same_bits(a.key, b.key)
        assert a.lengths.tolist() == [len(tokens)]
    assert (model([6], none) != logits).any()  # the history matters


def test_generation_goes_on_past_the_context(example: ModuleType, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    model, _ = example.load(tmp_path, "en")
    history = [3, 1, 4]
    for token in example.generate(model, history, 20):
        assert token == model(history[-12:], model.new_caches()).argmax()
        history = [*history, token]


def test_tokens_and_back(example: ModuleType, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    _, tokenizer = example.load(tmp_path, "en")
    assert [tokenizer.words[t] for t in tokenizer.encode("ab ab ccc x")] == [
        "ab", "▁ab", "▁", "cc", "c", "▁", "<unk>",
    ]  # fmt: skip
    assert tokenizer.decode(tokenizer.encode("ab  cc ab")) == "ab  cc ab"


def test_help_and_errors(tmp_path: Path) -> None:
    done = run(SCRIPT, "--help")
    assert done.returncode == 0
    assert "tiny causal language model" in done.stdout
    done = run(SCRIPT, "--model", tmp_path)
    assert done.returncode == 2
    assert "tools/fetch_glassllm.py" in done.stderr
    write_tiny(tmp_path)
    done = run(SCRIPT, "", "--model", tmp_path)
    assert done.returncode == 2
    assert "the prompt is empty" in done.stderr


@pytest.mark.glassllm
def test_a_long_text_is_summarised(glassllm: Path) -> None:
    examples = SCRIPT.parent
    text = examples / "sentences.txt"
    done = run(examples / "long_text.py", text, "--limit", "700", "--model", glassllm)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("700 tokens; the matrices of 4 heads would be 0.0 GB\n")
    about = [int(n) for n in re.findall(r"attends to about (\d+) tokens", done.stdout)]
    assert len(about) == 4
    assert all(1 <= n <= 700 for n in about)
    assert done.stdout.count("most attended to: '") == 4


@pytest.mark.glassllm
def test_a_missing_text_is_one_line(glassllm: Path, tmp_path: Path) -> None:
    done = run(SCRIPT.parent / "long_text.py", tmp_path / "none.txt", "--model", glassllm)
    assert done.returncode == 2
    assert "none.txt" in done.stderr.splitlines()[-1]
