"""The multi-head attention layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from attnx.cache import KVCache
from attnx.layers.attending import attend, check_wanted
from attnx.layers.cached import attend_cached, check_cache
from attnx.layers.linear import Linear
from attnx.layers.module import FloatArray, Module, Shapes, as_size, uniform
from attnx.layers.projection import Projection, project_heads
from attnx.summary import AttentionSummary

_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


class MultiHeadAttention(Module):
    """Project to heads, attend in each of them, project back.

    Parameters
    ----------
    embed_dim : int
        Size of the query's and the output's last axis, a multiple of `num_heads`.
    num_heads : int
        Number of query heads H, each of dim d = embed_dim / H.
    num_kv_heads : int, optional
        Number of key and value heads G, a divisor of H; default H. Query head h uses key head
        h // (H / G). PyTorch's layer has no such option.
    kdim, vdim : int, optional
        Size of the key's and the value's last axis; default `embed_dim`.
    bias : bool, default True
        Whether the projections have biases.

    Notes
    -----
    Parameters, as in ``torch.nn.MultiheadAttention``: ``in_proj_weight`` (3 * embed_dim,
    embed_dim), ``in_proj_bias`` (3 * embed_dim,), ``out_proj.weight`` and ``out_proj.bias``. Where
    `kdim`, `vdim` or `num_kv_heads` differ from their defaults the weights are ``q_proj_weight``
    (H * d, embed_dim), ``k_proj_weight`` (G * d, kdim), ``v_proj_weight`` (G * d, vdim), and
    ``in_proj_bias`` is ((H + 2 * G) * d,).

    Differences from PyTorch: True in a mask means 'may attend', padding is given as lengths, no
    weights are returned unless asked for, and those are one matrix a head.

    References
    ----------
    Vaswani et al., Attention Is All You Need, 2017, section 3.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import MultiHeadAttention
    >>> layer = MultiHeadAttention(8, 2)
    >>> x = np.ones((3, 5, 8), dtype=np.float32)
    >>> layer(x, key_lengths=[5, 2, 1]).shape
    (3, 5, 8)
    """

    _child_names = ("out_proj",)
    _projection: Projection

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool = True,
    ) -> None:
        self.embed_dim = as_size("embed_dim", embed_dim)
        self.num_heads = as_size("num_heads", num_heads)
        self.num_kv_heads = (
            self.num_heads if num_kv_heads is None else as_size("num_kv_heads", num_kv_heads)
        )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, got {num_kv_heads} and {num_heads}"
            )
        self.kdim = self.embed_dim if kdim is None else as_size("kdim", kdim)
        self.vdim = self.embed_dim if vdim is None else as_size("vdim", vdim)
        self.head_dim = self.embed_dim // self.num_heads
        self._has_bias = bool(bias)
        self._separate = (
            self.num_kv_heads != self.num_heads
            or self.kdim != self.embed_dim
            or self.vdim != self.embed_dim
        )
        self._start(
            {
                name: np.zeros(shape, np.float32)
                if len(shape) == 1
                else uniform(math.sqrt(6 / sum(shape)), shape)
                for name, shape in self._shapes().items()
            }
        )
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias=self._has_bias)

    @overload
    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike | None = ...,
        value: npt.ArrayLike | None = ...,
        attn_mask: npt.ArrayLike | None = ...,
        *,
        key_lengths: npt.ArrayLike | None = ...,
        is_causal: bool = ...,
        cache: KVCache | None = ...,
        need_weights: Literal[False] = ...,
        summary: None = ...,
        num_threads: int | None = ...,
    ) -> FloatArray: ...

    @overload
    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike | None = ...,
        value: npt.ArrayLike | None = ...,
        attn_mask: npt.ArrayLike | None = ...,
        *,
        key_lengths: npt.ArrayLike | None = ...,
        is_causal: bool = ...,
        cache: KVCache | None = ...,
        need_weights: Literal[True],
        summary: None = ...,
        num_threads: int | None = ...,
    ) -> tuple[FloatArray, FloatArray]: ...

    @overload
    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike | None = ...,
        value: npt.ArrayLike | None = ...,
        attn_mask: npt.ArrayLike | None = ...,
        *,
        key_lengths: npt.ArrayLike | None = ...,
        is_causal: bool = ...,
        cache: KVCache | None = ...,
        need_weights: Literal[False] = ...,
        summary: Mapping[str, Any],
        num_threads: int | None = ...,
    ) -> tuple[FloatArray, AttentionSummary]: ...

    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike | None = None,
        value: npt.ArrayLike | None = None,
        attn_mask: npt.ArrayLike | None = None,
        *,
        key_lengths: npt.ArrayLike | None = None,
        is_causal: bool = False,
        cache: KVCache | None = None,
        need_weights: bool = False,
        summary: Mapping[str, Any] | None = None,
        num_threads: int | None = None,
    ) -> FloatArray | tuple[FloatArray, FloatArray | AttentionSummary]:
        """Attend from `query` to `key` and gather `value`.

        Parameters
        ----------
        query : array_like
            Shape (..., L, embed_dim), float32; the leading axes are the batch.
        key : array_like, optional
            Shape (..., S, kdim); default: the query (self-attention).
        value : array_like, optional
            Shape (..., S, vdim); default: the key.
        attn_mask : array_like, optional
            Broadcastable to (..., H, L, S): bool, True where a query may attend, or float, added
            to the scores.
        key_lengths : array_like, optional
            Number of keys of each sequence, in the shape of the batch axes; keys past it are not
            read.
        is_causal : bool, default False
            Whether query i sees keys 0 to i only.
        cache : KVCache, optional
            Of `num_kv_heads` heads of dim `head_dim`. Then `query` (B, L, embed_dim) holds the next L
            positions: their keys and values are appended, and each attends to all positions up to its
            own; S is the longest length. `key`, `value` and `key_lengths` may not be given.
        need_weights : bool, default False
            Whether to return the weights as well; they need memory of size L x S.
        summary : mapping, optional
            What to return of the weights without ever holding them: `top_k`, `entropy`, `received`
            and `rows` of `attnx.attention_summary`. Not together with `need_weights`.
        num_threads : int, optional
            Most threads to use; default: `attnx.get_num_threads`.

        Returns
        -------
        output : ndarray
            Shape (..., L, embed_dim).
        weights : ndarray
            Shape (..., H, L, S); only with `need_weights`.
        found : AttentionSummary
            Only with `summary`; its `output` is None.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import MultiHeadAttention
        >>> layer = MultiHeadAttention(8, 2, kdim=6, vdim=6)
        >>> query = np.ones((1, 4, 8), dtype=np.float32)
        >>> memory = np.ones((1, 5, 6), dtype=np.float32)
        >>> output, weights = layer(query, memory, need_weights=True)
        >>> output.shape, weights.shape
        ((1, 4, 8), (1, 2, 4, 5))
        >>> output, found = layer(query, memory, summary={"top_k": 3, "received": True})
        >>> found.top_indices.shape, found.received.shape
        ((1, 2, 4, 3), (1, 2, 5))
        """
        if cache is not None:
            given = {"key": key, "value": value, "key_lengths": key_lengths}
            check_cache(cache, self.num_kv_heads, self.head_dim, given)
        wanted = check_wanted(need_weights, summary)
        heads = project_heads(self, query, key, value, num_threads)
        if cache is not None:
            gathered, seen = attend_cached(heads, cache, attn_mask, wanted, num_threads=num_threads)
        else:
            gathered, seen = attend(
                heads, attn_mask, wanted, is_causal=is_causal, key_lengths=key_lengths,
                layout="blhd", num_threads=num_threads,
            )  # fmt: skip
        rows = gathered.reshape(*gathered.shape[:-2], self.embed_dim)
        output = self.out_proj(rows, num_threads=num_threads)
        return output if seen is None else (output, seen)

    def _sizes(self) -> tuple[int, int, int]:
        """Return how many rows the query's, key's and value's weights have."""
        keys = self.num_kv_heads * self.head_dim
        return self.embed_dim, keys, keys

    def _shapes(self) -> Shapes:
        rows = self._sizes()
        shapes: Shapes = {"in_proj_weight": (sum(rows), self.embed_dim)}
        if self._separate:
            features = (self.embed_dim, self.kdim, self.vdim)
            shapes = dict(zip(_SEPARATE, zip(rows, features, strict=True), strict=True))
        if self._has_bias:
            shapes["in_proj_bias"] = (sum(rows),)
        return shapes

    def _build(self, parameters: Mapping[str, FloatArray]) -> dict[str, Any]:
        if self._separate:
            query, key, value = (parameters[name] for name in _SEPARATE)
        else:
            query, key, value = np.split(parameters["in_proj_weight"], 3)
        return {"_projection": Projection((query, key, value), parameters.get("in_proj_bias"))}

    def _export(self) -> dict[str, FloatArray]:
        weights = self._projection.weights()
        exported = (
            dict(zip(_SEPARATE, weights, strict=True))
            if self._separate
            else {"in_proj_weight": np.concatenate(weights)}
        )
        bias = self._projection.bias()
        return exported if bias is None else exported | {"in_proj_bias": bias}
