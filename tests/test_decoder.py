"""Decoder layers and stacks: the oracle, torch.nn.Transformer, lengths and masks, wrong arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_same_bits
from test_layers import attend, draw, randomized

import attnx
from attnx import reference
from attnx.layers import (
    LayerNorm,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

State = dict[str, np.ndarray]


def part(state: State, prefix: str) -> State:
    """Return the entries behind a prefix, without it."""
    return {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}


def layer_oracle(
    layer: TransformerDecoderLayer,
    state: State,
    x: np.ndarray,
    memory: np.ndarray,
    own: dict[str, Any] | None = None,
    cross: dict[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One decoder layer in float64, and the weights of the memory; options of both attentions."""

    def norm(number: int, y: np.ndarray) -> np.ndarray:
        values = part(state, f"norm{number}.")
        return reference.layer_norm(y, values["weight"], values.get("bias"), eps=layer.norm1.eps)

    def network(y: np.ndarray) -> np.ndarray:
        one, two = part(state, "linear1."), part(state, "linear2.")
        hidden = reference.linear(y, one["weight"], one.get("bias"), activation=layer.activation)
        return reference.linear(hidden, two["weight"], two.get("bias"))

    weights = []

    def attention(name: str, y: np.ndarray, source: Any, options: Any) -> np.ndarray:
        heads = getattr(layer, name)
        found = attend(heads, part(state, name + "."), [y, source, source], **options or {})
        weights.append(found[1])
        return found[0]

    x, memory = x.astype(np.float64), memory.astype(np.float64)
    steps = (
        lambda y: attention("self_attn", y, y, own),
        lambda y: attention("multihead_attn", y, memory, cross),
        network,
    )
    for number, step in enumerate(steps, 1):
        x = x + step(norm(number, x)) if layer.norm_first else norm(number, x + step(x))
    return x, weights[1]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_the_oracle(isa: str, norm_first: bool, activation: Any, bias: bool) -> None:
    layer = TransformerDecoderLayer(
        24, 4, 40, activation=activation, norm_first=norm_first, bias=bias, layer_norm_eps=1e-3
    )
    state = randomized(layer)
    x, memory = draw(3, 7, 24), draw(3, 5, 24, seed=2)
    mask, seen = draw(3, 4, 7, 7, seed=4), draw(7, 5, seed=5) > -1
    for found, own, cross in (
        (layer(x, memory), {}, {}),
        (layer(x, memory, tgt_is_causal=True), {"is_causal": True}, {}),
        (layer(x, memory, mask, seen), {"attn_mask": mask}, {"attn_mask": seen}),
        (layer(x, memory, memory_lengths=[5, 1, 3]), {}, {"key_lengths": [5, 1, 3]}),
    ):
        truth, _ = layer_oracle(layer, state, x, memory, own, cross)
        np.testing.assert_allclose(found, truth, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_stack_is_its_layers_in_turn(norm_first: bool) -> None:
    layer = TransformerDecoderLayer(16, 2, 32, norm_first=norm_first)
    decoder = TransformerDecoder(layer, 3, LayerNorm(16))
    state = randomized(decoder)
    x, memory = draw(2, 5, 16), draw(2, 4, 16, seed=1)
    options: dict[str, Any] = {"tgt_is_causal": True, "memory_lengths": [4, 2]}
    step, truth = x, []
    for number, one in enumerate(decoder.layers):
        own = part(state, f"layers.{number}.")
        cross = {"key_lengths": [4, 2]}
        truth.append(layer_oracle(one, own, step, memory, {"is_causal": True}, cross)[1])
        step = one(step, memory, **options)
    assert decoder.norm is not None
    found, weights = decoder(x, memory, **options, need_weights=True)
    assert_same_bits(found, decoder.norm(step))
    assert_same_bits(decoder(x, memory, **options), found)
    np.testing.assert_allclose(weights, truth, rtol=1e-4, atol=2e-6)
    assert not weights[:, 1, :, :, 2:].any()


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_row_is_the_same_in_any_batch(isa: str, norm_first: bool) -> None:
    decoder = TransformerDecoder(TransformerDecoderLayer(24, 4, 40, norm_first=norm_first), 2)
    randomized(decoder)
    x, memory = draw(4, 9, 24), draw(4, 6, 24, seed=1)
    lengths, source = [9, 4, 0, 1], [2, 6, 3, 0]
    options: dict[str, Any] = {"tgt_is_causal": True}
    whole = decoder(x, memory, tgt_lengths=lengths, memory_lengths=source, **options)
    for b, (n, s) in enumerate(zip(lengths, source, strict=True)):
        assert_same_bits(whole[b, :n], decoder(x[b, :n], memory[b, :s], **options))
        assert not whole[b, n:].any()
        x[b, n:], memory[b, s:] = np.nan, np.inf
    again = decoder(x, memory, tgt_lengths=lengths, memory_lengths=source, **options)
    assert_same_bits(again, whole)
    everything = np.ones((9, 9), bool), np.ones((9, 6), bool)
    masked = decoder(
        x, memory, *everything, tgt_lengths=lengths, memory_lengths=source, **options
    )  # fmt: skip
    assert_same_bits(masked, whole)


def test_many_rows_go_in_chunks_with_the_same_bits() -> None:
    for norm_first in (False, True):
        layer = TransformerDecoderLayer(16, 2, 32, norm_first=norm_first)
        x, memory = draw(70, 33, 16), draw(70, 3, 16, seed=1)  # 2310 rows: three chunks
        whole = layer(x, memory)
        for b in (0, 31, 32, 62, 69):
            assert_same_bits(layer(x[b], memory[b]), whole[b])


@pytest.mark.parametrize("shape", [(0, 5, 8), (3, 0, 8), (0, 8), (2, 0, 3, 8), (2, 2, 3, 8)])
@pytest.mark.parametrize("length", [4, 0])
def test_any_leading_axes_and_empty_ones(shape: tuple[int, ...], length: int) -> None:
    decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), 2, LayerNorm(8))
    x, memory = draw(*shape), draw(*shape[:-2], length, 8, seed=1)
    lengths = np.full(shape[:-2], shape[-2])
    found, weights = decoder(x, memory, tgt_lengths=lengths, need_weights=True)
    assert found.shape == shape
    assert weights.shape == (2, *shape[:-2], 2, shape[-2], length)
    assert_same_bits(decoder(x, memory), found)


