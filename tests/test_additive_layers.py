"""AdditiveAttention and LuongAttention: the oracle, Keras' and PyTorch's formulas, parameters, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits

import attnx
from attnx import reference, reference_additive
from attnx.layers import AdditiveAttention, LuongAttention
from attnx.layers.module import Module

ANY_LAYER = [
    AdditiveAttention(6, 5, 7),
    AdditiveAttention(6, 5, 7, bias=True),
    LuongAttention(6, 5),
    LuongAttention(6, 6, score="dot"),
    LuongAttention(6, 5, score="concat", units=7),
]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def randomized(layer: Module) -> dict[str, Array]:
    state = {name: draw(*array.shape, seed=9) for name, array in layer.state_dict().items()}
    layer.load_state_dict(state)
    return state


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 50), (4, 1, 9), (2, 40, 33)])
def test_additive_is_the_oracle(isa: str, bias: bool, shape: tuple[int, int, int]) -> None:
    batch, queries, keys = shape
    layer = AdditiveAttention(20, 12, 33, bias=bias)
    state = randomized(layer)
    query, key, value = draw(batch, queries, 20), draw(batch, keys, 12), draw(batch, keys, 9)
    projected = (
        reference.linear(query, state["query_weight"], state.get("bias")),
        reference.linear(key, state["key_weight"]),
    )
    lengths = np.arange(batch) + keys // 2
    for given, values in ((None, key), (value, value)):
        truth = reference_additive.additive_attention(
            *projected, values, state["score_weight"], key_lengths=lengths, return_weights=True
        )
        found = layer(query, key, given, key_lengths=lengths, return_weights=True)
        for x, wanted in zip(found, truth, strict=True):
            np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=5e-5)


def test_keys_projected_once_give_the_same_bits(isa: str) -> None:
    layer = AdditiveAttention(20, 12, 33, bias=True)
    randomized(layer)
    query, key = draw(3, 7, 20), draw(3, 21, 12)
    options = {"key_lengths": [21, 3, 0], "attn_mask": draw(7, 21) > -1}
    expected = layer(query, key, **options)
    memory = layer.project(key)
    assert_same_bits(layer(query, memory, **options), expected)
    assert memory.key is key
    for i in range(7):
        mask = options["attn_mask"][i : i + 1]
        step = layer(query[:, i : i + 1], memory, attn_mask=mask, key_lengths=[21, 3, 0])
        assert_same_bits(step, expected[:, i : i + 1])
    for size in (0.01, 30.0):  # of all numbers, of some queries, of some keys
        for part in ((slice(None), slice(None)), (1, slice(None)), (slice(0), slice(1, 3))):
            query, key = draw(3, 7, 20), draw(3, 21, 12)
            query[part[0]] *= size
            key[part[1]] *= size
            assert_same_bits(layer(query, layer.project(key)), layer(query, key))
    memory, value = layer.project(key), draw(3, 21, 5)
    for rows in (np.array([2, 0]), np.array([False, True, True])):
        assert_same_bits(layer(query[rows], memory.reorder(rows)), layer(query[rows], key[rows]))
    assert_same_bits(layer(query, memory, value), layer(query, key, value))


@pytest.mark.parametrize(
    "layer", ANY_LAYER, ids=lambda x: f"{type(x).__name__} {x.__dict__.get('score')}"
)
def test_state_dict_and_threads(layer: Any) -> None:
    state = randomized(layer)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    query, key = draw(3, 7, layer.query_dim), draw(3, 9, layer.key_dim)
    expected = layer(query, key, num_threads=1)
    assert_same_bits(layer(query, key, num_threads=2), expected)
    for b in range(3):
        assert_same_bits(layer(query[b], key[b]), expected[b])
    key[:, 5:] = np.nan
    hidden = layer(query, key, key_lengths=5)
    assert_same_bits(hidden, layer(query, key[:, :5]))


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_luong_is_the_function(isa: str, score: str) -> None:
    units = 9 if score == "concat" else None
    layer = LuongAttention(8, 8, score=score, units=units)
    state = randomized(layer)
    query, key, value = draw(2, 5, 8), draw(2, 6, 8), draw(2, 6, 3)
    mask = draw(2, 5, 6) > -0.5
    for given, values in ((None, key), (value, value)):
        found = layer(query, key, given, mask, key_lengths=[6, 4], return_weights=True)
        wanted = reference_additive.luong_attention(
            query, key, values, mask, score=score, key_lengths=[6, 4], return_weights=True, **state
        )
        for x, truth in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, truth, rtol=1e-4, atol=1e-4)


def test_shapes_of_the_parameters() -> None:
    shapes = [{n: a.shape for n, a in layer.state_dict().items()} for layer in ANY_LAYER]
    additive = {"query_weight": (7, 6), "key_weight": (7, 5), "score_weight": (7,)}
    assert shapes[0] == additive
    assert shapes[1] == additive | {"bias": (7,)}
    assert shapes[2] == {"weight": (6, 5)}
    assert shapes[3] == {}
    assert shapes[4] == {"weight": (7, 11), "score_weight": (7,)}
    assert attnx.AdditiveAttention is AdditiveAttention
    assert attnx.LuongAttention is LuongAttention


def test_keras_formula() -> None:
    """keras.layers.AdditiveAttention: sum(scale * tanh(q[:, :, None] + k[:, None])), [query, value, key]."""
    query, key, value, scale = draw(2, 5, 7), draw(2, 6, 7), draw(2, 6, 4), draw(7)
    mask = draw(2, 1, 6) > -0.5  # its mask of values: (batch, Tv)
    scores = np.sum(scale * np.tanh(query[:, :, None] + key[:, None]), axis=-1, dtype=np.float64)
    scores -= 1e9 * ~mask  # what it does in float32
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out, found = attnx.additive_attention(query, key, value, scale, mask, return_weights=True)
    np.testing.assert_allclose(found, weights, atol=1e-6)
    np.testing.assert_allclose(out, weights @ value, atol=2e-6)


@pytest.mark.torch
def test_pytorch_formula() -> None:
    """The module that PyTorch's own tutorial of translation writes by hand."""
    torch = pytest.importorskip("torch")
    wa, ua, va = torch.nn.Linear(6, 7), torch.nn.Linear(5, 7), torch.nn.Linear(7, 1)
    query, keys = torch.randn(3, 1, 6), torch.randn(3, 8, 5)
    with torch.no_grad():
        scores = va(torch.tanh(wa(query) + ua(keys))).squeeze(2).unsqueeze(1)
        weights = torch.softmax(scores, dim=-1)
        context = torch.bmm(weights, keys)
    layer = AdditiveAttention(6, 5, 7, bias=True)
    layer.load_state_dict(
        {
            "query_weight": wa.weight.detach().numpy(),
            "key_weight": ua.weight.detach().numpy(),
            "score_weight": va.weight.detach().numpy()[0],
            "bias": (wa.bias + ua.bias).detach().numpy(),  # and va's, which softmax does not see
        }
    )
    out, found = layer(query.numpy(), keys.numpy(), return_weights=True)
    np.testing.assert_allclose(found, weights.numpy(), atol=1e-6)
    np.testing.assert_allclose(out, context.numpy(), atol=2e-6)


