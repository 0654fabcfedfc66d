"""Self-attention of a layer through a key/value cache."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from attnx.attention import attention_weights
from attnx.cache import KVCache
from attnx.layers.attending import Heads, Wanted, summarize
from attnx.layers.module import FloatArray
from attnx.summary import AttentionSummary


def check_cache(cache: KVCache, kv_heads: int, head_dim: int, given: Mapping[str, object]) -> None:
    """Raise unless a layer can use the cache with no argument that the cache supplies by itself."""
    if not isinstance(cache, KVCache):
        raise TypeError(f"cache must be a KVCache, got {type(cache).__name__}")
    for name, argument in given.items():
        if argument is not None:
            raise TypeError(f"{name} may not be given with cache, which supplies it by itself")
    key, value = cache.key.shape, cache.value.shape
    if (key[1], key[3], value[3]) != (kv_heads, head_dim, head_dim):
        raise ValueError(
            f"cache must hold {kv_heads} heads of dim {head_dim}, got keys {key} and values {value}"
        )


def attend_cached(
    heads: Heads,
    cache: KVCache,
    attn_mask: npt.ArrayLike | None,
    wanted: Wanted,
    *,
    num_threads: int | None,
) -> tuple[FloatArray, FloatArray | AttentionSummary | None]:
    """Append key and value (B, L, G, d), attend; return (B, L, H, d) and what is wanted of the weights.

    An error leaves the cache as it was.
    """
    query = heads[0]
    if query.ndim != 4 or len(query) != len(cache.key):
        shape = query.shape[:-2]
        raise ValueError(
            f"query must have shape ({len(cache.key)}, length, embed_dim), as the cache's batch is, "
            f"got batch axes and length {shape}"
        )
    before = cache._filled
    first, key, value = (x.swapaxes(1, 2) for x in heads)
    try:
        cache.append(key, value)
        if isinstance(wanted, Mapping):
            out, found = summarize(
                (first, *cache._held()), attn_mask, wanted, is_causal=True,
                num_threads=num_threads, **cache._filled.positions(query.shape[1]),
            )  # fmt: skip
            return out.swapaxes(1, 2), found
        gathered = np.empty(query.shape, np.float32)
        cache.attend(
            first, attn_mask=attn_mask, out=gathered.swapaxes(1, 2), num_threads=num_threads
        )
        if not wanted:
            return gathered, None
        positions = cache._filled.positions(query.shape[1])
        weights: FloatArray = attention_weights(
            first, cache._held()[0], attn_mask, is_causal=True, num_threads=num_threads, **positions
        )
    except BaseException:
        cache._filled = before
        raise
    return gathered, weights
