"""The key/value cache of incremental decoding: arrays and lengths, no maths.

A cache knows which position each of its rows has reached. That is all that attention needs to be told, as
`key_lengths`, `query_lengths` and `query_offset`: what is decoded from a cache has the bits of the full forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from attnx import _buffers, _check
from attnx._filled import Filled
from attnx.attention import scaled_dot_product_attention

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array = NDArray[Any]

__all__ = ["KVCache"]

_OWN = frozenset(("key_lengths", "query_lengths", "query_offset", "layout"))

_PLACED = frozenset(("window", "bias"))  # what depends on a query's position otherwise


class KVCache:
    """Keys and values of the positions so far, in buffers of a fixed capacity.

    Parameters
    ----------
    batch : int
        Sequences B that are decoded side by side; each has a length of its own.
    num_kv_heads : int
        Key/value heads G. Queries may have any multiple of it.
    capacity : int
        Most positions a sequence can have.
    head_dim : int
        Size E of a key.
    value_dim : int, optional
        Size D of a value; default `head_dim`.
    dtype : dtype_like, default "float32"
        What keys and values are stored as: "float32", "float64", "float16" or "bfloat16" (needs the package
        ml_dtypes). It may be smaller than the queries' dtype: 16 bits halve what a step reads.

    Attributes
    ----------
    key, value : ndarray
        (B, G, capacity, E) and (B, G, capacity, D): views of the buffers.
    lengths : ndarray
        (B,): how many positions each sequence has.

    Notes
    -----
    The usual step is `append`, then `attend`. Against the tuples of growing arrays that PyTorch models pass around
    nothing is copied as a sequence grows, and no mask is needed for sequences of unequal lengths.

    References
    ----------
    Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need" (2019), section 2.4.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> cache = attnx.KVCache(batch=1, num_kv_heads=2, capacity=16, head_dim=8)
    >>> query, key = np.ones((1, 4, 3, 8), np.float32), np.ones((1, 2, 3, 8), np.float32)
    >>> cache.append(key, key)
    >>> cache.attend(query).shape, cache.lengths
    ((1, 4, 3, 8), array([3]))
    """

    _key: Array
    _value: Array
    _filled: Filled

    def __init__(
        self,
        batch: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self._key, self._value = _buffers.new(
            (batch, num_kv_heads, capacity), head_dim, value_dim, dtype
        )
        self._filled = Filled.to(np.zeros(len(self._key), np.int64))

    @classmethod
    def from_buffers(cls, key: Array, value: Array, lengths: ArrayLike | None = None) -> Self:
        """Return a cache that lives in arrays of the caller's: memory maps, shared memory.

        Parameters
        ----------
        key, value : ndarray
            (B, G, capacity, E) and (B, G, capacity, D), used in place: writeable, apart, last axis of stride one.
        lengths : array_like of int, optional
            (B,): how many positions the arrays hold already; default 0.

        Returns
        -------
        KVCache
            Over these arrays. Lengths are the cache's own: who shares a buffer has to pass them on.

        Examples
        --------
        >>> import numpy as np, attnx
        >>> key, value = np.ones((2, 1, 2, 16, 8), np.float32)
        >>> attnx.KVCache.from_buffers(key, value, lengths=[5]).lengths
        array([5])
        """
        cache = object.__new__(cls)
        cache._key, cache._value = _buffers.given(key, value)
        batch, _, capacity, _ = key.shape
        held = _check.lengths("lengths", lengths, (batch,), capacity)
        cache._filled = Filled.to(np.zeros(batch, np.int64) if held is None else held)
        return cache

    @property
    def key(self) -> Array:
        """The buffer of keys (B, G, capacity, E); row b holds lengths[b] positions, the rest means nothing."""
        return self._key.view()

    @property
    def value(self) -> Array:
        """The buffer of values (B, G, capacity, D)."""
        return self._value.view()

    @property
    def lengths(self) -> Array:
        """How many positions each sequence has: (B,), a copy, good for `truncate` later."""
        return self._filled.lengths.copy()

    def __repr__(self) -> str:
        batch, heads, capacity, dim = self._key.shape
        return (
            f"KVCache(batch={batch}, num_kv_heads={heads}, capacity={capacity}, head_dim={dim}, "
            f"value_dim={self._value.shape[3]}, dtype='{self._key.dtype}', lengths={self._filled.lengths.tolist()})"
        )

    def append(self, key: ArrayLike, value: ArrayLike, lengths: ArrayLike | None = None) -> None:
        """Add the keys and values of new positions.

        Parameters
        ----------
        key, value : array_like
            (B, G, L, E) and (B, G, L, D) in any float type; converted to the storage dtype.
        lengths : array_like of int, optional
            (B,): how many of the L rows each sequence really has (a ragged append); default L.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or shape, or a sequence would pass the capacity; the cache is unchanged.

        Examples
        --------
        >>> import numpy as np, attnx
        >>> cache = attnx.KVCache(2, 1, 16, 4)
        >>> key = value = np.ones((2, 1, 5, 4), np.float32)
        >>> cache.append(key, value, lengths=[5, 3])
        >>> cache.lengths
        array([5, 3])
        """
        keys = _buffers.rows("key", key, self._key)
        values = _buffers.rows("value", value, self._value)
        count, before = keys.shape[2], self._filled
        if values.shape[2] != count:
            raise ValueError(f"value must have the {count} rows of key, got {values.shape[2]}")
        own = _check.lengths("lengths", lengths, before.lengths.shape, count)
        after = before.append(count, own)
        if after.longest > self._key.shape[2]:
            raise ValueError(
                f"key must fit into the cache of {self._key.shape[2]} positions, "
                f"got {count} rows after {before.lengths.tolist()}"
            )
        _buffers.write(self._key, keys, before, after)
        _buffers.write(self._value, values, before, after)
        self._filled = after

    def attend(self, query: ArrayLike, *, is_causal: bool = True, **options: Any) -> Any:
        """Attend from the newest positions to all that the cache holds.

        Parameters
        ----------
        query : array_like
            (B, H, L, E) with H a multiple of G. The queries stand at the newest L positions of each sequence. After a
            ragged append L must be that append's, and the first lengths[b] queries of row b are its own.
        is_causal : bool, default True
            Whether a query sees no later position than its own.
        **options
            Further options of `scaled_dot_product_attention` (`attn_mask`, `bias`, `window`, `scale`, `softcap`,
            `sinks`, `return_lse`, `out`, `num_threads`). The S axis of a mask or a bias is the longest current length.
            Lengths, offset and layout are the cache's own and may not be given.

        Returns
        -------
        ndarray
            (B, H, L, D), or with `return_lse` a pair as there. Queries past a ragged append's lengths give 0.

        Examples
        --------
        >>> import numpy as np, attnx
        >>> cache = attnx.KVCache(2, 1, 16, 4)
        >>> key = value = np.ones((2, 1, 3, 4), np.float32)
        >>> cache.append(key, value, lengths=[3, 1])
        >>> cache.attend(np.ones((2, 2, 3, 4), np.float32))[:, 0, :, 0]
        array([[1., 1., 1.],
               [1., 0., 0.]], dtype=float32)
        """
        if not _OWN.isdisjoint(options):
            raise TypeError(f"{min(_OWN & options.keys())} is the cache's own and may not be given")
        queries = _check.array("query", query)
        batch, heads, _, dim = self._key.shape
        if queries.ndim != 4 or (queries.shape[0], queries.shape[3]) != (batch, dim):
            raise ValueError(
                f"query must have shape ({batch}, a multiple of {heads}, length, {dim}), got {queries.shape}"
            )
        keys, values = self._held()
        if self._filled.sees_all(queries.shape[2]) and _PLACED.isdisjoint(options):
            is_causal = False if is_causal is True else is_causal  # a decoding step: 6 us less
        else:
            options |= self._filled.positions(queries.shape[2])
        return scaled_dot_product_attention(queries, keys, values, is_causal=is_causal, **options)

    def reorder(self, rows: ArrayLike) -> None:
        """Continue each sequence b as a copy of sequence rows[b], as beam search does.

        Parameters
        ----------
        rows : array_like of int
            (B,), each between 0 and B - 1, else an error; a sequence may be taken several times or not at all.

        Examples
        --------
        >>> import numpy as np, attnx
        >>> cache = attnx.KVCache(3, 1, 16, 4)
        >>> key = value = np.ones((3, 1, 3, 4), np.float32)
        >>> cache.append(key, value, lengths=[1, 2, 3])
        >>> cache.reorder([2, 2, 0])
        >>> cache.lengths
        array([3, 3, 1])
        """
        batch, given = len(self._key), _check.array("rows", rows)
        if given.shape != (batch,):
            raise ValueError(f"rows must have shape ({batch},), got {given.shape}")
        taken = _check.integers("rows", given, (batch,))
        if ((taken < 0) | (taken >= batch)).any():
            raise ValueError(f"rows must lie between 0 and {batch - 1}, got {taken.tolist()}")
        after = self._filled.reorder(taken)
        moved = np.flatnonzero(taken != np.arange(batch))  # of beams, many stay where they are
        longest = int(after.lengths[moved].max(initial=0))
        buffers = (self._key, self._value)
        # All copies before the first write: memory may run out.
        copies = [buffer[taken[moved], :, :longest] for buffer in buffers]
        for buffer, copy in zip(buffers, copies, strict=True):
            buffer[moved, :, :longest] = copy
        self._filled = after

    def truncate(self, lengths: ArrayLike) -> None:
        """Forget the newest positions, so that each sequence has a given length.

        Parameters
        ----------
        lengths : array_like of int
            (B,) or one number; at most the current lengths, else an error. A ragged append before is over then:
            queries stand at the newest positions again.

        Examples
        --------
        >>> import numpy as np, attnx
        >>> cache = attnx.KVCache(2, 1, 16, 4)
        >>> cache.append(*np.ones((2, 2, 1, 3, 4), np.float32))
        >>> cache.truncate([3, 1])
        >>> cache.lengths
        array([3, 1])
        """
        current = self._filled.lengths
        kept = _check.integers("lengths", lengths, current.shape)
        if ((kept < 0) | (kept > current)).any():
            raise ValueError(
                f"lengths must lie between 0 and the current {current.tolist()}, got {kept.tolist()}"
            )
        self._filled = Filled.to(kept)

    def _held(self) -> tuple[Array, Array]:
        """Return keys and values up to the longest current length."""
        longest = self._filled.longest
        return self._key[:, :, :longest], self._value[:, :, :longest]
