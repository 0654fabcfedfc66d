"""What attention looks at, without ever holding the matrix of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _attention_call, _check
from attnx._attention_summary import AttentionSummary, map_arrays
from attnx._core import _attention, _summary
from attnx.runtime import threads_for

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from attnx.bias import ALiBi, RelativePosition

    Array = NDArray[Any]

__all__ = ["AttentionSummary", "attention_summary"]

_WEIGHTS = 3  # of enum attnx_stage


def attention_summary(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike | None = None,
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
    top_k: int = 0,
    entropy: bool = False,
    received: bool = False,
    rows: ArrayLike | None = None,
    num_threads: int | None = None,
) -> AttentionSummary:
    """Return what each query attends to and what each key receives, in memory for L + S numbers.

    Parameters
    ----------
    query : array_like
        (..., H, L, E), float32, float64, float16 or bfloat16. Two axes mean one head.
    key : array_like
        (..., G, S, E) with H a multiple of G.
    value : array_like, optional
        (..., G, S, D): also return the attention itself, with the bits of `scaled_dot_product_attention`.
    attn_mask, bias, is_causal, query_offset, window, key_lengths, query_lengths, scale, softcap, sinks, layout
        As in `scaled_dot_product_attention`.
    top_k : int
        How many of the largest weights of each query to return; may exceed S.
    entropy : bool
        Whether to return how widely each query attends: 0 where one key has all weight, log n where n keys share it.
    received : bool
        Whether to return the weight that each key gets over all queries.
    rows : array_like of int, optional
        Queries whose weights are wanted as a whole; negative ones count from the last, as in NumPy.
    num_threads : int, optional
        At most so many threads; default `get_num_threads`.

    Returns
    -------
    AttentionSummary
        With the attributes `top_indices`, `top_weights` (..., H, L, k), `entropy` (..., H, L), `received` (..., H, S),
        `rows` (..., H, len(rows), S), `lse` (..., H, L) and `output`; None where not asked for. `output` alone has the
        dtype of query and goes by `layout`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range; the message names it.

    Notes
    -----
    The matrix of weights is never held: entropy and largest weights come from the blocks of the fused kernel,
    `received` from a second sweep, because it needs each query's final sum; `rows` from their own scores. A sink
    takes its share of the weight, but is no key. `received` depends on the queries of its head, all else on a query's
    row alone: not on the batch, the padding or the threads, bit for bit. The largest weights are chosen by score and
    listed by weight, so that keys whose weights round to the same number (0, far below the largest) are ties among
    those chosen. A score of -inf counts as invisible. A visible NaN makes its row NaN, whose `top_indices` then say
    nothing.

    Entropy of attention: Ghader and Monz, "What does Attention in Neural Machine Translation Pay Attention to?" (2017).
    Received weight, there the score that keeps a "heavy hitter" in a cache: Zhang et al., "H2O" (2023). PyTorch,
    FlashAttention, JAX and ONNX Runtime return none of these from a fused kernel, the log-sum-exp at most: there the
    matrix has to be made.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> query = key = np.eye(3, dtype=np.float32)
    >>> summary = attnx.attention_summary(
    ...     query, key, is_causal=True, top_k=1, entropy=True, received=True, rows=[-1])
    >>> summary.top_indices[:, 0], summary.top_weights[:, 0].round(2)
    (array([0, 1, 2]), array([1.  , 0.64, 0.47], dtype=float32))
    >>> summary.entropy.round(2)
    array([0.  , 0.65, 1.06], dtype=float32)
    >>> summary.received.round(2)
    array([1.62, 0.9 , 0.47], dtype=float32)
    >>> summary.rows.round(2)
    array([[0.26, 0.26, 0.47]], dtype=float32)
    """
    call = _attention_call.dense(
        (query, key) if value is None else (query, key, value), attn_mask, is_causal=is_causal,
        query_offset=query_offset, window=window, key_lengths=key_lengths, query_lengths=query_lengths,
        scale=scale, layout=layout, options=(bias, softcap, sinks),
    )  # fmt: skip
    count = _check.integer("top_k", top_k)
    if not 0 <= count < 1 << 31:
        raise ValueError(f"top_k must not be negative or past 2**31 - 1, got {top_k}")
    wanted = _check.boolean("entropy", entropy), _check.boolean("received", received)
    chosen = None if rows is None else _chosen(rows, call.query_len)
    return _summarize(call, layout, count, wanted, chosen, threads_for(num_threads))


def _chosen(rows: ArrayLike, length: int) -> list[int]:
    """Return row numbers that count from 0."""
    given = _check.array("rows", rows)
    if not given.size and given.dtype == np.float64:  # an empty list
        given = given.astype(np.int64)
    taken = _check.integers("rows", given, given.shape)
    if given.ndim != 1:
        raise ValueError(f"rows must have one axis, got shape {given.shape}")
    if given.size and not (-length <= given.min() and given.max() < length):
        raise ValueError(
            f"rows must lie between {-length} and {length - 1}, got {given.min()} to {given.max()}"
        )
    return [int(i) + length * bool(i < 0) for i in taken]


def _summarize(
    call: _attention_call.Attention,
    layout: str,
    count: int,
    wanted: tuple[bool, bool],
    chosen: list[int] | None,
    threads: int,
) -> AttentionSummary:
    batch, heads, length = call.batch_shape, call.heads, call.query_len
    real = _check.real_dtype(call.query.dtype)
    per_row = (*batch, heads, length)
    dim = 0 if call.value is None else call.value_dim
    swap = layout == "blhd" and not call.one_head
    out = np.empty((*batch, length, heads, dim) if swap else (*per_row, dim), call.query.dtype)
    lse = np.empty(per_row, real)
    entropy = np.empty(per_row, real) if wanted[0] else None
    rest = np.empty(per_row, real) if wanted[1] else None
    received = np.zeros((*batch, heads, call.key_len), real) if wanted[1] else None
    top_keys = np.empty((*per_row, count), np.int64) if count else None
    top_weights = np.empty((*per_row, count), real) if count else None
    if lse.size:
        to = out.swapaxes(-3, -2) if swap else out
        _summary.summary(call, to, lse, (rest, entropy, top_weights, top_keys), threads)
        if rest is not None and received is not None and received.size:
            _summary.received(call, lse, rest, received, threads)
    found = AttentionSummary(
        top_keys, top_weights, entropy, received,
        None if chosen is None else _rows(call, chosen, threads),
        lse, None if call.value is None else out, call.key_len,
    )  # fmt: skip
    return map_arrays(lambda x: x[0], found) if call.one_head else found


def _rows(call: _attention_call.Attention, chosen: list[int], threads: int) -> Array:
    """Return the weights of some queries, each run of consecutive ones by a call of its own."""
    batch = call.batch_shape
    shape = (*batch, call.heads, len(chosen), call.key_len)
    out: Array = np.empty(shape, _check.real_dtype(call.query.dtype))
    for r, i, count in _runs(chosen) if out.size else ():
        # Arrays still where the batch has no axes: the core reads them where they lie.
        offsets = np.full(batch, i, np.int64)
        if call.query_offsets is not None:
            offsets += call.query_offsets
        lengths = None
        if call.query_lengths is not None:
            lengths = np.empty(batch, np.int64)
            lengths[...] = np.clip(call.query_lengths - i, 0, count)
        one = call._replace(
            query=call.query[..., i : i + count, :],
            query_len=count,
            mask=_rows_of(call.mask, i, count),
            query_offsets=offsets,
            query_lengths=lengths,
            options=call.options and (_rows_of(call.options[0], i, count), *call.options[1:]),
        )
        _attention.attention(one, out[..., r : r + count, :], None, threads, _WEIGHTS)
    return out


def _runs(chosen: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the place, the first row and the length of each run of consecutive rows."""
    place = 0
    for end in range(1, len(chosen) + 1):
        if end == len(chosen) or chosen[end] != chosen[end - 1] + 1:
            yield place, chosen[place], end - place
            place = end


def _rows_of(added: Array | None, first: int, count: int) -> Array | None:
    """Return what a mask or bias says of some queries."""
    if added is None or added.ndim < 2 or added.shape[-2] == 1:
        return added
    return added[..., first : first + count, :]
