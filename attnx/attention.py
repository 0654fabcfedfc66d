"""Scaled dot-product attention, and its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from attnx import _attention_call, _check
from attnx._core import _attention
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import ArrayLike, NDArray

    from attnx.bias import ALiBi, RelativePosition

    Array = NDArray[Any]

__all__ = ["attention_weights", "scaled_dot_product_attention"]

_STAGES = ("scores", "capped", "biased", "weights")  # in the order of enum attnx_stage


@overload
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    bias: ArrayLike | ALiBi | RelativePosition | None = None,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    window: tuple[int | None, int | None] | None = None,
    key_lengths: ArrayLike | None = None,
    query_lengths: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: ArrayLike | None = None,
    layout: str = "bhld",
    return_lse: Literal[False] = False,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array: ...
@overload
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    bias: ArrayLike | ALiBi | RelativePosition | None = None,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    window: tuple[int | None, int | None] | None = None,
    key_lengths: ArrayLike | None = None,
    query_lengths: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: ArrayLike | None = None,
    layout: str = "bhld",
    return_lse: Literal[True],
    out: Array | None = None,
    num_threads: int | None = None,
) -> tuple[Array, Array]: ...
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    bias: ArrayLike | ALiBi | RelativePosition | None = None,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    window: tuple[int | None, int | None] | None = None,
    key_lengths: ArrayLike | None = None,
    query_lengths: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: ArrayLike | None = None,
    layout: str = "bhld",
    return_lse: bool = False,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array | tuple[Array, Array]:
    """Return softmax(scale * query key^T + mask) value, without ever holding the L x S matrix.

    Parameters
    ----------
    query : array_like
        (..., H, L, E): float32, float64, float16 or bfloat16; the last two are computed in float32. Two axes mean one
        head.
    key : array_like
        (..., G, S, E) with H a multiple of G: query head h reads key head h // (H // G). Keys and values may be stored
        in a smaller dtype than the query.
    value : array_like
        (..., G, S, D). Leading axes broadcast as in NumPy.
    attn_mask : array_like, optional
        Broadcasts to (..., H, L, S). bool: True may attend. float: added to the scores; -inf makes its pair invisible.
    bias : array_like of float, or object of `attnx.bias`, optional
        Added to the scores before the masks; an array broadcasts to (..., H, L, S), an object is computed in the loop.
    is_causal : bool
        Query i sees the keys j <= i + query_offset.
    query_offset : int or array_like of int
        Position of the first query, one number or one a batch entry. 0 aligns the first query with the first key (as
        PyTorch does for L != S), S - L the last with the last.
    window : (int or None, int or None), optional
        How many keys to the left and right of its own position a query sees; None: all. (2, 0) sees three keys.
    key_lengths, query_lengths : array_like of int, optional
        The shape of the batch axes. Keys past their length are not read; queries past theirs give 0.
    scale : float, optional
        Default 1 / sqrt(E).
    softcap : float, optional
        Scores become softcap * tanh(score / softcap), before bias and masks.
    sinks : array_like, optional
        (H,): a logit a head that takes part in the softmax's denominator only.
    layout : {"bhld", "blhd"}
        "blhd" reads and writes (..., L, H, E), (..., S, G, E), (..., S, G, D) in place.
    return_lse : bool
        Also return the natural log of the softmax's denominator.
    out : ndarray, optional
        Takes the result; may not overlap an input.
    num_threads : int, optional
        At most so many threads; default `get_num_threads`.

    Returns
    -------
    out : ndarray
        (..., H, L, D), or (..., L, H, D) for "blhd", in the dtype of query.
    lse : ndarray
        (..., H, L), float32 (float64 for float64), only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range; the message names it. Nothing has been written then.

    Notes
    -----
    Equation 1 of Vaswani et al., "Attention is all you need" (2017), computed blockwise as in Dao et al.,
    "FlashAttention" (2022). All restrictions intersect. A query that sees nothing gives exactly 0 and lse -inf; what is
    invisible, NaN included, changes no bit. A row's bits do not depend on the batch, the padding or the threads.

    ``torch.nn.functional.scaled_dot_product_attention`` refuses `is_causal` with a mask, lets a NaN in a masked value
    through, and has no lengths, offset or layout.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> query = key = value = np.eye(3, dtype=np.float32)
    >>> attnx.scaled_dot_product_attention(query, key, value, is_causal=True).round(2)
    array([[1.  , 0.  , 0.  ],
           [0.36, 0.64, 0.  ],
           [0.26, 0.26, 0.47]], dtype=float32)
    """
    if value is None:  # which would ask for the weights
        raise TypeError("value must be an array, got None")
    unmasked = (
        attn_mask is None and window is None and key_lengths is None and query_lengths is None
    )
    plain = bias is None and scale is None and softcap is None and sinks is None and not return_lse
    aligned = type(is_causal) is bool and type(query_offset) is int and query_offset == 0
    if unmasked and plain and aligned:
        rows_first, threads = _attention_call.swapped(layout), threads_for(num_threads)
        result = _attention.usual(query, key, value, is_causal, rows_first, out, threads)
        if result is not None:
            return result
    call = _attention_call.dense(
        (query, key, value), attn_mask, is_causal=is_causal, query_offset=query_offset, window=window,
        key_lengths=key_lengths, query_lengths=query_lengths, scale=scale, layout=layout,
        options=(bias, softcap, sinks),
    )  # fmt: skip
    return _attend(call, out, return_lse, layout, num_threads)


def attention_weights(
    query: ArrayLike,
    key: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    bias: ArrayLike | ALiBi | RelativePosition | None = None,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    window: tuple[int | None, int | None] | None = None,
    key_lengths: ArrayLike | None = None,
    query_lengths: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: ArrayLike | None = None,
    layout: str = "bhld",
    stage: str = "weights",
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Return the attention matrix softmax(scale * query key^T + mask): which query looks at which key.

    Parameters
    ----------
    query : array_like
        (..., H, L, E), float32 or float64. Two axes mean one head.
    key : array_like
        (..., G, S, E) with H a multiple of G.
    attn_mask, bias, is_causal, query_offset, window, key_lengths, query_lengths, scale, softcap, sinks, layout
        As in `scaled_dot_product_attention`.
    stage : {"weights", "biased", "capped", "scores"}
        What is returned: the weights, or the scores on the way to them: scaled; after the softcap; with bias and masks
        (-inf where invisible). The first two ignore masks. Keys and rows past their lengths are not computed: 0, and
        -inf for "biased".
    out : ndarray, optional
        Takes the result; may not overlap an input.
    num_threads : int, optional
        At most so many threads; default `get_num_threads`.

    Returns
    -------
    ndarray
        (..., H, L, S) in every layout, in the dtype of query. Weights sum to 1 over the keys (and a sink); invisible
        keys, and rows that see nothing, are 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range; the message names it.

    Notes
    -----
    This is the matrix that `scaled_dot_product_attention` avoids: L * S numbers a head. Equation 1 of Vaswani et al.
    (2017). PyTorch's fused attention does not return it.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> query = key = np.eye(3, dtype=np.float32)
    >>> attnx.attention_weights(query, key, is_causal=True).sum(axis=-1).round(5)
    array([1., 1., 1.], dtype=float32)
    """
    call = _attention_call.dense(
        (query, key), attn_mask, is_causal=is_causal, query_offset=query_offset, window=window,
        key_lengths=key_lengths, query_lengths=query_lengths, scale=scale, layout=layout,
        options=(bias, softcap, sinks),
    )  # fmt: skip
    if stage not in _STAGES:
        raise ValueError(f"stage must be one of {', '.join(_STAGES)}, got {stage!r}")
    shape: tuple[int, ...] = (*call.batch_shape, call.heads, call.query_len, call.key_len)
    dtype, real = call.query.dtype, _check.real_dtype(call.query.dtype)
    result = _check.output("out", out, shape[1:] if call.one_head else shape, dtype, call.inputs())
    target = _check.writable(result) if dtype == real else np.empty(result.shape, real)
    if result.size:
        to = target[np.newaxis] if call.one_head else target
        _attention.attention(call, to, None, threads_for(num_threads), _STAGES.index(stage))
    if target is not result:
        with np.errstate(
            over="ignore"
        ):  # a float16 score may overflow to inf, as its own sum would
            result[...] = target
    return result


def _attend(
    call: _attention_call.Attention,
    out: Array | None,
    return_lse: bool,
    layout: str,
    num_threads: int | None,
) -> Array | tuple[Array, Array]:
    query, batch, heads, rows, dim = (
        call.query,
        call.batch_shape,
        call.heads,
        call.query_len,
        call.value_dim,
    )
    swap = layout == "blhd"
    shape: tuple[int, ...] = (*batch, rows, heads, dim) if swap else (*batch, heads, rows, dim)
    if call.one_head:
        shape = (rows, dim)
    if out is None:
        result = target = np.empty(shape, query.dtype)
    else:
        result = _check.output("out", out, shape, query.dtype, call.inputs())
        target = _check.writable(result)
    lse = np.empty((*batch, heads, rows), _check.real_dtype(query.dtype)) if return_lse else None
    if result.size or (lse is not None and lse.size):
        to = target[np.newaxis] if call.one_head else target.swapaxes(-3, -2) if swap else target
        _attention.attention(call, to, lse, threads_for(num_threads))
    if target is not result:
        result[...] = target
    if lse is None:
        return result
    return result, lse[0] if call.one_head else lse
