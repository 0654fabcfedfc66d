"""GRU and LSTM: the oracle on every instruction set, ragged batches bit for bit, PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_same_bits
from test_layers import draw, randomized

import attnx
from attnx import reference
from attnx.layers import GRU, LSTM

LAYERS = (GRU, LSTM)
Recurrent = GRU | LSTM


def flat(state: Any) -> list[np.ndarray]:
    """Return a state as its parts: one of a GRU, two of an LSTM."""
    return list(state) if isinstance(state, tuple) else [state]


def oracle(
    layer: Recurrent,
    weights: dict[str, np.ndarray],
    x: np.ndarray,
    states: list[np.ndarray],
    dtype: Any = np.float64,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """One sequence (L, F) from states (N, H) through all layers and directions, step by step."""
    outputs = x.astype(dtype)
    final = [state.astype(dtype) for state in states]
    for number in range(layer.num_layers):
        sides = []
        for direction in range(2 if layer.bidirectional else 1):
            suffix = f"_l{number}" + ("_reverse" if direction else "")
            own = {n.removesuffix(suffix): a for n, a in weights.items() if n.endswith(suffix)}
            at = number * (2 if layer.bidirectional else 1) + direction
            state, *cell = (part[at] for part in final)
            side = []
            for row in outputs[:: -1 if direction else 1]:
                if cell:
                    state, cell[0] = reference.lstm_step(row, state, cell[0], own)
                else:
                    state = reference.gru_step(row, state, own)
                side.append(state)
            for part, new in zip(final, [state, *cell], strict=True):
                part[at] = new
            sides.append(np.reshape(side, (-1, layer.hidden_size))[:: -1 if direction else 1])
        outputs = np.concatenate(sides, axis=-1)
    return outputs, final


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("hidden", [1, 3, 4, 7, 8, 9, 15, 16, 17, 33, 48, 65])
def test_the_oracle(isa: str, kind: type[Recurrent], hidden: int) -> None:
    layer = kind(5, hidden)
    weights = randomized(layer)
    x = 3 * draw(3, 6, 5)
    states = [draw(1, 3, hidden, seed=s) for s in range(len(flat(layer(x)[1])))]
    given: Any = states[0] if kind is GRU else tuple(states)
    outputs, state = layer(x, given)
    assert outputs.shape == (3, 6, hidden)
    for b in range(3):
        truth, final = oracle(layer, weights, x[b], [s[:, b] for s in states])
        # A wide state adds up more gates: a few roundings of numbers of about one, plus the walk.
        bound = 8 * np.finfo(np.float32).eps * (4 + hidden**0.5)
        np.testing.assert_allclose(outputs[b], truth, rtol=0, atol=bound)
        for part, true_part in zip(flat(state), final, strict=True):
            np.testing.assert_allclose(part[:, b], true_part, rtol=1e-5, atol=bound)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_directions_and_lengths_are_the_oracles(
    kind: type[Recurrent], bidirectional: bool, num_layers: int, bias: bool
) -> None:
    layer = kind(5, 9, num_layers, bias=bias, bidirectional=bidirectional)
    weights = randomized(layer)
    x, lengths = draw(5, 7, 5), [4, 7, 0, 1, 4]
    count = num_layers * (2 if bidirectional else 1)
    states = [draw(count, 5, 9, seed=s) for s in (1, 2)[: 1 if kind is GRU else 2]]
    outputs, state = layer(x, states[0] if kind is GRU else tuple(states), lengths=lengths)
    for b, n in enumerate(lengths):
        truth, final = oracle(layer, weights, x[b, :n], [s[:, b] for s in states])
        np.testing.assert_allclose(outputs[b, :n], truth, rtol=1e-5, atol=2e-6)
        assert not outputs[b, n:].any()
        for part, true_part in zip(flat(state), final, strict=True):
            np.testing.assert_allclose(part[:, b], true_part, rtol=1e-5, atol=2e-6)
    for part, before in zip(flat(state), states, strict=True):
        assert_same_bits(part[:, 2], before[:, 2])  # no steps: the state is as it was


@pytest.mark.parametrize("kind", LAYERS)
def test_the_error_is_about_that_of_plain_float32(isa: str, kind: type[Recurrent]) -> None:
    layer = kind(32, 64)
    weights = randomized(layer)
    x = draw(1, 200, 32)
    states = [np.zeros((1, 64), np.float32)] * (1 if kind is GRU else 2)
    outputs = layer(x)[0][0]
    truth = oracle(layer, weights, x[0], states)[0]
    plain = oracle(layer, weights, x[0], states, np.float32)[0]
    error, plain_error = (np.sqrt(np.mean((y - truth) ** 2)) for y in (outputs, plain))
    assert error <= 2 * plain_error


@pytest.mark.parametrize("kind", LAYERS)
def test_gates_that_are_far_open_or_shut(isa: str, kind: type[Recurrent]) -> None:
    """Sums past any exponential: the gates are 0 or 1, and the state is what it must be."""
    layer = kind(1, 17)
    state = {name: np.zeros_like(array) for name, array in layer.state_dict().items()}
    state["weight_ih_l0"][:] = 1
    layer.load_state_dict(state)
    start = draw(1, 1, 17)
    for size in (1e2, 1e30, np.inf):
        x = np.full((1, 1, 1), size, np.float32)
        if kind is GRU:  # the update gate keeps the state, or gives the candidate -1
            np.testing.assert_allclose(layer(x, start)[1], start, rtol=0, atol=2e-7)
            np.testing.assert_array_equal(layer(-x, start)[1], -np.ones_like(start))
        else:
            _, (h, c) = layer(x, (start, start))
            np.testing.assert_allclose(c, start + 1, rtol=1e-6)
            np.testing.assert_allclose(h, np.tanh(start + 1), rtol=1e-6)
            for part in layer(-x, (start, start))[1]:
                np.testing.assert_array_equal(part, np.zeros_like(start))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_row_is_the_same_in_any_batch(
    isa: str, kind: type[Recurrent], bidirectional: bool
) -> None:
    layer = kind(13, 37, 2, bidirectional=bidirectional)
    randomized(layer)
    x = draw(21, 9, 13)
    lengths = np.arange(21) * 5 % 10
    whole, state = layer(x, lengths=lengths)
    for b, n in enumerate(lengths):
        alone, own = layer(x[b : b + 1, :n])
        assert_same_bits(whole[b, :n], alone[0])
        for part, own_part in zip(flat(state), flat(own), strict=True):
            assert_same_bits(part[:, b], own_part[:, 0])
    with_more = layer(x[:4], lengths=9)[0]
    assert_same_bits(layer(x[:4])[0], with_more)


@pytest.mark.parametrize("kind", LAYERS)
def test_threads_change_no_bit(isa: str, kind: type[Recurrent]) -> None:
    layer = kind(40, 130)
    x = draw(70, 3, 40)
    before = attnx.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        attnx.set_num_threads(threads)
        try:
            results.append(layer(x)[0])
        finally:
            attnx.set_num_threads(before)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_steps_one_by_one_have_the_bits_of_all_at_once(kind: type[Recurrent]) -> None:
    layer = kind(6, 20, 2)
    randomized(layer)
    x = draw(3, 8, 6)
    outputs, final = layer(x)
    state: Any = None
    for t in range(8):
        step, state = layer(x[:, t : t + 1], state)
        assert_same_bits(step[:, 0], outputs[:, t])
    for part, other in zip(flat(state), flat(final), strict=True):
        assert_same_bits(part, other)


@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_past_a_length_has_no_influence(isa: str, kind: type[Recurrent]) -> None:
    layer = kind(4, 11, 2, bidirectional=True)
    x = draw(3, 6, 4)
    clean, state = layer(x, lengths=[2, 6, 0])
    x[0, 2:], x[2] = np.nan, np.inf
    again, again_state = layer(x, lengths=[2, 6, 0])
    assert_same_bits(again, clean)
    for part, other in zip(flat(again_state), flat(state), strict=True):
        assert_same_bits(part, other)
    x[1, 3, 0] = np.nan  # visible: in its own row only
    spoiled, _ = layer(x, lengths=[2, 6, 0])
    assert np.isnan(spoiled[1]).all()  # the next layer runs both ways over it
    assert_same_bits(spoiled[::2], clean[::2])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "shape", [(6, 4), (0, 6, 4), (2, 0, 4), (2, 3, 6, 4), (2, 0, 6, 4), (0, 4)]
)
def test_any_leading_axes_and_empty_ones(kind: type[Recurrent], shape: tuple[int, ...]) -> None:
    layer = kind(4, 5, 2, bidirectional=True)
    x = draw(*shape)
    outputs, state = layer(x)
    assert outputs.shape == (*shape[:-1], 10)
    lengths = np.full(shape[:-2], shape[-2])
    assert_same_bits(layer(x, lengths=lengths)[0], outputs)
    for part in flat(state):
        assert part.shape == (4, *shape[:-2], 5)
    assert_same_bits(layer(x, state)[1][0], layer(x, state, lengths=lengths)[1][0])
    if len(shape) == 4 and outputs.size:
        assert_same_bits(layer(x[1, 2])[0], outputs[1, 2])
        assert_same_bits(flat(layer(x[1, 2])[1])[0], flat(state)[0][:, 1, 2])


@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_are_left_alone_and_may_lie_anyhow(kind: type[Recurrent]) -> None:
    layer = kind(4, 5)
    x, start = draw(3, 6, 4), draw(1, 3, 5)
    given: Any = start if kind is GRU else (start, start)
    outputs, state = layer(x, given)
    before = x.copy(), start.copy()
    x.flags.writeable = start.flags.writeable = False
    again, _ = layer(np.asfortranarray(x), given)
    assert_same_bits(again, outputs)
    assert_same_bits(layer(np.repeat(x, 2, -1)[..., ::2], given)[0], outputs)
    turned: Any = start[:, ::-1] if kind is GRU else (start[:, ::-1], start[:, ::-1])
    assert_same_bits(layer(x[::-1], turned)[0][::-1], outputs)
    assert_same_bits(x, before[0])
    assert_same_bits(start, before[1])
    assert not any(np.shares_memory(part, start) for part in flat(state))


@pytest.mark.torch
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_they_are_torchs(kind: type[Recurrent], bidirectional: bool, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"bias": bias, "bidirectional": bidirectional}
    theirs = getattr(torch.nn, kind.__name__)(6, 21, 2, batch_first=True, **options)
    ours = kind(6, 21, 2, **options)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    x, lengths = draw(4, 9, 6), np.array([9, 2, 7, 2])
    parts = [draw(4 if bidirectional else 2, 4, 21, seed=s) for s in (1, 2)]
    start: Any = parts[0] if kind is GRU else tuple(parts)
    tensors = torch.tensor(start) if kind is GRU else tuple(map(torch.tensor, start))
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(
        torch.tensor(x), torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    with torch.no_grad():
        padded, padded_state = theirs(torch.tensor(x), tensors)
        ragged, ragged_state = theirs(packed, tensors)
    ragged, _ = rnn.pad_packed_sequence(ragged, batch_first=True)
    for (outputs, own), (wanted, wanted_state) in (
        (ours(x, start), (padded, padded_state)),
        (ours(x, start, lengths=lengths), (ragged, ragged_state)),
    ):
        np.testing.assert_allclose(outputs, wanted.numpy(), rtol=1e-5, atol=2e-6)
        for part, wanted_part in zip(flat(own), flat(wanted_state), strict=True):
            np.testing.assert_allclose(part, wanted_part.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("count", [121, 160, 168, 240, 336])
def test_steps_of_fewer_rows_in_both_directions(isa: str, count: int) -> None:
    """A step of `count` rows may want more scratch than one of a row more; each direction has a thread's."""
    layer, before = GRU(8, 64, bidirectional=True), attnx.get_num_threads()
    x = np.random.default_rng(0).standard_normal((count + 1, 2, 8), dtype=np.float32)
    lengths = np.array([2] * count + [1])
    attnx.set_num_threads(2)
    try:
        out, _ = layer(x, lengths=lengths)
    finally:
        attnx.set_num_threads(before)
    for b in (0, count // 2, count):
        alone, _ = layer(x[b : b + 1, : lengths[b]])
        assert_same_bits(out[b, : lengths[b]], alone[0])
