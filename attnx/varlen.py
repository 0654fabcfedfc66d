"""Attention over packed rows of sequences of many lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _attention_call, _check
from attnx._core import _attention
from attnx.runtime import threads_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from attnx.bias import ALiBi, RelativePosition

    Array = NDArray[Any]

__all__ = ["prepared_varlen_attention", "varlen_attention"]


def varlen_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    query_starts: ArrayLike,
    key_starts: ArrayLike,
    *,
    bias: ALiBi | RelativePosition | None = None,
    is_causal: bool = False,
    query_offset: ArrayLike = 0,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: ArrayLike | None = None,
    return_lse: bool = False,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array | tuple[Array, Array]:
    """Return the attention of B sequences whose rows are packed one after the other, without padding.

    Parameters
    ----------
    query : array_like
        (rows of all sequences, H, E), float32, float64, float16 or bfloat16.
    key : array_like
        (rows of all sequences, G, E) with H a multiple of G.
    value : array_like
        (rows of all sequences, G, D).
    query_starts, key_starts : array_like of int
        (B + 1,): sequence b has the rows starts[b] to starts[b + 1]. From 0 to the number of rows, never falling.
    is_causal : bool
        Query i of a sequence sees the keys j <= i + query_offset of its sequence.
    query_offset : int or array_like of int
        Position of the first query, one number or one a sequence.
    bias, window, scale, softcap, sinks
        As in `scaled_dot_product_attention`; a bias is an object of `attnx.bias`.
    return_lse : bool
        Also return the natural log of the softmax's denominator.
    out : ndarray, optional
        Takes the result; may not overlap an input.
    num_threads : int, optional
        At most so many threads; default `get_num_threads`.

    Returns
    -------
    out : ndarray
        (rows, H, D) in the dtype of query.
    lse : ndarray
        (rows, H), only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range; the message names it.

    Notes
    -----
    The rows of a sequence have the bits of `scaled_dot_product_attention` on that sequence alone. FlashAttention's
    ``flash_attn_varlen_func`` calls the starts cu_seqlens and aligns causal masks at the end; here that is
    ``query_offset=key_lengths - query_lengths``.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> rows = np.ones((5, 1, 4), np.float32)
    >>> attnx.varlen_attention(rows, rows, rows, [0, 2, 5], [0, 2, 5]).shape
    (5, 1, 4)
    """
    call = _attention_call.packed(
        (query, key, value),
        (query_starts, key_starts),
        is_causal=is_causal,
        query_offset=query_offset,
        window=window,
        scale=scale,
        options=(bias, softcap, sinks),
    )
    rows = call.query.shape[1]
    result = _check.output(
        "out", out, (rows, call.heads, call.value_dim), call.query.dtype, call.inputs()
    )
    target = _check.writable(result)
    lse = np.empty((rows, call.heads), _check.real_dtype(call.query.dtype)) if return_lse else None
    if rows and call.heads:
        _attention.attention(
            call,
            target.swapaxes(0, 1),
            None if lse is None else lse.swapaxes(0, 1),
            threads_for(num_threads),
        )
    if target is not result:
        result[...] = target
    return result if lse is None else (result, lse)


def prepared_varlen_attention(
    query: Array, key: Array, value: Array, starts: Array, out: Array, *, is_causal: bool = False
) -> Callable[[], None]:
    """Return a function that writes `varlen_attention` of these very arrays to out: checked once, run once a layer."""
    call = _attention_call.packed(
        (query, key, value), (starts, starts), is_causal=is_causal, query_offset=0, window=None, scale=None,
        options=(None, None, None),
    )  # fmt: skip
    rows = out.swapaxes(0, 1)

    def run() -> None:
        if rows.size:
            _attention.attention(call, rows, None, threads_for(None))

    return run
