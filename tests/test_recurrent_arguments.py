"""GRU and LSTM: the names of their parameters, and wrong arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_same_bits
from test_layers import randomized

import attnx
from attnx.layers import GRU, LSTM


def test_names_are_those_of_torch() -> None:
    layer = GRU(5, 4, 2, bidirectional=True)
    shapes = {name: array.shape for name, array in layer.state_dict().items()}
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ends = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    assert list(shapes) == [part + end for end in ends for part in parts]
    assert shapes["weight_ih_l0_reverse"] == (12, 5)
    assert shapes["weight_ih_l1"] == (12, 8)
    assert shapes["weight_hh_l1_reverse"] == (12, 4)
    assert shapes["bias_hh_l1"] == (12,)
    assert list(LSTM(5, 4, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    assert LSTM(5, 4).state_dict()["weight_hh_l0"].shape == (16, 4)
    assert attnx.GRU is GRU
    assert attnx.LSTM is LSTM
    state = randomized(layer)
    for name, array in layer.state_dict().items():
        assert_same_bits(array, state[name])
    state["bias_hh_l1"] = np.zeros(11)
    with pytest.raises(ValueError, match=r"'bias_hh_l1'.*\(12,\).*\(11,\)"):
        layer.load_state_dict(state)


X = np.zeros((2, 6, 4), np.float32)
STATE = np.zeros((1, 2, 5), np.float32)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: GRU(0, 3), ValueError, "input_size"),
    (lambda: LSTM(3, 2.5), TypeError, "hidden_size"),
    (lambda: GRU(3, 2, True), TypeError, "num_layers"),
    (lambda: GRU(4, 5)(X[..., :3]), ValueError, r"x must have shape.*4.*\(2, 6, 3\)"),
    (lambda: GRU(4, 5)(X[0, 0]), ValueError, "x must have shape"),
    (lambda: GRU(4, 5)(X.astype(float)), TypeError, "x must be float32.*float64"),
    (lambda: GRU(4, 5)(X, STATE[:, :1]), ValueError, r"state.*\(1, 2, 5\).*\(1, 1, 5\)"),
    (lambda: GRU(4, 5)(X, (STATE, STATE)), ValueError, "state"),
    (lambda: GRU(4, 5)(X, STATE.astype(float)), TypeError, "state.*float64"),
    (lambda: LSTM(4, 5)(X, STATE), TypeError, "state must be a pair"),
    (lambda: LSTM(4, 5)(X, (STATE, STATE[0])), ValueError, "state"),
    (lambda: LSTM(4, 5, 2)(X, (STATE, STATE)), ValueError, r"state.*\(2, 2, 5\)"),
    (lambda: GRU(4, 5)(X, lengths=[1, 7]), ValueError, "lengths.*between 0 and 6"),
    (lambda: GRU(4, 5)(X, lengths=[1, 2, 3]), ValueError, r"lengths.*\(2,\).*\(3,\)"),
    (lambda: LSTM(4, 5)(X, lengths=[1.0, 2.0]), TypeError, "lengths.*integers"),
])  # fmt: skip
def test_wrong_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
