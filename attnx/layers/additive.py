"""The layer of additive (Bahdanau) attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from attnx.additive import additive_attention_of_powers, key_powers
from attnx.layers.module import FloatArray, Module, Shapes, as_input, as_size, uniform
from attnx.linear import PackedWeight, linear, pack_weight


class Memory(NamedTuple):
    """Keys and their projection, made by `AdditiveAttention.project` and used at every step."""

    key: FloatArray  # (..., S, key_dim)
    projected: FloatArray  # (..., S, units)
    powers: FloatArray | None = None  # exponentials of `projected`, for the kernel

    def reorder(self, rows: npt.NDArray[Any] | slice) -> Memory:
        """Return the memory of these entries of the batch, chosen by their numbers, a mask or a slice."""
        powers = None if self.powers is None else self.powers[rows]
        return Memory(self.key[rows], self.projected[rows], powers)


class AdditiveAttention(Module):
    """Project queries and keys to common units and attend by score_weight . tanh(query + key).

    Parameters
    ----------
    query_dim, key_dim : int
        Sizes of the query's and the key's last axis.
    units : int
        Number of units U that both are projected to.
    bias : bool, default False
        Whether a bias is added to the sum of the projections.

    Notes
    -----
    Parameters: ``query_weight`` (U, query_dim), ``key_weight`` (U, key_dim), ``score_weight`` (U,)
    and, with `bias`, ``bias`` (U,). PyTorch has no such layer; in Keras it is two Dense layers
    without activation, whose kernels are the transposes of the weights, before
    ``AdditiveAttention``, whose scale is ``score_weight``.

    References
    ----------
    Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate,
    2015, section A.1.2: ``query_weight`` is W_a, ``key_weight`` U_a, ``score_weight`` v_a.

    Examples
    --------
    A decoder projects the keys once and attends to them at every step:

    >>> import numpy as np
    >>> from attnx.layers import AdditiveAttention
    >>> layer = AdditiveAttention(6, 4, 8)
    >>> memory = layer.project(np.ones((2, 5, 4), dtype=np.float32))
    >>> layer(np.ones((2, 1, 6), dtype=np.float32), memory, key_lengths=[5, 3]).shape
    (2, 1, 4)
    """

    _weights: tuple[PackedWeight, PackedWeight, FloatArray]
    _bias: FloatArray | None

    def __init__(self, query_dim: int, key_dim: int, units: int, *, bias: bool = False) -> None:
        self.query_dim = as_size("query_dim", query_dim)
        self.key_dim = as_size("key_dim", key_dim)
        self.units = as_size("units", units)
        self._has_bias = bool(bias)
        self._start(
            {
                name: uniform(1 / math.sqrt(shape[-1]), shape)
                for name, shape in self._shapes().items()
            }
        )

    def project(self, key: npt.ArrayLike, *, num_threads: int | None = None) -> Memory:
        """Project keys once, for many calls.

        Parameters
        ----------
        key : array_like
            Shape (..., S, key_dim), float32. The result holds on to it and reads it at every call.
        num_threads : int, optional
            Most threads to use; default: `attnx.get_num_threads`.

        Returns
        -------
        Memory
            Takes the place of `key` in a call; a call with it gives the same bits.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import AdditiveAttention
        >>> memory = AdditiveAttention(6, 4, 8).project(np.ones((2, 5, 4), dtype=np.float32))
        >>> memory.projected.shape
        (2, 5, 8)
        """
        rows = as_input("key", key, self.key_dim, least=2)
        projected = self._projected(rows, num_threads)
        return Memory(rows, projected, key_powers(projected, num_threads))

    def _projected(self, rows: FloatArray, num_threads: int | None) -> FloatArray:
        return linear(rows, self._weights[1], num_threads=num_threads)

    @overload
    def __call__(
        self,
        query: npt.ArrayLike,
        key: npt.ArrayLike | Memory,
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
        key: npt.ArrayLike | Memory,
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
        key: npt.ArrayLike | Memory,
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
        key : array_like or Memory
            Shape (..., S, key_dim), or what `project` made of it.
        value : array_like, optional
            Shape (..., S, D), float32; default: the key, as it is before its projection.
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
        >>> from attnx.layers import AdditiveAttention
        >>> layer = AdditiveAttention(6, 4, 8)
        >>> query, key = np.ones((1, 2, 6), dtype=np.float32), np.ones((1, 5, 4), dtype=np.float32)
        >>> output, weights = layer(query, key, return_weights=True)
        >>> output.shape, weights.shape
        ((1, 2, 4), (1, 2, 5))
        """
        rows = as_input("query", query, self.query_dim, least=2)
        if isinstance(key, Memory):
            if key.projected.shape[-1] != self.units:
                raise ValueError(
                    f"key must be projected to {self.units} units, got {key.projected.shape[-1]}"
                )
            memory = key
        else:
            keys = as_input("key", key, self.key_dim, least=2)
            memory = Memory(keys, self._projected(keys, num_threads))
        projected = linear(rows, self._weights[0], self._bias, num_threads=num_threads)
        return additive_attention_of_powers(
            projected, memory.projected, memory.powers, memory.key if value is None else value,
            self._weights[2], attn_mask, key_lengths=key_lengths, return_weights=return_weights,
            num_threads=num_threads,
        )  # fmt: skip

    def _shapes(self) -> Shapes:
        shapes: Shapes = {
            "query_weight": (self.units, self.query_dim),
            "key_weight": (self.units, self.key_dim),
            "score_weight": (self.units,),
        }
        if self._has_bias:
            shapes["bias"] = (self.units,)
        return shapes

    def _build(self, parameters: Mapping[str, FloatArray]) -> dict[str, Any]:
        query, key = (pack_weight(parameters[name]) for name in ("query_weight", "key_weight"))
        return {
            "_weights": (query, key, parameters["score_weight"]),
            "_bias": parameters.get("bias"),
        }

    def _export(self) -> dict[str, FloatArray]:
        query, key, score = self._weights
        exported = {
            "query_weight": query.unpack(),
            "key_weight": key.unpack(),
            "score_weight": np.array(score),
        }
        return exported if self._bias is None else exported | {"bias": np.array(self._bias)}