def test_inputs_are_left_alone_and_may_be_read_only() -> None:
    decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16, norm_first=True), 2)
    x, memory = draw(3, 4, 8), draw(3, 5, 8, seed=1)
    before = x.copy(), memory.copy()
    x.flags.writeable = memory.flags.writeable = False
    found = decoder(x, memory)
    assert_same_bits(x, before[0])
    assert_same_bits(memory, before[1])
    assert_same_bits(decoder(np.asfortranarray(x), memory[::-1].copy()[::-1]), found)


def test_names_are_those_of_torch() -> None:
    decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), 2, LayerNorm(8))
    attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    pairs = ["linear1", "linear2", "norm1", "norm2", "norm3"]
    names = [f"{kind}.{name}" for kind in ("self_attn", "multihead_attn") for name in attention]
    names += [f"{name}.{kind}" for name in pairs for kind in ("weight", "bias")]
    names = [f"layers.{number}.{name}" for number in range(2) for name in names]
    assert list(decoder.state_dict()) == [*names, "norm.weight", "norm.bias"]
    state = randomized(decoder)
    x = draw(2, 3, 8)
    before = decoder(x, x)  # packs the weights of the memory apart
    for name, array in decoder.state_dict().items():
        assert_same_bits(array, state[name])
    decoder.load_state_dict(decoder.state_dict())
    assert_same_bits(decoder(x, x), before)
    state["layers.1.norm3.bias"] = np.zeros(7, np.float32)
    with pytest.raises(ValueError, match=r"layers\.1\.norm3\.bias"):
        decoder.load_state_dict(state)
    assert attnx.TransformerDecoder is TransformerDecoder
    assert attnx.TransformerDecoderLayer is TransformerDecoderLayer


def test_a_stack_begins_with_copies() -> None:
    layer = TransformerDecoderLayer(8, 2, 16)
    randomized(layer)
    decoder = TransformerDecoder(layer, 2, LayerNorm(8))
    x = draw(2, 3, 8)
    before = decoder(x, x)
    assert_same_bits(decoder.layers[0](x, x), layer(x, x))
    randomized(layer, seed=5)
    assert_same_bits(decoder(x, x), before)
    decoder.layers[1].load_state_dict(layer.state_dict())
    assert not np.array_equal(decoder(x, x), before)


