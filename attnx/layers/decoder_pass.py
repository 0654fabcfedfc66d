"""One pass through a stack of decoder layers, from the user's array to the user's array.

As in the encoder, everything but the attention works on rows (T, d_model) that do not know each
other: here all rows of the padded targets. With a cache, self-attention appends to it and reads from
it, and the memory's keys and values are there already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnx.attention import attention_weights, scaled_dot_product_attention
from attnx.layers.block import normalize, workspace
from attnx.layers.decoder_cache import DecoderCache, keys_values
from attnx.layers.module import FloatArray, as_input
from attnx.layers.packing import Attend, as_lengths, attend_padded

if TYPE_CHECKING:
    from attnx.cache import KVCache
    from attnx.layers.decoder_layer import TransformerDecoderLayer
    from attnx.layers.norm import LayerNorm
    from attnx.layers.workspace import Workspace

Lengths = npt.NDArray[np.int64]


class Targets(NamedTuple):
    """What a call says about the targets and the memory, as the user gave it."""

    tgt: npt.ArrayLike
    tgt_mask: npt.ArrayLike | None
    memory_mask: npt.ArrayLike | None
    tgt_lengths: npt.ArrayLike | None


@dataclass(frozen=True)
class Stack:
    """Decoder layers and the norm after the last of them."""

    layers: Sequence[TransformerDecoderLayer]
    norm: LayerNorm | None

    def run(
        self, rows: FloatArray, attends: Iterable[tuple[Attend, Attend]], work: Workspace
    ) -> FloatArray:
        """Return what the layers make of rows (T, d_model), each with its own way to attend, and to the memory."""
        for layer, (own, to_memory) in zip(self.layers, attends, strict=True):
            rows = layer._forward(rows, work, own, to_memory)
        return rows if self.norm is None else normalize(self.norm, rows, work.other, work)

    def workspace(self, rows: int) -> Workspace:
        """Return buffers for so many rows."""
        return workspace(self.layers, rows)


@dataclass(frozen=True)
class ToMemory:
    """Attention to the memory from rows that are an array of shape (..., L)."""

    shape: tuple[int, ...]
    mask: npt.ArrayLike | None
    query_lengths: Lengths | None
    key_lengths: Lengths | None
    weights: list[FloatArray] | None  # takes those of each layer, where they are wanted

    def __call__(self, key: FloatArray, value: FloatArray, work: Workspace) -> None:
        """Take the query of a workspace to its `attended`."""
        query = _split(work.query, self.shape)
        out = _split(work.attended_heads, self.shape)
        lengths: dict[str, Any] = {
            "query_lengths": self.query_lengths,
            "key_lengths": self.key_lengths,
        }
        scaled_dot_product_attention(
            query, key, value, self.mask, layout="blhd", out=out, **lengths
        )
        if self.weights is not None:
            self.weights.append(attention_weights(query, key, self.mask, layout="blhd", **lengths))


def decode(
    stack: Stack,
    call: Targets,
    memory: npt.ArrayLike | None,
    memory_lengths: npt.ArrayLike | None,
    is_causal: bool,
    weights: list[FloatArray] | None = None,
) -> FloatArray:
    """Take targets (..., L, d_model) through all layers, to a memory (..., S, d_model)."""
    dim = stack.layers[0].d_model
    targets = as_input("tgt", call.tgt, dim, least=2)
    if memory is None:
        raise TypeError("memory must be given where there is no cache, got None")
    source = as_input("memory", memory, dim, least=2)
    shape, batch = targets.shape[:-1], targets.shape[:-2]
    if source.shape[:-2] != batch:
        raise ValueError(f"memory must have the batch axes of tgt {batch}, got {source.shape[:-2]}")
    limits = as_limits("tgt_lengths", call.tgt_lengths, targets)
    to_memory = ToMemory(
        shape,
        call.memory_mask,
        limits,
        as_limits("memory_lengths", memory_lengths, source),
        weights,
    )
    flat = None if limits is None else limits.reshape(-1)
    own = attend_padded(shape, call.tgt_mask, flat, is_causal)
    attends = (
        (own, partial(to_memory, *keys_values(layer.multihead_attn, source)))
        for layer in stack.layers
    )
    rows = targets.reshape(-1, dim)
    result = stack.run(rows, attends, stack.workspace(len(rows)))
    return _ended(result.reshape(targets.shape), limits)


def decode_cached(
    stack: Stack,
    call: Targets,
    cache: DecoderCache,
    weights: list[FloatArray] | None = None,
) -> FloatArray:
    """Append the next positions (B, L, d_model) to a cache; an error leaves it as it was."""
    dim, batch, beams = stack.layers[0].d_model, cache.batch, cache.beams
    targets = as_input("tgt", call.tgt, dim, least=2)
    if targets.ndim != 3 or len(targets) != batch:
        raise ValueError(
            f"tgt must have shape ({batch}, length, {dim}), as the cache's batch is, "
            f"got {targets.shape}"
        )
    asked = (call.tgt_mask, call.memory_mask, call.tgt_lengths, weights)
    if targets.size and targets.shape[1] == 1 and all(x is None for x in asked):
        step = cache._step_of(stack)
        if step.begin():
            result = np.empty(targets.shape, np.float32)
            step.run(targets[:, 0], result[:, 0])
            return result
    limits = as_limits("tgt_lengths", call.tgt_lengths, targets)
    shape = targets.shape[:2]
    own = [_attend_cached(kv, shape, call.tgt_mask, limits) for kv in cache._own]
    memories, source_lengths = cache._memory, cache._memory_lengths
    # The queries of all beams stand side by side, so that each key of the memory is read once.
    sources = (batch // beams, beams * shape[1])
    if beams > 1 and call.memory_mask is not None:  # which tells the beams apart
        sources = shape
        memories = [(key.repeat(beams, 0), value.repeat(beams, 0)) for key, value in memories]
        source_lengths = None if source_lengths is None else source_lengths.repeat(beams)
    to_memory = ToMemory(sources, call.memory_mask, None, source_lengths, weights)
    before = [kv._filled for kv in cache._own]
    try:
        attends = [
            (attend, partial(to_memory, *memory))
            for attend, memory in zip(own, memories, strict=True)
        ]
        rows = targets.reshape(-1, dim)
        result = stack.run(rows, attends, stack.workspace(len(rows)))
    except BaseException:
        for kv, filled in zip(cache._own, before, strict=True):
            kv._filled = filled
        raise
    if weights is not None:
        weights[:] = [_beams_apart(array, batch, shape[1]) for array in weights]
    return _ended(result.reshape(targets.shape), limits)


def next_rows(stack: Stack, rows: FloatArray, cache: DecoderCache) -> FloatArray:
    """Append one position of each sequence, rows (B, d_model), to a cache, without a check of them.

    For models that have made the cache themselves. The result is a buffer, which the next step writes to.
    """
    step = cache._step_of(stack)
    if not step.begin():
        raise ValueError("cache has no room for another position")
    return step.run(rows)


def as_limits(name: str, lengths: npt.ArrayLike | None, padded: FloatArray) -> Lengths | None:
    """Return lengths in the shape of the batch axes, or raise naming them."""
    if lengths is None:
        return None
    batch = padded.shape[:-2]
    return as_lengths(name, lengths, batch, padded.shape[-2]).reshape(batch)


def _attend_cached(
    kv: KVCache, shape: tuple[int, ...], mask: npt.ArrayLike | None, lengths: Lengths | None
) -> Attend:
    def attend(work: Workspace) -> None:
        query, key, value, out = (
            _split(rows, shape).swapaxes(1, 2)
            for rows in (work.query, work.key, work.value, work.attended_heads)
        )
        kv.append(key, value, lengths)
        kv.attend(query, attn_mask=mask, out=out)

    return attend


def _beams_apart(weights: FloatArray, batch: int, length: int) -> FloatArray:
    """Return weights (batch, H, length, S) of what may be (sources, H, beams * length, S)."""
    sources, heads, _, keys = weights.shape
    apart = weights.reshape(sources, heads, batch // max(sources, 1), length, keys).swapaxes(1, 2)
    return apart.reshape(batch, heads, length, keys)


def _split(rows: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    return rows.reshape(*shape, *rows.shape[1:])


def _ended(result: FloatArray, lengths: Lengths | None) -> FloatArray:
    """Return the result with 0 past the lengths."""
    if lengths is not None:
        result[np.arange(result.shape[-2]) >= lengths[..., None]] = 0
    return result
