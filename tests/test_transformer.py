"""Encoder layers and stacks: the oracle, packed against padded, PyTorch, wrong arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_layers import attend, draw, randomized

from attnx import reference
from attnx.layers import LayerNorm, TransformerEncoder, TransformerEncoderLayer


def layer_oracle(
    layer: TransformerEncoderLayer, state: dict[str, np.ndarray], x: np.ndarray, **options: Any
) -> np.ndarray:
    """One encoder layer in float64."""

    def part(name: str) -> dict[str, np.ndarray]:
        start = name + "."
        return {n.removeprefix(start): a for n, a in state.items() if n.startswith(start)}

    def norm(name: str, y: np.ndarray) -> np.ndarray:
        values = part(name)
        return reference.layer_norm(y, values["weight"], values.get("bias"), eps=layer.norm1.eps)

    def network(y: np.ndarray) -> np.ndarray:
        one, two = part("linear1"), part("linear2")
        hidden = reference.linear(y, one["weight"], one.get("bias"), activation=layer.activation)
        return reference.linear(hidden, two["weight"], two.get("bias"))

    def attention(y: np.ndarray) -> np.ndarray:
        return attend(layer.self_attn, part("self_attn"), [y, y, y], **options)[0]

    x = x.astype(np.float64)
    if layer.norm_first:
        x = x + attention(norm("norm1", x))
        return x + network(norm("norm2", x))
    x = norm("norm1", x + attention(x))
    return norm("norm2", x + network(x))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_the_oracle(isa: str, norm_first: bool, activation: Any, bias: bool) -> None:
    layer = TransformerEncoderLayer(
        24, 4, 40, activation=activation, norm_first=norm_first, bias=bias, layer_norm_eps=1e-3
    )
    state = randomized(layer)
    x = draw(3, 7, 24)
    np.testing.assert_allclose(layer(x), layer_oracle(layer, state, x), rtol=2e-5, atol=1e-5)
    causal = layer_oracle(layer, state, x, is_causal=True)
    np.testing.assert_allclose(layer(x, is_causal=True), causal, rtol=2e-5, atol=1e-5)
    mask = draw(3, 4, 7, 7, seed=4)
    masked = layer_oracle(layer, state, x, attn_mask=mask)
    np.testing.assert_allclose(layer(x, mask), masked, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [None, LayerNorm(16)])
@pytest.mark.parametrize("norm_first", [False, True])
def test_stack_is_its_layers_in_turn(norm: LayerNorm | None, norm_first: bool) -> None:
    layer = TransformerEncoderLayer(16, 2, 32, norm_first=norm_first)
    encoder = TransformerEncoder(layer, 3, norm)
    randomized(encoder)
    x = draw(2, 5, 16)
    step = x
    for part in encoder.layers:
        step = part(step)
    if encoder.norm is not None:
        step = encoder.norm(step)
    np.testing.assert_array_equal(encoder(x), step)


def test_a_stack_begins_with_copies() -> None:
    layer = TransformerEncoderLayer(8, 2, 16)
    randomized(layer)
    encoder = TransformerEncoder(layer, 2, LayerNorm(8))
    x = draw(2, 3, 8)
    before = encoder(x)
    np.testing.assert_array_equal(encoder.layers[0](x), layer(x))
    state = encoder.layers[0].state_dict()
    randomized(layer, seed=5)
    encoder.layers[1].load_state_dict(layer.state_dict())
    for name, array in encoder.layers[0].state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    assert not np.array_equal(encoder(x), before)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("lengths", [[9, 4, 0, 1], [9, 9, 9, 9], [0, 0, 0, 0], 3])
def test_packing_changes_no_bit(norm_first: bool, lengths: Any) -> None:
    encoder = TransformerEncoder(
        TransformerEncoderLayer(24, 4, 40, norm_first=norm_first), 2, LayerNorm(24)
    )
    randomized(encoder)
    x = draw(4, 9, 24)
    packed = encoder(x, src_lengths=lengths)
    masked = encoder(x, np.ones((9, 9), bool), src_lengths=lengths)
    np.testing.assert_array_equal(packed, masked)
    for b, n in enumerate(np.broadcast_to(lengths, 4)):
        np.testing.assert_array_equal(packed[b, :n], encoder(x[b, :n]))
        assert not packed[b, n:].any()


@pytest.mark.parametrize("mask", [None, np.ones((6, 6), bool)])
def test_what_is_past_a_length_is_invisible(mask: np.ndarray | None) -> None:
    encoder = TransformerEncoder(TransformerEncoderLayer(16, 2, 32), 2)
    x = draw(2, 6, 16)
    clean = encoder(x, mask, src_lengths=[4, 2])
    x[0, 4:], x[1, 2:] = np.nan, np.inf
    np.testing.assert_array_equal(encoder(x, mask, src_lengths=[4, 2]), clean)


def test_many_rows_go_in_chunks_with_the_same_bits() -> None:
    layer = TransformerEncoderLayer(16, 2, 32, activation="gelu")
    x = draw(70, 33, 16)  # 2310 rows, more than two chunks of the feed-forward part
    whole = layer(x)
    for b in (0, 31, 32, 62, 69):
        np.testing.assert_array_equal(layer(x[b]), whole[b])


@pytest.mark.parametrize("shape", [(0, 5, 8), (3, 0, 8), (0, 8), (2, 0, 3, 8), (2, 2, 3, 8)])
def test_any_leading_axes_and_empty_ones(shape: tuple[int, ...]) -> None:
    encoder = TransformerEncoder(TransformerEncoderLayer(8, 2, 16), 2, LayerNorm(8))
    x = draw(*shape)
    lengths = np.full(shape[:-2], shape[-2])
    for options in ({}, {"src_lengths": lengths}, {"mask": np.ones((shape[-2],) * 2, bool)}):
        assert encoder(x, **options).shape == shape


def test_the_input_is_left_alone_and_may_be_read_only() -> None:
    encoder = TransformerEncoder(TransformerEncoderLayer(8, 2, 16), 2)
    x = draw(3, 4, 8)
    before = x.copy()
    x.flags.writeable = False
    result = encoder(x)
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(result, encoder(x))
    strided = np.asfortranarray(x)
    np.testing.assert_array_equal(encoder(strided), result)


def test_names_are_those_of_torch() -> None:
    encoder = TransformerEncoder(TransformerEncoderLayer(8, 2, 16), 2, LayerNorm(8))
    part = [
        "self_attn.in_proj_weight", "self_attn.in_proj_bias", "self_attn.out_proj.weight",
        "self_attn.out_proj.bias", "linear1.weight", "linear1.bias", "linear2.weight",
        "linear2.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
    ]  # fmt: skip
    names = [f"layers.{n}.{name}" for n in range(2) for name in part]
    assert list(encoder.state_dict()) == [*names, "norm.weight", "norm.bias"]
    state = randomized(encoder)
    for name, array in encoder.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    state["layers.1.linear1.bias"] = np.zeros(15, np.float32)
    with pytest.raises(ValueError, match=r"layers\.1\.linear1\.bias"):
        encoder.load_state_dict(state)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"src_lengths": [1, 7]}, ValueError, "src_lengths.*between 0 and 6"),
    ({"src_lengths": [-1, 2]}, ValueError, "src_lengths"),
    ({"src_lengths": [1, 2, 3]}, ValueError, r"src_lengths.*\(2,\).*\(3,\)"),
    ({"src_lengths": [1.0, 2.0]}, TypeError, "src_lengths.*integers"),
    ({"src_lengths": [True, False]}, TypeError, "src_lengths"),
    ({"src_mask": np.ones((6, 6), int)}, TypeError, "mask"),
    ({"src_mask": np.ones((5, 6), bool)}, ValueError, "mask"),
])  # fmt: skip
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    layer = TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(error, match=message):
        layer(draw(2, 6, 8), **options)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: TransformerEncoderLayer(8, 3), ValueError, "d_model.*nhead"),
    (lambda: TransformerEncoderLayer(8, 2, activation="tanh"), ValueError, "activation.*tanh"),
    (lambda: TransformerEncoder(LayerNorm(8), 2), TypeError, "encoder_layer"),
    (lambda: TransformerEncoder(TransformerEncoderLayer(8, 2), 0), ValueError, "num_layers"),
    (lambda: TransformerEncoder(TransformerEncoderLayer(8, 2), 1, 3), TypeError, "norm"),
    (lambda: TransformerEncoderLayer(8, 2)(draw(2, 3, 9)), ValueError, "src"),
    (lambda: TransformerEncoderLayer(8, 2)(np.zeros((2, 8))), TypeError, "src.*float64"),
])  # fmt: skip
def test_wrong_arguments(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.torch
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_is_torchs(norm_first: bool, activation: Any) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(
            24, 4, 48, activation=activation, norm_first=norm_first, batch_first=True
        ),
        3,
        norm=torch.nn.LayerNorm(24),
        enable_nested_tensor=False,
    ).eval()
    layer = TransformerEncoderLayer(24, 4, 48, activation=activation, norm_first=norm_first)
    ours = TransformerEncoder(layer, 3, LayerNorm(24))
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    x, seen, lengths = draw(3, 7, 24), np.tri(7, dtype=bool), np.array([7, 4, 1])
    padding = torch.tensor(np.arange(7) >= lengths[:, None])
    with torch.no_grad():
        masked = theirs(torch.tensor(x), mask=torch.tensor(~seen)).numpy()
        padded = theirs(torch.tensor(x), src_key_padding_mask=padding).numpy()
    np.testing.assert_allclose(ours(x, seen), masked, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(ours(x, is_causal=True), masked, rtol=1e-5, atol=5e-6)
    result = ours(x, src_lengths=lengths)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(result[b, :n], padded[b, :n], rtol=1e-5, atol=5e-6)
