"""The layer of multiplicative (Luong) attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from attnx.additive import additive_attention
from attnx.layers.module import FloatArray, Module, Shapes, as_input, as_size, uniform
from attnx.linear import PackedWeight, linear, pack_weight
from attnx.luong import luong_attention


class LuongAttention(Module):
    """Attend by one of Luong's scores, with its weights.

    Parameters
    ----------
    query_dim, key_dim : int
        Sizes of the query's and the key's last axis; equal for "dot".
    score : {"dot", "general", "concat"}, default "general"
        query . key; query . weight . key; score_weight . tanh(weight [query; key]).
    units : int, optional
        Number of units U; for "concat", which needs it.

    Notes
    -----
    Parameters: ``weight`` (query_dim, key_dim) for "general"; ``weight`` (U, query_dim + key_dim)
    and ``score_weight`` (U,) for "concat"; none for "dot". PyTorch has no such layer.

    References
    ----------
    Luong, Pham and Manning, Effective Approaches to Attention-based Neural Machine Translation,
    2015, equation 7.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import LuongAttention
    >>> layer = LuongAttention(6, 4)
    >>> key = np.ones((2, 5, 4), dtype=np.float32)
    >>> layer(np.ones((2, 3, 6), dtype=np.float32), key, key_lengths=[5, 1]).shape
    (2, 3, 4)
    """

    _weights: tuple[PackedWeight, ...]
    _score_weight: FloatArray | None

    def __init__(
        self, query_dim: int, key_dim: int, *, score: str = "general", units: int | None = None
    ) -> None:
        self.query_dim = as_size("query_dim", query_dim)
        self.key_dim = as_size("key_dim", key_dim)
        if score not in ("dot", "general", "concat"):
            raise ValueError(f"score must be one of dot, general, concat, got {score!r}")
        if score == "dot" and self.query_dim != self.key_dim:
            raise ValueError(f'key_dim must be {query_dim}, as query_dim, for "dot", got {key_dim}')
        if (units is None) == (score == "concat"):
            raise TypeError(f'units must be given for "concat" and for it alone, got {units!r}')
        self.score = score
        self.units = None if units is None else as_size("units", units)
        self._start(
            {
                name: uniform(1 / math.sqrt(shape[-1]), shape)
                for name, shape in self._shapes().items()
            }
        )

    @overload
    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        value: npt.ArrayLike | None = ...,
        attn_mask: npt.ArrayLike | None = ...,
        *,
        key_lengths: npt.ArrayLike | None = ...,
        return_weights: Literal[False] = ...,
        num_threads: int | None = ...,
    ) -> FloatArray: ...

    @overload
    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        value: npt.ArrayLike | None = ...,
        attn_mask: npt.ArrayLike | None = ...,
        *,
        key_lengths: npt.ArrayLike | None = ...,
        return_weights: Literal[True],
        num_threads: int | None = ...,
    ) -> tuple[FloatArray, FloatArray]: ...

    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        value: npt.ArrayLike | None = None,
        attn_mask: npt.ArrayLike | None = None,
        *,
        key_lengths: npt.ArrayLike | None = None,
        return_weights: bool = False,
        num_threads: int | None = None,
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Attend from `query` to `key` and gather `value`.

        Parameters
        ----------
        query : array_like
            Shape (..., L, query_dim), float32.
        key : array_like
            Shape (..., S, key_dim).
        value : array_like, optional
            Shape (..., S, D), float32; default: the key.
        attn_mask : array_like, optional
            Broadcastable to (..., L, S): bool, True where a query may attend, or float, added to
            the scores.
        key_lengths : array_like, optional
            Number of keys of each sequence, in the shape of the batch axes; keys past it have no
            influence.
        return_weights : bool, default False
            Whether to return the weights as well.
        num_threads : int, optional
            Most threads to use; default: `attnx.get_num_threads`.

        Returns
        -------
        output : ndarray
            Shape (..., L, D).
        weights : ndarray
            Shape (..., L, S); only with `return_weights`.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import LuongAttention
        >>> layer = LuongAttention(6, 4, score="concat", units=8)
        >>> layer(np.ones((1, 6), dtype=np.float32), np.ones((5, 4), dtype=np.float32)).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
        """
        rows = as_input("query", query, self.query_dim, least=2)
        keys = as_input("key", key, self.key_dim, least=2)
        values = keys if value is None else value
        if self._weights:
            rows = linear(rows, self._weights[0], num_threads=num_threads)
        if self._score_weight is None:
            return luong_attention(
                rows, keys, values, attn_mask, key_lengths=key_lengths,
                return_weights=return_weights, num_threads=num_threads,
            )  # fmt: skip
        keys = linear(keys, self._weights[1], num_threads=num_threads)
        return additive_attention(
            rows, keys, values, self._score_weight, attn_mask, key_lengths=key_lengths,
            return_weights=return_weights, num_threads=num_threads,
        )  # fmt: skip

    def _shapes(self) -> Shapes:
        if self.units is not None:
            joined = (self.units, self.query_dim + self.key_dim)
            return {"weight": joined, "score_weight": (self.units,)}
        return {"weight": (self.query_dim, self.key_dim)} if self.score == "general" else {}

    def _build(self, parameters: Mapping[str, FloatArray]) -> dict[str, Any]:
        parts: list[FloatArray] = []
        if self.score == "general":
            parts = [parameters["weight"].T]
        elif self.score == "concat":
            parts = np.split(parameters["weight"], [self.query_dim], axis=1)
        return {
            "_weights": tuple(pack_weight(part) for part in parts),
            "_score_weight": parameters.get("score_weight"),
        }

    def _export(self) -> dict[str, FloatArray]:
        parts = [packed.unpack() for packed in self._weights]
        if self._score_weight is not None:
            joined = np.concatenate(parts, axis=1)
            return {"weight": joined, "score_weight": np.array(self._score_weight)}
        return {"weight": np.ascontiguousarray(parts[0].T)} if parts else {}
