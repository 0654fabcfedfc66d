"""The common step of a decoder with a cache: one more position of each sequence, without a mask.

What decoder_pass.py does, with its bits. There, the views and checks of a step, which are those of the step before,
take as long as all of a small model's arithmetic; here buffers and attention calls are made once for a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _attention_call, _buffers
from attnx.attention import attend_into
from attnx.layers.module import FloatArray

if TYPE_CHECKING:
    from attnx._filled import Filled
    from attnx.cache import KVCache
    from attnx.layers.decoder_cache import DecoderCache, KeyValue
    from attnx.layers.decoder_layer import TransformerDecoderLayer
    from attnx.layers.packing import Attend
    from attnx.layers.workspace import Workspace


class _Positions:
    """From where to where a step takes the sequences of a cache; what its layers share."""

    __slots__ = ("after", "before")

    def __init__(self, filled: Filled) -> None:
        self.before = self.after = filled


class DecoderStep:
    """The buffers of a cache's next positions, and how its layers attend in them.

    Attributes
    ----------
    layers : tuple of TransformerDecoderLayer
        The layers that it is for, whose sizes the buffers have.
    work : Workspace
        For one row of each sequence.
    attends : list of tuple of callable
        For each layer, what appends to its own keys and values and attends to them, and what attends to the memory.
    """

    def __init__(self, layers: Sequence[TransformerDecoderLayer], cache: DecoderCache) -> None:
        self.layers = tuple(layers)
        self.work = work = layers[0]._workspace(cache.batch)
        self._own = cache._own
        self._positions = _Positions(cache._own[0]._filled)
        sources = (cache.batch // cache.beams, cache.beams)
        self.attends: list[tuple[Attend, Attend]] = [
            (
                _to_own(kv, work, self._positions),
                _to_memory(work, sources, memory, cache._memory_lengths),
            )
            for kv, memory in zip(cache._own, cache._memory, strict=True)
        ]

    def begin(self) -> bool:
        """Go on to a position behind those of each sequence, or tell that there is no room for it."""
        before = self._own[0]._filled
        after = before.append(1, None)
        if after.longest > self._own[0]._key.shape[2]:
            return False
        self._positions.before, self._positions.after = before, after
        return True

    def end(self) -> None:
        """Count the positions, now that all layers have them."""
        for kv in self._own:
            kv._filled = self._positions.after

    def take_back(self) -> None:
        """Leave the cache as it was, after an error."""
        for kv in self._own:
            kv._filled = self._positions.before


def _to_own(kv: KVCache, work: Workspace, positions: _Positions) -> Attend:
    query, key, value, out = (
        rows[:, :, np.newaxis] for rows in (work.query, work.key, work.value, work.attended_heads)
    )
    # Every key up to the newest is visible to it, so the lengths say all.
    call = _call((query, kv._key, kv._value), "bhld")

    def attend(_: Workspace) -> None:
        before, after = positions.before, positions.after
        _buffers.write(kv._key, key, before, after)
        _buffers.write(kv._value, value, before, after)
        attend_into(call._replace(key_lengths=after.lengths), out)

    return attend


def _to_memory(work: Workspace, sources: tuple[int, int], memory: KeyValue, lengths: Any) -> Attend:
    # The queries of all beams stand side by side, so that each key of the memory is read once.
    query, out = (
        rows.reshape(*sources, *rows.shape[1:]) for rows in (work.query, work.attended_heads)
    )
    call = _call((query, *memory), "blhd", lengths)
    target = out.swapaxes(1, 2)

    def attend(_: Workspace) -> None:
        attend_into(call, target)

    return attend


def _call(
    arrays: tuple[FloatArray, ...], layout: str, key_lengths: Any = None
) -> _attention_call.Attention:
    return _attention_call.dense(
        arrays, None, is_causal=False, query_offset=0, window=None, key_lengths=key_lengths, query_lengths=None,
        scale=None, options=(None, None, None), layout=layout,
    )  # fmt: skip