X = draw(2, 3, 6)
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: AdditiveAttention(0, 5, 7), ValueError, "query_dim"),
    (lambda: AdditiveAttention(6, 5.0, 7), TypeError, "key_dim"),
    (lambda: AdditiveAttention(6, 5, True), TypeError, "units"),
    (lambda: LuongAttention(6, 5, score="dot"), ValueError, 'key_dim must be 6.*"dot", got 5'),
    (lambda: LuongAttention(6, 5, score="cos"), ValueError, "score must be one of.*'cos'"),
    (lambda: LuongAttention(6, 5, score="concat"), TypeError, "units must be given"),
    (lambda: LuongAttention(6, 5, units=7), TypeError, "units must be given"),
    (lambda: ANY_LAYER[0](X[..., :5], X[..., :5]), ValueError, r"query.*6.*\(2, 3, 5\)"),
    (lambda: ANY_LAYER[0](X, X), ValueError, r"key.*5.*\(2, 3, 6\)"),
    (lambda: ANY_LAYER[0](X.astype(float), X[..., :5]), TypeError, "query must be float32"),
    (lambda: ANY_LAYER[0](X[0, 0], X[..., :5]), ValueError, "query"),
    (lambda: ANY_LAYER[0](X, X[..., :5], X[:, :2]), ValueError, "value must have the 3 rows"),
    (
        lambda: ANY_LAYER[0](X, AdditiveAttention(6, 5, 8).project(X[..., :5])),
        ValueError,
        "key must be projected to 7 units, got 8",
    ),
    (lambda: ANY_LAYER[0].project(X), ValueError, "key"),
    (lambda: ANY_LAYER[2](X, X), ValueError, r"key.*5.*\(2, 3, 6\)"),
    (
        lambda: ANY_LAYER[2].load_state_dict({"weight": np.zeros((5, 6))}),
        ValueError,
        r"'weight' must have shape \(6, 5\)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
