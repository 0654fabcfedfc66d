"""The common step of a decoder with a cache: one more position of each sequence, without a mask.

What decoder_pass.py does, with its bits. There, the views, checks and calls of a step, which are those of the step
before, take as long as all of a small model's arithmetic; here they are written down once for a cache, and a step is
one call of the core.
"""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _attention_call
from attnx._calls import Calls, shares
from attnx.layers.module import FloatArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attnx.layers.decoder_cache import DecoderCache
    from attnx.layers.decoder_pass import Stack
    from attnx.layers.norm import LayerNorm
    from attnx.layers.packing import Attend
    from attnx.layers.workspace import Workspace


class DecoderStep:
    """The buffers of a cache's next positions, and the calls that fill them."""

    def __init__(self, stack: Stack, cache: DecoderCache) -> None:
        self._made_of = tuple(_made_of(stack))
        self._own = cache._own
        self._before = self._after = cache._own[0]._filled
        self._rows = np.empty((cache.batch, stack.layers[0].d_model), np.float32)
        self._lengths = np.empty(cache.batch, np.int64)
        self._calls = Calls()
        layer = stack.layers[0]
        weights = (
            4 * len(stack.layers) * layer.d_model * (6 * layer.d_model + 2 * layer.dim_feedforward)
        )
        parts = shares(cache.batch // cache.beams, cache.beams, weights)
        results = [self._write_down(stack, cache, part) for part in parts]
        self._result = results[0] if len(results) == 1 else np.empty_like(self._rows)
        self._copies = [
            (self._result[s], r)
            for s, r in zip(parts, results, strict=True)
            if r is not self._result
        ]

    def is_of(self, stack: Stack) -> bool:
        """Say whether a stack still has the layers and weights that this was made of."""
        now = tuple(_made_of(stack))
        return len(now) == len(self._made_of) and all(map(is_, now, self._made_of))

    def begin(self) -> bool:
        """Go on to a position behind those of each sequence, or tell that there is no room for it."""
        self._before = self._own[0]._filled
        self._after = self._before.append(1, None)
        return self._after.longest <= int(self._own[0]._key.shape[2])

    def run(self, rows: FloatArray, out: FloatArray | None = None) -> FloatArray:
        """Return what the layers make of rows (B, d_model), in a buffer that the next step writes to, and in `out`."""
        self._rows[...] = rows
        self._lengths[...] = self._after.lengths
        self._calls.run()
        for to, part in self._copies:
            to[...] = part
        if out is not None:
            out[...] = self._result
        try:
            for kv in self._own:
                kv._filled = self._after
        except BaseException:  # a signal: all layers have the position, or none
            for kv in self._own:
                kv._filled = self._before
            raise
        return self._result

    def _write_down(self, stack: Stack, cache: DecoderCache, share: slice) -> FloatArray:
        """Add the calls of some of the sequences; return where their results will be."""
        work = stack.workspace(share.stop - share.start)
        work.linear, work.layer_norm = self._calls.linear, self._calls.layer_norm
        self._calls.begin_part()
        attends = (
            (
                _to_own((kv._key[share], kv._value[share]), self._lengths[share], self._calls),
                _to_memory(memory, cache, share, self._calls),
            )
            for kv, memory in zip(cache._own, cache._memory, strict=True)
        )
        return stack.run(self._rows[share], attends, work)


def _made_of(stack: Stack) -> Iterator[Any]:
    """Go through all that the calls of a step depend on and that another thing may take the place of."""
    yield from _of_norm(stack.norm)
    for layer in stack.layers:
        own, cross = layer.self_attn, layer.multihead_attn
        yield own._projection
        yield own.out_proj._weight
        yield cross._projection
        yield cross.out_proj._weight
        yield layer.linear1._weight
        yield layer.linear2._weight
        yield from _of_norm(layer.norm1)
        yield from _of_norm(layer.norm2)
        yield from _of_norm(layer.norm3)
        yield layer.norm_first
        yield layer.activation


def _of_norm(norm: LayerNorm | None) -> tuple[Any, ...]:
    return (None,) if norm is None else (norm, norm._weight, norm.eps)


def _to_own(buffers: tuple[FloatArray, FloatArray], lengths: Any, calls: Calls) -> Attend:
    def attend(work: Workspace) -> None:
        calls.append(work.key, buffers[0], lengths)
        calls.append(work.value, buffers[1], lengths)
        query, out = work.query[:, :, np.newaxis], work.attended_heads[:, :, np.newaxis]
        # Every key up to the newest is visible to it, so the lengths say all.
        call = _call((query, *buffers), "bhld")
        calls.attend(call._replace(key_lengths=lengths), out)

    return attend


def _to_memory(
    memory: tuple[FloatArray, FloatArray], cache: DecoderCache, share: slice, calls: Calls
) -> Attend:
    beams, lengths = cache.beams, cache._memory_lengths
    sources = slice(share.start // beams, share.stop // beams)

    def attend(work: Workspace) -> None:
        # The queries of all beams stand side by side, so that each key of the memory is read once.
        query, out = (
            rows.reshape(-1, beams, *rows.shape[1:]) for rows in (work.query, work.attended_heads)
        )
        key, value = (x[sources] for x in memory)
        call = _call((query, key, value), "blhd", None if lengths is None else lengths[sources])
        calls.attend(call, out.swapaxes(1, 2))

    return attend


def _call(
    arrays: tuple[FloatArray, ...], layout: str, key_lengths: Any = None
) -> _attention_call.Attention:
    return _attention_call.dense(
        arrays, None, is_causal=False, query_offset=0, window=None, key_lengths=key_lengths, query_lengths=None,
        scale=None, options=(None, None, None), layout=layout,
    )  # fmt: skip
