"""What a decoder keeps between steps: its own keys and values, and those of the memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnx import _buffers
from attnx.cache import KVCache
from attnx.layers.decoder_step import DecoderStep
from attnx.layers.module import FloatArray
from attnx.linear import linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnx.layers.decoder_layer import TransformerDecoderLayer
    from attnx.layers.decoder_pass import Stack
    from attnx.layers.multihead import MultiHeadAttention

KeyValue = tuple[FloatArray, FloatArray]
Lengths = npt.NDArray[np.int64]


def keys_values(attention: MultiHeadAttention, memory: FloatArray) -> KeyValue:
    """Return the projected keys and values, each (..., S, H, d), of a memory (..., S, E)."""
    groups = attention._projection.at_least(2)[1:]
    dim, half = attention.head_dim, attention.num_heads
    heads = [
        linear(memory, weight, bias).reshape(*memory.shape[:-1], weight.out_features // dim, dim)
        for weight, bias in groups
    ]
    if len(heads) == 2:
        return heads[0], heads[1]
    return heads[0][..., :half, :], heads[0][..., half:, :]


class DecoderCache:
    """The positions so far of B sequences that are decoded side by side.

    `TransformerDecoder.make_cache` makes it. The memory is kept once for all beams of a source.

    Attributes
    ----------
    batch : int
        Sequences B: sources times beams, the beams of a source next to each other.
    beams : int
        How many sequences share each source.
    lengths : ndarray
        (B,): how many positions each sequence has.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import TransformerDecoder, TransformerDecoderLayer
    >>> decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), num_layers=2)
    >>> cache = decoder.make_cache(np.ones((3, 5, 8), np.float32), capacity=10, beams=2)
    >>> decoder(np.ones((6, 1, 8), np.float32), cache=cache).shape
    (6, 1, 8)
    >>> cache.reorder([1, 1, 2, 2, 5, 4])
    >>> cache.lengths
    array([1, 1, 1, 1, 1, 1])
    """

    _step: DecoderStep | None = None  # to the next position, made where it is first taken

    def __init__(
        self,
        layers: Sequence[TransformerDecoderLayer],
        memory: FloatArray,
        capacity: int,
        memory_lengths: Lengths | None,
        beams: int,
    ) -> None:
        heads, dim = layers[0].nhead, layers[0].self_attn.head_dim
        self.beams = beams
        shape = (len(memory) * beams, heads, _buffers.size("capacity", capacity), dim)
        # One array: the allocator then keeps its pages for the next cache. An array for each layer meant 850 page
        # faults for 64 words of the Pronouncer, which took 1.2 times as long.
        buffers = np.zeros((len(layers), 2, *shape), np.float32)
        self._own = [KVCache.from_buffers(key, value) for key, value in buffers]
        self._memory = [keys_values(layer.multihead_attn, memory) for layer in layers]
        self._memory_lengths = memory_lengths

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes: not the step, whose buffers and calls are views of each other."""
        return self.__dict__ | {"_step": None}

    def _step_of(self, stack: Stack) -> DecoderStep:
        """Return what takes a stack of layers to the next position."""
        step = self._step
        if step is None or not step.is_of(stack):
            step = self._step = DecoderStep(stack, self)
        return step

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return len(self._own[0]._key)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many positions each sequence has: (B,), a copy, good for `truncate` later."""
        lengths: npt.NDArray[np.int64] = self._own[0].lengths
        return lengths

    def __repr__(self) -> str:
        keys = self._own[0]._key.shape
        return (
            f"DecoderCache(layers={len(self._own)}, batch={keys[0]}, beams={self.beams}, "
            f"capacity={keys[2]}, lengths={self.lengths.tolist()})"
        )

    def reorder(self, rows: npt.ArrayLike) -> None:
        """Continue each sequence b as a copy of sequence rows[b], as beam search does.

        Parameters
        ----------
        rows : array_like of int
            (B,), each between 0 and B - 1. The memory is only touched where a sequence gets another
            source than it had.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerDecoder, TransformerDecoderLayer
        >>> decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), num_layers=1)
        >>> cache = decoder.make_cache(np.ones((2, 5, 8), np.float32), capacity=10)
        >>> cache.reorder([1, 0])
        """
        beams = self.beams
        for kv in self._own:
            kv.reorder(rows)
        sources = np.asarray(rows) // beams
        if (sources != np.arange(self.batch) // beams).any():
            self._memory, self._memory_lengths = self._memory_of(sources)
            self.beams, self._step = 1, None

    def keep(self, rows: npt.ArrayLike) -> None:
        """Go on with some of the sequences alone, as greedy search does when others have ended.

        Parameters
        ----------
        rows : array_like of int
            (n,), each between 0 and B - 1: sequence i goes on as sequence rows[i]. From then on B is n. They move
            within the buffers, which a ``copy.copy`` of the cache shares.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerDecoder, TransformerDecoderLayer
        >>> decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), num_layers=1)
        >>> cache = decoder.make_cache(np.ones((3, 5, 8), np.float32), capacity=10)
        >>> cache.keep([0, 2])
        >>> cache
        DecoderCache(layers=1, batch=2, beams=1, capacity=10, lengths=[0, 0])
        """
        taken = np.array(rows)
        if taken.ndim != 1 or taken.dtype.kind not in "iu":
            raise ValueError(f"rows must be integers (n,), got {taken.dtype} {taken.shape}")
        if ((taken < 0) | (taken >= self.batch)).any():
            raise ValueError(f"rows must lie between 0 and {self.batch - 1}, got {taken.tolist()}")
        sources = taken // self.beams
        # All copies before the first write: memory may run out.
        kept = [_kept(kv, taken) for kv in self._own]
        memory, lengths = self._memory_of(sources)
        for kv, (key, value) in kept:
            longest = key.shape[2]
            kv._key[:, :, :longest], kv._value[:, :, :longest] = key, value
        self._own, self._step = [kv for kv, _ in kept], None
        self._memory, self._memory_lengths, self.beams = memory, lengths, 1

    def _memory_of(self, sources: Lengths) -> tuple[list[KeyValue], Lengths | None]:
        """Return a memory of its own for each sequence, that of a source."""
        lengths = self._memory_lengths
        memory = [(key[sources], value[sources]) for key, value in self._memory]
        return memory, None if lengths is None else lengths[sources]

    def truncate(self, lengths: npt.ArrayLike) -> None:
        """Forget the newest positions, so that each sequence has a given length.

        Parameters
        ----------
        lengths : array_like of int
            (B,) or one number; at most the current lengths.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import TransformerDecoder, TransformerDecoderLayer
        >>> decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), num_layers=1)
        >>> cache = decoder.make_cache(np.ones((2, 5, 8), np.float32), capacity=10)
        >>> _ = decoder(np.ones((2, 3, 8), np.float32), cache=cache)
        >>> cache.truncate([2, 0])
        >>> cache.lengths
        array([2, 0])
        """
        for kv in self._own:
            kv.truncate(lengths)

    def _check(self, layers: Sequence[TransformerDecoderLayer]) -> None:
        """Raise unless these layers can use the cache."""
        first, keys = layers[0], self._own[0]._key.shape
        wanted = (len(layers), first.nhead, first.self_attn.head_dim)
        if (len(self._own), keys[1], keys[3]) != wanted:
            raise ValueError(
                f"cache must be of {wanted[0]} layers with {wanted[1]} heads of dim {wanted[2]}, "
                f"got {len(self._own)} with {keys[1]} of dim {keys[3]}"
            )


def _kept(kv: KVCache, rows: Lengths) -> tuple[KVCache, KeyValue]:
    """Return a cache for some of the sequences in the memory of all, and what is still to be written into it.

    New pages would take a third of the time of a step of 64 words.
    """
    longest, count = kv._filled.longest, len(rows)
    buffers = kv._key, kv._value
    key, value = (buffer[rows, :, :longest] for buffer in buffers)
    kept = copy.copy(kv)
    if count > len(kv._key):
        kept._key, kept._value = (np.empty((count, *x.shape[1:]), x.dtype) for x in buffers)
    kept._key, kept._value = kept._key[:count], kept._value[:count]
    kept._filled = kv._filled.reorder(rows)
    return kept, (key, value)
