"""Additive attention (Bahdanau): a score is a weighted sum of tanh(query + key)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from attnx import _check
from attnx._core import _additive
from attnx._core._additive import UNITS
from attnx._core._arrays import plain
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = [
    "additive_attention",
    "additive_attention_of_powers",
    "key_powers",
]


@overload
def additive_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    score_weight: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    key_lengths: ArrayLike | None = None,
    return_weights: Literal[False] = False,
    num_threads: int | None = None,
) -> Array: ...
@overload
def additive_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    score_weight: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    key_lengths: ArrayLike | None = None,
    return_weights: Literal[True],
    num_threads: int | None = None,
) -> tuple[Array, Array]: ...
@overload
def additive_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    score_weight: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    key_lengths: ArrayLike | None = None,
    return_weights: bool,
    num_threads: int | None = None,
) -> Array | tuple[Array, Array]: ...
def additive_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    score_weight: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    key_lengths: ArrayLike | None = None,
    return_weights: bool = False,
    num_threads: int | None = None,
) -> Array | tuple[Array, Array]:
    """Return softmax(score_weight . tanh(query_i + key_j)) value, without an L x S x U array.

    Parameters
    ----------
    query : array_like
        (..., L, U), projected already: float32, float64, float16 or bfloat16; the last two are computed in float32.
        There is no axis of heads.
    key : array_like
        (..., S, U), projected already. Keys and values may be stored in a smaller dtype than the query.
    value : array_like
        (..., S, D). Leading axes broadcast as in NumPy.
    score_weight : array_like
        (U,): what each unit counts.
    attn_mask : array_like, optional
        Broadcasts to (..., L, S). bool: True may attend. float: added to the scores; -inf makes its pair invisible.
    key_lengths : array_like of int, optional
        The shape of the batch axes. Keys past their length are not read.
    return_weights : bool
        Also return the weights, L * S numbers a batch entry.
    num_threads : int, optional
        At most so many threads; default `get_num_threads`.

    Returns
    -------
    out : ndarray
        (..., L, D), in the dtype of query.
    weights : ndarray
        (..., L, S), in the dtype of query, rows summing to 1, only with `return_weights`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range; the message names it.

    Notes
    -----
    Bahdanau, Cho and Bengio, "Neural machine translation by jointly learning to align and translate" (2015), section
    A.1.2, after its two projections; `attnx.layers.AdditiveAttention` has them too. A query that sees nothing gives
    exactly 0; what is invisible, NaN included, changes no bit. A row's bits do not depend on the batch, the padding or
    the threads.

    ``keras.layers.AdditiveAttention`` takes its arguments as [query, value, key] and its ``scale`` is `score_weight`;
    it has no lengths, and holds the L x S x U array. PyTorch and ONNX have no such function.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> query, key = np.zeros((1, 2), dtype=np.float32), np.float32([[0, 0], [9, 9], [0, 0]])
    >>> attnx.additive_attention(query, key, np.eye(3, dtype=np.float32), np.float32([1, 1])).round(2)
    array([[0.11, 0.79, 0.11]], dtype=float32)
    """
    return additive_attention_of_powers(
        query, key, None, value, score_weight, attn_mask, key_lengths=key_lengths,
        return_weights=return_weights, num_threads=num_threads,
    )  # fmt: skip


def key_powers(key: Array, num_threads: int | None = None) -> Array:
    """Return what `additive_attention_of_powers` reuses of keys (..., S, U), contiguous rows of floats.

    They are most of the work of a step with one query: an exponential for each unit of each key.
    """
    units = key.shape[-1]
    powers = np.empty((*key.shape[:-1], -(-units // UNITS) * UNITS), key.dtype)
    if powers.size:
        rows = powers.reshape(-1, powers.shape[-1])
        _additive.powers(key.reshape(-1, units), rows, threads_for(num_threads))
    return powers


def additive_attention_of_powers(
    query: ArrayLike,
    key: ArrayLike,
    powers: Array | None,
    value: ArrayLike,
    score_weight: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    key_lengths: ArrayLike | None,
    return_weights: bool,
    num_threads: int | None,
) -> Array | tuple[Array, Array]:
    """Return `additive_attention`, bit for bit, with `powers` the key's `key_powers` in the query's dtype, or None."""
    arrays, weight, batch = _checked(query, key, value, score_weight)
    q, k, v = arrays
    real = weight.dtype
    scores = (*batch, q.shape[-2], k.shape[-2])
    if attn_mask is not None:
        attn_mask = _check.mask("attn_mask", attn_mask, scores, real)
    lengths = _check.lengths("key_lengths", key_lengths, batch, k.shape[-2])
    weights = np.empty(scores, real) if _check.boolean("return_weights", return_weights) else None
    out = np.empty((*scores[:-1], v.shape[-1]), q.dtype)
    if out.size or (weights is not None and weights.size):
        _additive.additive(
            (*arrays, attn_mask, powers),
            weight,
            batch,
            lengths,
            out,
            weights,
            threads_for(num_threads),
        )
    return out if weights is None else (out, weights.astype(q.dtype, copy=False))


def _checked(
    query: ArrayLike, key: ArrayLike, value: ArrayLike, score_weight: ArrayLike
) -> tuple[tuple[Array, Array, Array], Array, tuple[int, ...]]:
    """Return query, key and value as the core takes them, the score weight, and the batch axes."""
    q, k, v = _rows("query", query), _rows("key", key), _rows("value", value)
    if k.dtype is not q.dtype or v.dtype is not q.dtype:
        for name, a in (("key", k), ("value", v)):
            if a.dtype != q.dtype and a.dtype.itemsize >= q.dtype.itemsize:
                raise TypeError(
                    f"{name} must have the dtype of query ({q.dtype}) or a smaller one, got {a.dtype}"
                )
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"key must have the {q.shape[-1]} units of query, got {k.shape[-1]}")
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"value must have the {k.shape[-2]} rows of key, got {v.shape[-2]}")
    weight = _check.any_floats("score_weight", score_weight)
    if weight.shape != q.shape[-1:]:
        raise ValueError(f"score_weight must have shape {q.shape[-1:]}, got {weight.shape}")
    real = _check.real_dtype(q.dtype)
    if weight.dtype != real:
        weight = weight.astype(real)
    batch = q.shape[:-2]
    if k.shape[:-2] != batch or v.shape[:-2] != batch:
        batch = _broadcast(q, k, v)
    return (q, k, v), weight, batch


def _rows(name: str, x: ArrayLike) -> Array:
    if plain(x):
        return x
    a = _check.any_floats(name, x)
    if a.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes (rows, units), got shape {a.shape}")
    return a


def _broadcast(*arrays: Array) -> tuple[int, ...]:
    shapes = [a.shape[:-2] for a in arrays]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        names = ", ".join(map(str, shapes))
        raise ValueError(
            f"key and value must have batch axes that broadcast with query's, got {names}"
        ) from None
