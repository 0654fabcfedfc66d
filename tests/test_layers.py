"""Linear, LayerNorm and MultiHeadAttention against the oracle, and their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnx
from attnx import reference
from attnx.layers import LayerNorm, Linear, MultiHeadAttention
from attnx.layers.module import Module

ANY_LAYER = [
    Linear(5, 3),
    Linear(5, 3, bias=False),
    LayerNorm(6),
    LayerNorm(6, bias=False),
    LayerNorm(6, elementwise_affine=False),
    MultiHeadAttention(8, 2),
    MultiHeadAttention(8, 2, bias=False),
    MultiHeadAttention(8, 4, num_kv_heads=2),
    MultiHeadAttention(8, 2, kdim=5, vdim=3),
]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def randomized(layer: Module, seed: int = 1) -> dict[str, np.ndarray]:
    """Load random parameters into a layer and return them."""
    rng = np.random.default_rng(seed)
    state = {
        name: (rng.standard_normal(array.shape) / 3).astype(np.float32)
        for name, array in layer.state_dict().items()
    }
    layer.load_state_dict(state)
    return state


def attend(
    layer: MultiHeadAttention, state: dict[str, np.ndarray], inputs: list[Any], **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Multi-head attention from the oracle's parts: output and weights in float64."""
    heads, keys, d = layer.num_heads, layer.num_kv_heads, layer.head_dim
    rows = [heads * d, keys * d, keys * d]
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    if "in_proj_weight" in state:
        weights = np.split(state["in_proj_weight"], 3)
    else:
        weights = [state[name] for name in names]
    bias = state.get("in_proj_bias", np.zeros(sum(rows)))
    parts = []
    for x, w, b in zip(inputs, weights, np.split(bias, np.cumsum(rows)[:-1]), strict=True):
        parts.append(reference.linear(x, w, b).reshape(*x.shape[:-1], -1, d))
    out = reference.scaled_dot_product_attention(*parts, layout="blhd", **options)
    out = reference.linear(
        out.reshape(*out.shape[:-2], -1), state["out_proj.weight"], state.get("out_proj.bias")
    )
    return out, reference.attention_weights(*parts[:2], layout="blhd", **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (0, 7), (3, 7), (2, 0, 7), (2, 3, 7)])
def test_linear_is_the_oracle(bias: bool, shape: tuple[int, ...]) -> None:
    layer = Linear(7, 18, bias=bias)
    state = randomized(layer)
    x = draw(*shape)
    truth = reference.linear(x, state["weight"], state.get("bias"))
    np.testing.assert_allclose(layer(x), truth, rtol=1e-5, atol=1e-6)


