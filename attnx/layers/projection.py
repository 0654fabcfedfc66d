"""The query, key and value weights of multi-head attention, in as few packed matrices as serve.

Self-attention multiplies one input by all three weights, so they are packed as one matrix. Where
the keys come from elsewhere the matrix is packed again in parts, at the first such call; the parts
then replace the whole, so that a layer never keeps its weights twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnx.layers.module import FloatArray, as_input
from attnx.linear import PackedWeight, linear, pack_weight

if TYPE_CHECKING:
    from attnx.layers.multihead import MultiHeadAttention

Groups = tuple[tuple[PackedWeight, FloatArray | None], ...]

# For one, two and three packed matrices: which of query, key and value each of them holds.
_MEMBERS = {1: ((0, 1, 2),), 2: ((0,), (1, 2)), 3: ((0,), (1,), (2,))}


class Projection:
    """Three weights (rows, features) and their biases, packed in one, two or three matrices."""

    def __init__(
        self, weights: tuple[FloatArray, FloatArray, FloatArray], bias: FloatArray | None
    ) -> None:
        self._rows = [len(weight) for weight in weights]
        self._bias = bias
        features = [weight.shape[1] for weight in weights]
        # Keys and values start together too: they nearly always are the same array.
        count = 1 if len(set(features)) == 1 else 2 if features[1] == features[2] else 3
        self.groups = self._pack(weights, count)

    def weights(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return new arrays of the query's, key's and value's weights."""
        parts: list[FloatArray] = []
        groups = self.groups
        for members, (packed, _) in zip(_MEMBERS[len(groups)], groups, strict=True):
            ends = np.cumsum([self._rows[member] for member in members])
            parts += np.split(packed.unpack(), ends[:-1])
        return parts[0], parts[1], parts[2]

    def bias(self) -> FloatArray | None:
        """Return a new array of the three biases, one after the other."""
        return None if self._bias is None else np.array(self._bias)

    def at_least(self, count: int) -> Groups:
        """Return the packed matrices, divided further if there are fewer than `count`."""
        groups = self.groups
        if len(groups) < count:
            # One assignment of a finished tuple: a call in another thread sees either form.
            groups = self.groups = self._pack(self.weights(), count)
        return groups

    def fused(self) -> tuple[PackedWeight, FloatArray | None]:
        """Return the one matrix of all three."""
        if len(self.groups) != 1:
            self.groups = self._pack(self.weights(), 1)
        return self.groups[0]

    def _pack(self, weights: tuple[FloatArray, ...], count: int) -> Groups:
        ends = np.cumsum(self._rows)
        groups = []
        for members in _MEMBERS[count]:
            packed = pack_weight(np.concatenate([weights[member] for member in members]))
            first, last = members[0], members[-1]
            begin = int(ends[first]) - self._rows[first]
            bias = None if self._bias is None else self._bias[begin : int(ends[last])]
            groups.append((packed, bias))
        return tuple(groups)


def project_heads(
    layer: MultiHeadAttention,
    query: npt.ArrayLike,
    key: npt.ArrayLike | None,
    value: npt.ArrayLike | None,
    num_threads: int | None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the projected query (..., L, H, d), key and value (..., S, G, d) of a layer."""
    if key is None and value is not None:
        raise ValueError("value may only be given with key")
    inputs = [as_input("query", query, layer.embed_dim, least=2)]
    if key is None or (key is query and (value is None or value is key)):
        groups = layer._projection.groups
        if len(groups) > 1:  # another size, or packed in parts for an earlier call
            inputs.append(as_input("key", inputs[0], layer.kdim, least=2))
    else:
        groups = layer._projection.at_least(2 if value is None or value is key else 3)
        inputs.append(as_input("key", key, layer.kdim, least=2))
    if len(groups) == 3:
        last = inputs[1] if value is None else value
        inputs.append(as_input("value", last, layer.vdim, least=2))
    projected = []
    for x, (weight, bias) in zip(inputs, groups, strict=True):
        flat = linear(x, weight, bias, num_threads=num_threads)
        heads = weight.out_features // layer.head_dim
        projected.append(flat.reshape(*x.shape[:-1], heads, layer.head_dim))
    joined = projected[-1]
    first, groups_of_keys = layer.num_heads, layer.num_kv_heads
    if len(projected) == 1:
        middle = first + groups_of_keys
        return joined[..., :first, :], joined[..., first:middle, :], joined[..., middle:, :]
    if len(projected) == 2:
        return projected[0], joined[..., :groups_of_keys, :], joined[..., groups_of_keys:, :]
    return projected[0], projected[1], joined
