"""Summaries of MultiHeadAttention, with and without a cache, and of a text encoder's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits
from tiny_model import SIZES, write_model

import attnx
from attnx import KVCache
from attnx.layers import MultiHeadAttention
from attnx.models import TextEncoder
from attnx.summary import AttentionSummary

ASKED: dict[str, Any] = {"top_k": 3, "entropy": True, "received": True, "rows": [0, -1]}
TEXTS = ["The cat sat on a mat.", "dogs", "", "the dog ran and ran and then slept, very old tree!"]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def make(num_kv_heads: int = 2) -> MultiHeadAttention:
    layer = MultiHeadAttention(24, 4, num_kv_heads=num_kv_heads)
    rng = np.random.default_rng(1)
    state = layer.state_dict().items()
    layer.load_state_dict({n: (rng.standard_normal(x.shape) / 2).astype("f4") for n, x in state})
    return layer


def assert_fits(found: AttentionSummary, weights: Array) -> None:
    """Hold a summary against the weights of the same call."""
    assert found.output is None
    assert found.num_keys == weights.shape[-1]
    np.testing.assert_allclose(found.received, weights.sum(-2), rtol=1e-5, atol=1e-6)
    assert_same_bits(found.rows, np.ascontiguousarray(weights[..., [0, -1], :]))
    terms = np.where(weights > 0, weights * np.log(np.where(weights > 0, weights, 1)), 0)
    np.testing.assert_allclose(found.entropy, -terms.sum(-1), rtol=1e-5, atol=2e-6)
    largest = -np.sort(-weights, axis=-1)[..., :3]
    shown = found.top_weights[..., : largest.shape[-1]]
    np.testing.assert_allclose(shown, largest, rtol=1e-5, atol=1e-7)
    at = np.where(found.top_indices < 0, 0, found.top_indices)
    mine = np.where(found.top_indices < 0, 0, np.take_along_axis(weights, at, -1))
    np.testing.assert_allclose(found.top_weights, mine, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_a_layer(isa: str, num_kv_heads: int) -> None:
    layer, x = make(num_kv_heads), draw(3, 7, 24)
    mask = np.random.default_rng(2).random((7, 7)) < 0.8
    for options in (
        {"is_causal": True},
        {"key_lengths": [7, 3, 0]},
        {"attn_mask": mask},
        {"key": draw(3, 5, 24, seed=3)},
    ):
        output, weights = layer(x, need_weights=True, **options)
        again, found = layer(x, summary=ASKED, **options)
        assert_same_bits(again, output)
        assert_fits(found, weights)
    output, found = layer(x[0], summary={"entropy": True})
    assert_same_bits(output, layer(x[0]))
    assert found.entropy.shape == (4, 7)
    assert found.top_indices is None


def test_an_empty_summary_has_the_log_sum_exp() -> None:
    output, found = make()(draw(2, 5, 24), summary={})
    assert output.shape == (2, 5, 24)
    assert found.lse.shape == (2, 4, 5)


def test_through_a_cache(isa: str) -> None:
    layer, x = make(), draw(3, 21, 24)
    full, weights = layer(x, is_causal=True, need_weights=True)
    cache = KVCache(3, 2, 32, 6)
    for begin, end in ((0, 8), (8, 9), (9, 21)):
        output, found = layer(x[:, begin:end], cache=cache, summary=ASKED)
        assert_same_bits(output, full[:, begin:end])
        assert_fits(found, weights[:, :, begin:end, :end])
    assert cache.lengths.tolist() == [21] * 3


def test_an_error_leaves_the_cache_alone() -> None:
    layer, x = make(), draw(3, 4, 24)
    cache = KVCache(3, 2, 32, 6)
    layer(x, cache=cache)
    for summary in ({"rows": [4]}, {"top_k": -1}):
        with pytest.raises(ValueError, match=next(iter(summary))):
            layer(x, cache=cache, summary=summary)
        assert cache.lengths.tolist() == [4] * 3


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"summary": 3}, TypeError, "summary must be a mapping"),
    ({"summary": True}, TypeError, "summary must be a mapping"),
    ({"summary": {"k": 3}}, ValueError, "summary may have top_k, entropy, received, rows, got 'k'"),
    ({"summary": {"scale": 1.0}}, ValueError, "summary may have"),
    ({"summary": {}, "need_weights": True}, ValueError, "need_weights may not be given"),
    ({"summary": {"top_k": 1.5}}, TypeError, "top_k"),
    ({"summary": {"rows": [9]}}, ValueError, "rows"),
])  # fmt: skip
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()(draw(2, 5, 24), **options)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder: Path = write_model(tmp_path_factory.mktemp("tiny") / "model")
    return TextEncoder.from_pretrained(folder)


def test_every_layer_and_head_of_a_text_encoder(isa: str, encoder: TextEncoder) -> None:
    layers, heads = SIZES["num_hidden_layers"], SIZES["num_attention_heads"]
    together = encoder.attention_summary(TEXTS, **ASKED)
    for text, (tokens, found) in zip(TEXTS, together, strict=True):
        names, weights = encoder.attentions(text)
        assert tokens == names
        assert found.received.shape == (layers, heads, len(tokens))
        assert found.top_indices.shape == (layers, heads, len(tokens), 3)
        assert_fits(found, weights)
        sparse = found.to_csr(layers - 1, heads - 1).toarray()
        kept = sparse > 0
        np.testing.assert_allclose(sparse[kept], weights[-1, -1][kept], rtol=1e-5)
        alone = encoder.attention_summary(text, **ASKED)
        assert alone[0] == tokens
        for x, y in zip(alone[1][:-2], found[:-2], strict=True):
            assert_same_bits(x, y)


def test_options_of_a_text_encoder(encoder: TextEncoder) -> None:
    tokens, found = encoder.attention_summary(TEXTS[0], max_length=5, entropy=True, num_threads=1)
    assert len(tokens) == 5
    assert found.received is None
    assert found.entropy.shape == (2, 4, 5)
    assert encoder.attention_summary([]) == []
    assert encoder.attention_summary(iter(TEXTS[:2]))[1][0][0] == "[CLS]"
    for options, error, message in (
        ({"texts": 3}, TypeError, "texts"),
        ({"texts": ["a", 3]}, TypeError, r"texts\[1\]"),
        ({"texts": "a", "scale": 1.0}, TypeError, "scale"),
        ({"texts": "a", "max_length": 1}, ValueError, "max_length"),
        ({"texts": "a", "rows": [9]}, ValueError, "rows"),
        ({"texts": "a", "top_k": -2}, ValueError, "top_k"),
    ):
        with pytest.raises(error, match=message):
            encoder.attention_summary(**options)


def test_rollout_of_a_text_encoder(encoder: TextEncoder) -> None:
    tokens, weights = encoder.attentions(TEXTS[0])
    flow = attnx.attention_rollout(weights)
    assert flow.shape == (len(tokens), len(tokens))
    np.testing.assert_allclose(flow.sum(-1), np.ones(len(tokens)), rtol=1e-6)