X = np.zeros((2, 6, 8), np.float32)
ONE = TransformerDecoderLayer(8, 2, 16)
STACK = TransformerDecoder(ONE, 2)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: TransformerDecoderLayer(8, 3), ValueError, "d_model.*nhead"),
    (lambda: TransformerDecoderLayer(8, 2, activation="tanh"), ValueError, "activation.*tanh"),
    (lambda: TransformerDecoder(TransformerEncoderLayer(8, 2), 2), TypeError, "decoder_layer"),
    (lambda: TransformerEncoder(ONE, 2), TypeError, "encoder_layer"),
    (lambda: TransformerDecoder(ONE, 0), ValueError, "num_layers"),
    (lambda: TransformerDecoder(ONE, 1, 3), TypeError, "norm"),
    (lambda: STACK(X), TypeError, "memory must be given"),
    (lambda: STACK(X[..., :7], X), ValueError, "tgt must have shape"),
    (lambda: STACK(X.astype(float), X), TypeError, "tgt must be float32"),
    (lambda: STACK(X, X[..., :7]), ValueError, "memory must have shape"),
    (lambda: STACK(X, X[:1]), ValueError, r"memory.*batch axes.*\(2,\).*\(1,\)"),
    (lambda: STACK(X, X, tgt_lengths=[1, 7]), ValueError, "tgt_lengths.*between 0 and 6"),
    (lambda: STACK(X, X[:, :3], memory_lengths=[1, 4]), ValueError, "memory_lengths.*0 and 3"),
    (lambda: STACK(X, X, memory_lengths=[1.0, 2.0]), TypeError, "memory_lengths"),
    (lambda: STACK(X, X, np.ones((6, 6), int)), TypeError, "mask"),
    (lambda: STACK(X, X[:, :3], None, np.ones((6, 6), bool)), ValueError, "mask"),
])  # fmt: skip
def test_wrong_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.torch
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_whole_transformer_is_torchs(norm_first: bool, activation: Any) -> None:
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"activation": activation, "norm_first": norm_first}
    options_theirs = options | {"batch_first": True}
    theirs_encoder = torch.nn.TransformerEncoder(  # the default one, but for a warning of nested tensors
        torch.nn.TransformerEncoderLayer(48, 4, 96, **options_theirs), 3, torch.nn.LayerNorm(48),
        enable_nested_tensor=False,
    )  # fmt: skip
    theirs = torch.nn.Transformer(
        48, 4, 3, 3, 96, custom_encoder=theirs_encoder, **options_theirs
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():  # fresh norms and biases are ones and zeros
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    encoder = TransformerEncoder(
        TransformerEncoderLayer(48, 4, 96, **options), 3, LayerNorm(48)
    )  # fmt: skip
    decoder = TransformerDecoder(
        TransformerDecoderLayer(48, 4, 96, **options), 3, LayerNorm(48)
    )  # fmt: skip
    assert list(decoder.state_dict()) == list(part(state, "decoder."))
    encoder.load_state_dict(part(state, "encoder."))
    decoder.load_state_dict(part(state, "decoder."))
    src, tgt = draw(3, 9, 48), draw(3, 7, 48, seed=1)
    source, lengths = np.array([9, 4, 1]), np.array([7, 2, 5])
    padding = [torch.tensor(np.arange(n) >= e[:, None]) for n, e in ((9, source), (7, lengths))]
    with torch.no_grad():
        truth = theirs(
            torch.tensor(src), torch.tensor(tgt), tgt_mask=torch.tensor(~np.tri(7, dtype=bool)),
            src_key_padding_mask=padding[0], tgt_key_padding_mask=padding[1],
            memory_key_padding_mask=padding[0],
        ).numpy()  # fmt: skip
    memory = encoder(src, src_lengths=source)
    found = decoder(tgt, memory, tgt_lengths=lengths, memory_lengths=source, tgt_is_causal=True)
    cache = decoder.make_cache(memory, 7, memory_lengths=source)
    steps = [decoder(tgt[:, i : i + 1], cache=cache) for i in range(7)]
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(found[b, :n], truth[b, :n], rtol=0, atol=1e-5)
        assert_same_bits(np.concatenate(steps, axis=1)[b, :n], found[b, :n])