def test_layer_norm_is_the_oracle() -> None:
    x = draw(2, 3, 17) * 3 + 1
    for layer in (LayerNorm(17, 1e-3), LayerNorm([17], bias=False), LayerNorm((17,), 0.1, False)):
        state = randomized(layer)
        truth = reference.layer_norm(x, state.get("weight"), state.get("bias"), eps=layer.eps)
        np.testing.assert_allclose(layer(x), truth, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["self", "memory", "memory and value", "self by name"])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention_is_the_oracle(isa: str, kind: str, num_kv_heads: int, bias: bool):
    layer = MultiHeadAttention(24, 4, num_kv_heads=num_kv_heads, bias=bias)
    state = randomized(layer)
    query, memory, other = draw(3, 9, 24), draw(3, 5, 24, seed=2), draw(3, 5, 24, seed=3)
    given, inputs = {
        "self": ((query,), [query] * 3),
        "self by name": ((query, query), [query] * 3),
        "memory": ((query, memory), [query, memory, memory]),
        "memory and value": ((query, memory, other), [query, memory, other]),
    }[kind]
    truth, truth_weights = attend(layer, state, inputs)
    output, weights = layer(*given, need_weights=True)
    np.testing.assert_allclose(output, truth, rtol=2e-5, atol=5e-6)
    np.testing.assert_allclose(weights, truth_weights, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(output, layer(*given))


@pytest.mark.parametrize(("kdim", "vdim"), [(5, 5), (5, 3), (8, 3), (None, 3)])
def test_other_key_and_value_sizes(kdim: int | None, vdim: int) -> None:
    layer = MultiHeadAttention(8, 2, kdim=kdim, vdim=vdim)
    state = randomized(layer)
    assert state["k_proj_weight"].shape == (8, kdim or 8)
    query, key, value = draw(2, 4, 8), draw(2, 6, kdim or 8, seed=1), draw(2, 6, vdim, seed=2)
    truth, _ = attend(layer, state, [query, key, value])
    np.testing.assert_allclose(layer(query, key, value), truth, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("options", [
    {"is_causal": True},
    {"key_lengths": [4, 0, 6]},
    {"attn_mask": np.tri(6, dtype=bool)[::-1]},
    {"attn_mask": draw(3, 1, 6, 6, seed=7)},
    {"attn_mask": draw(4, 6, 6, seed=7) > 0, "is_causal": True, "key_lengths": [6, 5, 1]},
])  # fmt: skip
def test_options_mean_what_they_mean_everywhere(options: dict[str, Any]) -> None:
    layer = MultiHeadAttention(16, 4)
    state = randomized(layer)
    x = draw(3, 6, 16)
    truth, truth_weights = attend(layer, state, [x, x, x], **options)
    output, weights = layer(x, need_weights=True, **options)
    np.testing.assert_allclose(output, truth, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(weights, truth_weights, rtol=1e-5, atol=1e-6)


def test_dividing_the_weights_changes_no_bit() -> None:
    layer = MultiHeadAttention(24, 4)
    state = randomized(layer)
    x, memory = draw(3, 9, 24), draw(3, 5, 24, seed=2)
    before = layer(x)
    crossed = layer(x, memory)
    np.testing.assert_array_equal(layer(x), before)
    np.testing.assert_array_equal(layer(x, memory, memory.copy()), crossed)
    np.testing.assert_array_equal(layer(x), before)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_rows_past_a_length_have_no_influence() -> None:
    layer = MultiHeadAttention(16, 2)
    x, memory = draw(2, 4, 16), draw(2, 6, 16, seed=1)
    clean = layer(x, memory, key_lengths=[3, 5])
    memory[0, 3:], memory[1, 5:] = np.nan, np.inf
    np.testing.assert_array_equal(layer(x, memory, key_lengths=[3, 5]), clean)


def test_a_row_is_the_same_in_any_batch_and_with_any_threads() -> None:
    layer = MultiHeadAttention(64, 4)
    x = draw(5, 37, 64)
    whole = layer(x, num_threads=2)
    np.testing.assert_array_equal(layer(x, num_threads=1), whole)
    for b in range(5):
        np.testing.assert_array_equal(layer(x[b : b + 1])[0], whole[b])
        np.testing.assert_array_equal(layer(x[b]), whole[b])


def test_names_and_shapes_are_those_of_torch() -> None:
    def shapes(layer: Module) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in layer.state_dict().items()}

    assert shapes(Linear(5, 3)) == {"weight": (3, 5), "bias": (3,)}
    assert shapes(LayerNorm(6)) == {"weight": (6,), "bias": (6,)}
    assert shapes(MultiHeadAttention(8, 2)) == {
        "in_proj_weight": (24, 8), "in_proj_bias": (24,),
        "out_proj.weight": (8, 8), "out_proj.bias": (8,),
    }  # fmt: skip
    assert shapes(MultiHeadAttention(8, 4, num_kv_heads=2, kdim=5)) == {
        "q_proj_weight": (8, 8), "k_proj_weight": (4, 5), "v_proj_weight": (4, 8),
        "in_proj_bias": (16,), "out_proj.weight": (8, 8), "out_proj.bias": (8,),
    }  # fmt: skip


@pytest.mark.parametrize("layer", ANY_LAYER, ids=lambda layer: type(layer).__name__)
def test_state_dict_round_trip(layer: Module) -> None:
    state = randomized(layer)
    returned = layer.state_dict()
    assert list(returned) == list(state)
    for name, array in returned.items():
        np.testing.assert_array_equal(array, state[name])
        array[...] = 7  # a copy: the layer does not notice
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "bfloat16"])
def test_any_float_loads(dtype: str) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    weight = np.array([[1.5, -2.0]], dtype)
    layer = Linear(2, 1, bias=False)
    layer.load_state_dict({"weight": weight})
    np.testing.assert_array_equal(layer.state_dict()["weight"], [[1.5, -2.0]])
    assert layer.state_dict()["weight"].dtype == np.float32


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"out_proj.bias": None}, ValueError, "'out_proj.bias' is missing"),
    ({"extra": np.zeros(1)}, ValueError, "'extra' is not one"),
    ({"in_proj_bias": np.zeros(23)}, ValueError, r"'in_proj_bias' must have shape \(24,\).*23"),
    ({"in_proj_weight": np.zeros((8, 24))}, ValueError, r"'in_proj_weight'.*\(24, 8\).*\(8, 24\)"),
    ({"in_proj_weight": np.zeros((24, 8), int)}, TypeError, "'in_proj_weight'.*int64"),
    ({"out_proj.bias": np.zeros(8, complex)}, TypeError, "'out_proj.bias'.*complex"),
])  # fmt: skip
def test_wrong_entries_are_named_and_change_nothing(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    layer = MultiHeadAttention(8, 2)
    before = layer.state_dict()
    state = {name: array + 1 for name, array in before.items()} | change
    with pytest.raises(error, match=message):
        layer.load_state_dict({name: a for name, a in state.items() if a is not None})
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_failing_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MultiHeadAttention(8, 2)
    before = layer.state_dict()

    def no_memory(weight: np.ndarray) -> None:
        raise MemoryError

    # out_proj comes after the input weights, which are packed by then.
    monkeypatch.setattr("attnx.layers.linear.pack_weight", no_memory)
    with pytest.raises(MemoryError):
        layer.load_state_dict({name: array + 1 for name, array in before.items()})
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_not_a_mapping() -> None:
    with pytest.raises(TypeError, match="mapping"):
        Linear(2, 2).load_state_dict([("weight", np.zeros((2, 2)))])  # type: ignore[arg-type]


def test_fresh_layers_work_and_are_alike() -> None:
    x = draw(2, 3, 8)
    first, second = MultiHeadAttention(8, 2)(x), MultiHeadAttention(8, 2)(x)
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
    assert first.std() > 0.01
    assert abs(Linear(100, 50).state_dict()["weight"]).max() <= 0.1
    assert attnx.Linear is Linear


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: Linear(0, 3), ValueError, "in_features"),
    (lambda: Linear(3, 2.5), TypeError, "out_features"),
    (lambda: LayerNorm((2, 3)), ValueError, "normalized_shape"),
    (lambda: LayerNorm(3, float("nan")), ValueError, "eps"),
    (lambda: MultiHeadAttention(10, 3), ValueError, "embed_dim.*num_heads"),
    (lambda: MultiHeadAttention(12, 4, num_kv_heads=3), ValueError, "num_kv_heads"),
    (lambda: MultiHeadAttention(12, True), TypeError, "num_heads"),
])  # fmt: skip
def test_wrong_sizes(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("inputs", "error", "message"), [
    ((np.zeros((2, 3, 7), np.float32),), ValueError, r"query.*8.*\(2, 3, 7\)"),
    ((np.zeros(8, np.float32),), ValueError, "query"),
    ((np.zeros((3, 8)),), TypeError, "query must be float32.*float64"),
    ((np.zeros((3, 8), np.int32),), TypeError, "query"),
    ((np.ma.zeros((3, 8), np.float32),), TypeError, "query must be a plain array"),
    ((np.zeros((3, 8), np.float32), np.zeros((3, 6), np.float32)), ValueError, "key"),
    ((np.zeros((3, 8), np.float32), None, np.zeros((3, 8), np.float32)), ValueError, "value"),
    ((*[np.zeros((3, 8), np.float32)] * 2, np.zeros((3, 5), np.float32)), ValueError, "value"),
])  # fmt: skip
def test_wrong_inputs(inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MultiHeadAttention(8, 2)(*inputs)


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 7}, {"bias": False}])
def test_multi_head_attention_is_torchs(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.MultiheadAttention(24, 4, batch_first=True, **options).eval()
    ours = MultiHeadAttention(24, 4, **options)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    key, value = draw(3, 6, options.get("kdim", 24)), draw(3, 6, options.get("vdim", 24), seed=1)
    query, seen = draw(3, 9, 24, seed=2), draw(9, 6, seed=3) > -0.5
    lengths = np.array([6, 4, 1])
    seen[:, 0] = True  # PyTorch gives NaN where nothing is seen
    with torch.no_grad():
        truth, truth_weights = theirs(
            *map(torch.tensor, (query, key, value)), attn_mask=torch.tensor(~seen),
            key_padding_mask=torch.tensor(np.arange(6) >= lengths[:, None]),
            average_attn_weights=False,
        )  # fmt: skip
    output, weights = ours(query, key, value, seen, key_lengths=lengths, need_weights=True)
    np.testing.assert_allclose(output, truth.numpy(), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(weights, truth_weights.numpy(), rtol=1e-5, atol=1e-6)
