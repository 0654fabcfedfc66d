"""What GRU and LSTM share: their parameters, and the way through the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnx._calls import Direction
from attnx.layers.module import FloatArray, Module, Shapes, as_input, as_size, uniform
from attnx.layers.packing import as_lengths
from attnx.layers.steps import Indices, Steps
from attnx.linear import PackedWeight, linear, pack_weight
from attnx.recurrent import recurrent_into


class Weights(NamedTuple):
    """The weights of one layer, in all its directions."""

    # The directions read the same input, so their input weights are one matrix.
    ih: PackedWeight  # (directions * gates * H, in)
    bias_ih: FloatArray | None
    hh: list[PackedWeight]  # (gates * H, H), one for each direction
    bias_hh: list[FloatArray | None]


class Recurrent(Module):
    """Base of the layers that hand a state from step to step."""

    _gates: int  # how many gates a unit has
    _weights: list[Weights]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        bidirectional: bool = False,
    ) -> None:
        self.input_size = as_size("input_size", input_size)
        self.hidden_size = as_size("hidden_size", hidden_size)
        self.num_layers = as_size("num_layers", num_layers)
        self.bidirectional = bool(bidirectional)
        self._has_bias = bool(bias)
        self._directions = 2 if self.bidirectional else 1
        bound = 1 / math.sqrt(self.hidden_size)
        self._start({name: uniform(bound, shape) for name, shape in self._shapes().items()})

    def _suffixes(self) -> list[list[str]]:
        """Return what ends the names of the parameters: for each layer, one for each direction."""
        ends = ("", "_reverse")[: self._directions]
        return [[f"_l{layer}{end}" for end in ends] for layer in range(self.num_layers)]

    def _shapes(self) -> Shapes:
        shapes: Shapes = {}
        rows, features = self._gates * self.hidden_size, self.input_size
        for suffixes in self._suffixes():
            for suffix in suffixes:
                shapes["weight_ih" + suffix] = rows, features
                shapes["weight_hh" + suffix] = rows, self.hidden_size
                if self._has_bias:
                    shapes["bias_ih" + suffix] = shapes["bias_hh" + suffix] = (rows,)
            features = self._directions * self.hidden_size
        return shapes

    def _build(self, parameters: Mapping[str, FloatArray]) -> dict[str, Any]:
        layers = []
        for suffixes in self._suffixes():
            bias_ih = None
            if self._has_bias:
                bias_ih = np.concatenate([parameters["bias_ih" + s] for s in suffixes])
            ih = np.concatenate([parameters["weight_ih" + s] for s in suffixes])
            hh = [pack_weight(parameters["weight_hh" + s]) for s in suffixes]
            bias_hh = [parameters.get("bias_hh" + s) for s in suffixes]
            layers.append(Weights(pack_weight(ih), bias_ih, hh, bias_hh))
        return {"_weights": layers}

    def _export(self) -> dict[str, FloatArray]:
        exported = {}
        for suffixes, weights in zip(self._suffixes(), self._weights, strict=True):
            ih = np.split(weights.ih.unpack(), self._directions)
            for direction, suffix in enumerate(suffixes):
                exported["weight_ih" + suffix] = ih[direction]
                exported["weight_hh" + suffix] = weights.hh[direction].unpack()
                bias_hh = weights.bias_hh[direction]
                if weights.bias_ih is not None and bias_hh is not None:
                    bias_ih = np.split(weights.bias_ih, self._directions)[direction]
                    exported["bias_ih" + suffix] = np.array(bias_ih)
                    exported["bias_hh" + suffix] = np.array(bias_hh)
        return exported

    def _run(
        self,
        x: npt.ArrayLike,
        states: list[npt.ArrayLike] | None,
        lengths: npt.ArrayLike | None,
        num_states: int,
    ) -> tuple[FloatArray, list[FloatArray]]:
        """Return the outputs (..., L, directions * H) and the states after the last steps."""
        inputs = as_input("x", x, self.input_size, least=2)
        *batch, length = inputs.shape[:-1]
        limits = None
        if lengths is not None:
            limits = as_lengths("lengths", lengths, tuple(batch), length)
        rows = math.prod(batch)
        shape = (self.num_layers * self._directions, *batch, self.hidden_size)
        flat = (shape[0], rows, self.hidden_size)
        if states is None:
            given = [np.zeros(flat, np.float32) for _ in range(num_states)]
        else:
            given = [_as_state(state, shape).reshape(flat) for state in states]
        steps = Steps(rows, length, limits)
        sorted_states = [steps.sort(state) for state in given]
        packed = steps.pack(inputs.reshape(rows, length, self.input_size))
        packed = self._through(self._gates_of(0, packed), sorted_states, steps.counts)
        outputs = steps.unpack(packed).reshape(*batch, length, packed.shape[1])
        return outputs, [steps.restore(state).reshape(shape) for state in sorted_states]

    def _gates_of(self, number: int, packed: FloatArray) -> FloatArray:
        """Return what a layer's gates get of rows (T, in): (T, directions * gates * H)."""
        weights = self._weights[number]
        return linear(packed, weights.ih, weights.bias_ih)

    def _through(self, gates: FloatArray, states: list[FloatArray], counts: Indices) -> FloatArray:
        """Return the last layer's outputs, from the first one's gates; the states go along in place."""
        packed = self._layer(0, gates, states, counts)
        del gates  # the largest array there is
        for number in range(1, self.num_layers):
            packed = self._layer(number, self._gates_of(number, packed), states, counts)
        return packed

    def _layer(
        self, number: int, gates: FloatArray, states: list[FloatArray], counts: Indices
    ) -> FloatArray:
        """Return a layer's outputs (T, directions * H); its part of the states (N, B, H) goes along in place."""
        hidden, wide = self.hidden_size, self._gates * self.hidden_size
        weights, first = self._weights[number], number * self._directions
        outputs = np.empty((len(gates), self._directions * hidden), np.float32)
        parts = [
            Direction(
                gates[:, direction * wide : (direction + 1) * wide], hh, bias_hh,
                tuple(state[first + direction] for state in states),
                # Backwards, sequences without a step have not begun.
                outputs[:, direction * hidden : (direction + 1) * hidden], backwards=direction == 1,
            )
            for direction, (hh, bias_hh) in enumerate(zip(weights.hh, weights.bias_hh, strict=True))
        ]  # fmt: skip
        recurrent_into(parts, counts)
        return outputs


def _as_state(state: npt.ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    """Return a state of this shape as an array, or raise naming it."""
    plain = as_input("state", state, shape[-1])
    if plain.shape != shape:
        raise ValueError(f"state must have shape {shape}, got {plain.shape}")
    return plain
