"""attention_rollout and value_norm_weights against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import HALVES, Array
from numpy.typing import DTypeLike

import attnx
from attnx import reference_summary


def draw_weights(*shape: int, dtype: DTypeLike = np.float32) -> Array:
    x = np.random.default_rng(0).random(shape)
    return np.asarray(x / x.sum(-1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 5, 5), (6, 12, 20, 20)])
def test_rollout(dtype: DTypeLike, shape: tuple[int, ...], residual: float) -> None:
    weights = draw_weights(*shape, dtype=dtype)
    flow = attnx.attention_rollout(weights, residual=residual)
    truth = reference_summary.attention_rollout(weights, residual=residual)
    assert flow.dtype == dtype
    np.testing.assert_allclose(flow, truth, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(flow.sum(-1), np.ones(shape[-1]), rtol=8 * np.finfo(dtype).eps)
    if residual == 1:
        np.testing.assert_array_equal(flow, np.eye(shape[-1]))


def test_rollout_of_batches_lists_and_halves() -> None:
    weights = draw_weights(4, 3, 2, 7, 7)
    flow = attnx.attention_rollout(weights)
    for b in range(3):
        alone = attnx.attention_rollout([layer[b] for layer in weights])
        np.testing.assert_allclose(flow[b], alone, rtol=1e-6)
    for half in HALVES:
        assert attnx.attention_rollout(weights.astype(half)).dtype == half


def test_rollout_of_a_causal_model_looks_back_only() -> None:
    x = np.random.default_rng(0).standard_normal((5, 2, 9, 4)).astype(np.float32)
    weights = [attnx.attention_weights(q, q, is_causal=True) for q in x]
    flow = attnx.attention_rollout(weights)
    assert not np.triu(flow, 1).any()


@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_rollout_of_a_token_that_attends_to_nothing(residual: float) -> None:
    weights = draw_weights(3, 2, 4, 4)
    weights[:, :, 2] = 0
    flow = attnx.attention_rollout(weights, residual=residual)
    np.testing.assert_array_equal(flow[2], [0, 0, 1, 0])
    np.testing.assert_allclose(flow.sum(-1), np.ones(4), rtol=1e-6)


def test_value_norms(dtype: DTypeLike) -> None:
    rng = np.random.default_rng(1)
    weights = draw_weights(4, 5, 6, dtype=dtype)
    value, out = rng.standard_normal((2, 6, 3)), rng.standard_normal((7, 12))
    sized = attnx.value_norm_weights(weights, value, out)
    assert sized.dtype == dtype
    truth = reference_summary.value_norm_weights(weights, value, out)
    np.testing.assert_allclose(sized, truth, rtol=8 * np.finfo(dtype).eps)
    plain = attnx.value_norm_weights(weights, value)
    norms = np.linalg.norm(value, axis=-1).repeat(2, 0)[:, None]
    np.testing.assert_allclose(plain, weights * norms, rtol=8 * np.finfo(dtype).eps)
    batch = attnx.value_norm_weights(np.stack([weights, weights]), value, out)
    np.testing.assert_array_equal(batch, [sized, sized])


def test_value_norms_of_a_layer() -> None:
    """What a layer adds to its output is the sum of the vectors whose norms these are."""
    layer = attnx.MultiHeadAttention(8, 1)
    x = np.random.default_rng(2).standard_normal((1, 8)).astype(np.float32)
    state = layer.state_dict()
    value = x @ state["in_proj_weight"][16:].T + state["in_proj_bias"][16:]
    output, weights = layer(x, need_weights=True)
    sized = attnx.value_norm_weights(weights, value[None], state["out_proj.weight"])
    np.testing.assert_allclose(
        sized[0, 0, 0], np.linalg.norm(output - state["out_proj.bias"]), rtol=1e-5
    )


def test_what_has_no_weight_has_no_size() -> None:
    weights, value = np.array([[[1.0, 0.0]]]), np.array([[[3.0, 4.0], [np.nan, np.inf]]])
    np.testing.assert_array_equal(attnx.value_norm_weights(weights, value), [[[5, 0]]])


W, V = draw_weights(2, 3, 4, 4), np.ones((3, 4, 5), np.float32)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: attnx.attention_rollout(W[0]), ValueError, "weights must have shape"),
    (lambda: attnx.attention_rollout(W[..., :3]), ValueError, "weights must have shape"),
    (lambda: attnx.attention_rollout(W[:0]), ValueError, "weights must have a layer"),
    (lambda: attnx.attention_rollout(W[:, :0]), ValueError, "weights must have a layer"),
    (lambda: attnx.attention_rollout(W > 0), TypeError, "weights"),
    (lambda: attnx.attention_rollout(W, residual=1.5), ValueError, "residual"),
    (lambda: attnx.attention_rollout(W, residual="half"), TypeError, "residual"),
    (lambda: attnx.value_norm_weights(W[0, 0], V), ValueError, "weights must have shape"),
    (lambda: attnx.value_norm_weights(W, V[0]), ValueError, "value must have shape"),
    (lambda: attnx.value_norm_weights(W, V[:, :3]), ValueError, "value must have shape"),
    (lambda: attnx.value_norm_weights(W, V[:2]), ValueError, "value must have a number of heads"),
    (lambda: attnx.value_norm_weights(W, V[:0]), ValueError, "value must have a number of heads"),
    (lambda: attnx.value_norm_weights(W, np.stack([V] * 3)), ValueError, "value must have batch"),
    (lambda: attnx.value_norm_weights(W, V.astype(int)), TypeError, "value"),
    (lambda: attnx.value_norm_weights(W, V, np.ones((5, 14))), ValueError, r"out_weight.*\(M, 15\)"),
    (lambda: attnx.value_norm_weights(W, V, "none"), TypeError, "out_weight"),
])  # fmt: skip
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
