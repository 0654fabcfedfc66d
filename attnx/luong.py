"""Multiplicative attention (Luong): dot, general and concat scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from attnx import _check
from attnx.additive import additive_attention
from attnx.attention import attention_weights, scaled_dot_product_attention

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["luong_attention"]

_SCORES = ("dot", "general", "concat")


@overload
def luong_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    score: str = "dot",
    weight: ArrayLike | None = None,
    key_lengths: ArrayLike | None = None,
    return_weights: Literal[False] = False,
    score_weight: ArrayLike | None = None,
    num_threads: int | None = None,
) -> Array: ...
@overload
def luong_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    score: str = "dot",
    weight: ArrayLike | None = None,
    key_lengths: ArrayLike | None = None,
    return_weights: bool,
    score_weight: ArrayLike | None = None,
    num_threads: int | None = None,
) -> Array | tuple[Array, Array]: ...
def luong_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    score: str = "dot",
    weight: ArrayLike | None = None,
    key_lengths: ArrayLike | None = None,
    return_weights: bool = False,
    score_weight: ArrayLike | None = None,
    num_threads: int | None = None,
) -> Array | tuple[Array, Array]:
    """Return softmax(score(query_i, key_j)) value with one of Luong's three scores.

    Parameters
    ----------
    query : array_like
        (..., L, E_q): float32, float64, float16 or bfloat16; the last two are computed in float32. There is no axis of
        heads.
    key : array_like
        (..., S, E_k); E_k = E_q for "dot". Keys and values may be stored in a smaller dtype than the query.
    value : array_like
        (..., S, D). Leading axes broadcast as in NumPy.
    attn_mask : array_like, optional
        Broadcasts to (..., L, S). bool: True may attend. float: added to the scores; -inf makes its pair invisible.
    score : {"dot", "general", "concat"}
        query . key, without a scale; query . weight . key; score_weight . tanh(weight [query; key]).
    weight : array_like, optional
        (E_q, E_k) for "general", (U, E_q + E_k) for "concat".
    key_lengths : array_like of int, optional
        The shape of the batch axes. Keys past their length are not read.
    return_weights : bool
        Also return the weights, L * S numbers a batch entry.
    score_weight : array_like, optional
        (U,), for "concat".
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
    Equation 7 of Luong, Pham and Manning, "Effective approaches to attention-based neural machine translation" (2015);
    the query is the decoder's state. "concat" is `additive_attention` on the products with the halves of its weight. A
    row's bits do not depend on the batch, the padding or the threads.

    ``keras.layers.Attention`` with its defaults is "dot"; it takes its arguments as [query, value, key]. PyTorch's
    ``scaled_dot_product_attention`` divides the scores by sqrt(E), which this does not.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> query, key = np.float32([[1, 0]]), np.float32([[0, 2], [2, 0]])
    >>> attnx.luong_attention(query, key, np.eye(2, dtype=np.float32)).round(2)
    array([[0.12, 0.88]], dtype=float32)
    """
    if score not in _SCORES:
        raise ValueError(f"score must be one of {', '.join(_SCORES)}, got {score!r}")
    _only_for("weight", weight, score, ("general", "concat"))
    _only_for("score_weight", score_weight, score, ("concat",))
    rows = {"query": query, "key": key, "value": value}
    q, k, v = (_rows(name, x) for name, x in rows.items())
    dtype, real = q.dtype, _check.real_dtype(q.dtype)
    width, depth = q.shape[-1], k.shape[-1]
    with_weights = _check.boolean("return_weights", return_weights)
    results: Array | tuple[Array, Array]
    if score == "concat":
        w = _matrix("weight", weight, real)
        if w.shape[1] != width + depth:
            raise ValueError(f"weight must have shape (U, {width + depth}), got {w.shape}")
        q = _product(q.astype(real, copy=False), w[:, :width], num_threads)
        k = _product(k.astype(real, copy=False), w[:, width:], num_threads)
        assert score_weight is not None
        results = additive_attention(
            q, k, v, score_weight, attn_mask, key_lengths=key_lengths, return_weights=with_weights,
            num_threads=num_threads,
        )  # fmt: skip
    else:
        if score == "general":
            w = _matrix("weight", weight, real)
            if w.shape != (width, depth):
                raise ValueError(f"weight must have shape ({width}, {depth}), got {w.shape}")
            q = _product(q.astype(real, copy=False), w.T, num_threads)
        options = {"key_lengths": key_lengths, "scale": 1.0, "num_threads": num_threads}
        results = _dot(q, k, v, attn_mask, with_weights, options)
    if isinstance(results, tuple):
        return results[0].astype(dtype, copy=False), results[1].astype(dtype, copy=False)
    return results.astype(dtype, copy=False)


def _dot(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: ArrayLike | None,
    with_weights: bool,
    options: dict[str, Any],
) -> Array | tuple[Array, Array]:
    """Attend in one head that the arrays have no axis of."""
    if attn_mask is not None:
        attn_mask = _check.array("attn_mask", attn_mask)
        if attn_mask.ndim > 2:
            attn_mask = attn_mask[..., None, :, :]
    q, k, v = (x[..., None, :, :] for x in (query, key, value))
    out: Array = scaled_dot_product_attention(q, k, v, attn_mask, **options)[..., 0, :, :]
    if not with_weights:
        return out
    # The output may have batch axes from the value alone.
    q = np.broadcast_to(q, (*out.shape[:-2], *q.shape[-3:]))
    return out, attention_weights(q, k, attn_mask, **options)[..., 0, :, :]


def _product(x: Array, weight: Array, num_threads: int | None) -> Array:
    """Return x weight^T, whose rows do not depend on one another (a BLAS does not promise that)."""
    rows = np.ascontiguousarray(weight)[None]
    product = attention_weights(
        x[..., None, :, :], rows, stage="scores", scale=1.0, num_threads=num_threads
    )
    return product[..., 0, :, :]


def _rows(name: str, x: ArrayLike) -> Array:
    a = _check.any_floats(name, x)
    if a.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes (rows, dim), got shape {a.shape}")
    return a


def _matrix(name: str, x: ArrayLike | None, dtype: np.dtype[Any]) -> Array:
    assert x is not None  # `_only_for` has refused it
    a = _rows(name, x)
    if a.ndim != 2:
        raise ValueError(f"{name} must have 2 axes, got shape {a.shape}")
    return a.astype(dtype, copy=False)


def _only_for(name: str, x: ArrayLike | None, score: str, wanted: tuple[str, ...]) -> None:
    if score in wanted and x is None:
        raise TypeError(f'{name} must be an array for score "{score}", got None')
    if score not in wanted and x is not None:
        raise TypeError(f'{name} must be None for score "{score}", got {type(x).__name__}')
