"""Merging attention over disjoint sets of keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["merge_attention"]


def merge_attention(outputs: Sequence[ArrayLike], lses: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """Return the attention over all keys from that over disjoint sets of them.

    Parameters
    ----------
    outputs : sequence of array_like
        One (..., H, L, D) for each set of keys, float32, float64, float16 or bfloat16.
    lses : sequence of array_like
        Their log-sum-exps (..., H, L), float64 for float64 outputs, else float32: what attention gives with
        ``return_lse=True``. -inf: no key was visible, and that output has no influence.

    Returns
    -------
    out : ndarray
        (..., H, L, D) in the dtype of the outputs: 0 where every log-sum-exp is -inf.
    lse : ndarray
        (..., H, L), the log-sum-exp over all keys.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape; the message names it.

    Notes
    -----
    With z the log-sum-exp of everything, out is the sum of exp(lse_i - z) * out_i, added in the order given: Dao,
    FlashAttention-2 (2023), section 3.1; Ye et al., FlashInfer (2025), section 2.2. Exact, so keys may be kept in parts
    (a shared prefix, other machines). A sink belongs to one part only, or it would be counted often. Packed rows,
    outputs (rows, H, D) with log-sum-exps (rows, H), merge likewise; swap rows and heads of outputs in layout "blhd".
    FlashInfer's ``merge_states`` differs by its log-sum-exps, which have base 2, and by stacked parts.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> query, key, value = np.ones((3, 1, 4, 8), np.float32)
    >>> parts = [
    ...     attnx.scaled_dot_product_attention(query, key[:, keys], value[:, keys], return_lse=True)
    ...     for keys in (slice(0, 1), slice(1, 4))
    ... ]
    >>> out, lse = attnx.merge_attention(*zip(*parts))
    >>> out.shape, bool(np.allclose(lse, np.log(4) + np.sqrt(8)))
    ((1, 4, 8), True)
    """
    parts, logs = _parts(outputs, lses)
    dtype, sums = logs[0].dtype, np.zeros(parts[0].shape, logs[0].dtype)
    # float64 for what is small: the weights of a row's parts then add up to 1 within a rounding of the result.
    top = np.full(logs[0].shape, -np.inf)
    total = np.zeros(logs[0].shape)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for log in logs:
            np.maximum(top, log, out=top)
        base = np.where(top == -np.inf, 0, top)
        for log in logs:
            total += np.exp(log - base)
        term = np.empty_like(sums)
        for part, log in zip(parts, logs, strict=True):
            weight = (np.exp(log - base) / total).astype(dtype)[..., np.newaxis]
            term[...] = part
            np.multiply(term, weight, out=term)
            np.add(sums, term, out=sums, where=(log != -np.inf)[..., np.newaxis])
        lse = (base + np.log(total)).astype(dtype)
        return sums.astype(parts[0].dtype, copy=False), lse


def _parts(
    outputs: Sequence[ArrayLike], lses: Sequence[ArrayLike]
) -> tuple[list[Array], list[Array]]:
    """Return the parts as arrays that fit one another."""
    for name, given in (("outputs", outputs), ("lses", lses)):
        if not isinstance(given, Iterable):
            raise TypeError(f"{name} must be a sequence of arrays, got {type(given).__name__}")
    parts = [_check.any_floats(f"outputs[{i}]", x) for i, x in enumerate(outputs)]
    logs = [_check.array(f"lses[{i}]", x) for i, x in enumerate(lses)]
    if not parts:
        raise ValueError("outputs must have at least one array, got none")
    if len(logs) != len(parts):
        raise ValueError(f"lses must have one array an output ({len(parts)}), got {len(logs)}")
    first = parts[0]
    if not first.ndim:
        raise ValueError("outputs[0] must have at least 1 axis, got a scalar")
    wanted = _check.real_dtype(first.dtype)
    for i, (part, log) in enumerate(zip(parts, logs, strict=True)):
        _check.same_dtype(f"outputs[{i}]", part, first.dtype, "outputs[0]")
        _check.same_dtype(f"lses[{i}]", log, wanted, f"sums of {first.dtype}")
        if part.shape != first.shape:
            raise ValueError(
                f"outputs[{i}] must have the shape of outputs[0] {first.shape}, got {part.shape}"
            )
        if log.shape != first.shape[:-1]:
            raise ValueError(
                f"lses[{i}] must have the shape {first.shape[:-1]} of outputs without D, got {log.shape}"
            )
    return parts, logs
