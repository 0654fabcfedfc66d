"""The short examples run, and what they print is so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import assert_same_bits

from attnx import reference
from attnx.layers import GRU, AdditiveAttention

ROOT = Path(__file__).resolve().parents[1]


def run(name: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", f"examples/{name}.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_encoder_block() -> None:
    apart, same = run("encoder_block")
    assert float(apart.split()[-2]) < 1e-5
    assert same == "a sentence alone has the same bits: True"


def test_cross_attention() -> None:
    lines = run("cross_attention")
    assert lines[0].endswith("give (2, 5, 32)")
    assert lines[1] == "weights (2, 4, 5, 49) sum to 1.0"
    assert lines[2] == "the padding gets 0.0"
    assert len([line for line in lines if line.startswith("word ")]) == 5
    assert float(lines[-1].split()[-2]) < 1e-5


def test_seq2seq() -> None:
    lines = run("seq2seq")
    assert [line.split()[0] for line in lines] == ["read", "each"] * 3


@pytest.fixture(scope="module")
def seq2seq() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seq2seq", ROOT / "examples" / "seq2seq.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gru(layer: GRU, x: np.ndarray, state: np.ndarray, suffix: str = "_l0") -> np.ndarray:
    """The states (L, H) of one direction in float64, from the first step of x to the last."""
    weights = {
        name.removesuffix(suffix): array
        for name, array in layer.state_dict().items()
        if name.endswith(suffix)
    }
    states = []
    for row in x:
        state = reference.gru_step(row, state, weights)
        states.append(state)
    return np.array(states)


def additive(layer: AdditiveAttention, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The weights (S,) of one query, by the formula."""
    w = layer.state_dict()
    hidden = np.tanh(w["query_weight"] @ query + key @ w["key_weight"].T.astype(float))
    scores = hidden @ w["score_weight"]
    weights: np.ndarray = np.exp(scores - scores.max())
    return weights / weights.sum()


def test_seq2seq_is_the_formulas(isa: str, seq2seq: ModuleType) -> None:
    model = seq2seq.Seq2Seq(20, 16, 32)
    sources, lengths = np.random.default_rng(3).integers(2, 20, (4, 6)), [6, 1, 4, 3]
    for source, n, found in zip(sources, lengths, model(sources, lengths), strict=True):
        (alone,) = model(source[None, :n], [n])
        assert_same_bits(alone.tokens, found.tokens)
        assert_same_bits(alone.weights, np.ascontiguousarray(found.weights[:, :n]))
        x = model.embedding[source[:n]].astype(float)
        forth = gru(model.encoder, x, np.zeros(32))
        back = gru(model.encoder, x[::-1], np.zeros(32), "_l0_reverse")[::-1]
        memory, state, token = np.concatenate([forth, back], axis=1), back[0], seq2seq.START
        for wanted, looked in zip(found.tokens, found.weights, strict=True):
            weights = additive(model.attention, state, memory)
            np.testing.assert_allclose(looked[:n], weights, rtol=1e-4, atol=1e-6)
            context = weights @ memory
            x = np.concatenate([model.embedding[token], context])
            state = gru(model.decoder, x[None], state)[0]
            out = model.output.state_dict()
            scores = out["weight"] @ np.concatenate([state, context]) + out["bias"]
            token = int(scores.argmax())
            assert token == wanted
