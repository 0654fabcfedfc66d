"""Rotary positions: turning query and key rows by their position, and the tables for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _check, _rotary_scaling
from attnx._core import _rotary
from attnx.runtime import threads_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["apply_rotary", "rotary_tables"]

_ROWS = 1024  # of a table computed at once: float64 intermediates that stay in a cache


def apply_rotary(
    x: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    *,
    interleaved: bool = False,
    positions: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Return the rows of x turned by their positions, pair by pair of their elements.

    A pair (a, b) of a row at position p becomes (a * c - b * s, b * c + a * s), where c and s are row p of the tables
    at the number of the pair.

    Parameters
    ----------
    x : array_like
        (..., H, L, E), or (L, E) for one head: queries or keys, float32, float64, float16 or bfloat16.
    cos, sin : array_like
        (P, F) of one of these dtypes, one row a position, 2 * F <= E: see `rotary_tables`. The first 2 * F elements of
        a row are turned, the rest is copied.
    interleaved : bool
        Pair j is elements 2 * j and 2 * j + 1; by default it is elements j and F + j.
    positions : array_like of int, optional
        (L,), or the batch axes of x (all before H) and L, or what broadcasts to them along the batch axes. Default 0
        to L - 1.
    out : ndarray, optional
        Takes the result; may not overlap an input.

    Returns
    -------
    ndarray
        The shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, or a position has no row in the tables; the message names it.

    See Also
    --------
    rotary_tables : The tables.

    Notes
    -----
    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021), equation 34. Scores of turned
    queries and keys depend on the difference of their positions alone. float64 is computed in float64, all else in
    float32, and rounded once; tables of another dtype are converted row by row. A row's bits depend on the row and its
    position alone, and are the same for both kinds of pairs.

    The default is ``rotate_half`` of Hugging Face (GPT-NeoX, Llama, Qwen), whose tables repeat each row: give their
    left half. `interleaved` is the order of GPT-J and of Meta's Llama checkpoints. Both are RotaryEmbedding of ONNX,
    which also takes (B, L, H * E): reshape that and swap two axes. FlashAttention's ``apply_rotary_emb`` has
    (B, L, H, E): pass ``x.swapaxes(1, 2)``, which is read in place.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> cos, sin = attnx.rotary_tables(8, 2)
    >>> x = np.float32([[1, 0], [1, 0]])
    >>> attnx.apply_rotary(x, cos, sin, positions=[0, 2]).round(4)
    array([[ 1.    ,  0.    ],
           [-0.4161,  0.9093]], dtype=float32)
    """
    rows = _check.any_floats("x", x)
    if rows.ndim < 2:
        raise ValueError(f"x must have at least 2 axes (rows, dim), got shape {rows.shape}")
    c, s = _check.any_floats("cos", cos), _check.any_floats("sin", sin)
    if c.ndim != 2 or 2 * c.shape[1] > rows.shape[-1]:
        raise ValueError(
            f"cos must have shape (positions, pairs) with at most {rows.shape[-1] // 2} pairs, got {c.shape}"
        )
    if s.shape != c.shape:
        raise ValueError(f"sin must have the shape of cos {c.shape}, got {s.shape}")
    _check.same_dtype("sin", s, c.dtype, "cos")
    interleaved = _check.boolean("interleaved", interleaved)
    given = None if positions is None else _check.array("positions", positions)
    at = _positions(given, rows.shape, c.shape[0])
    result = _check.output("out", out, rows.shape, rows.dtype, (rows, c, s, given))
    if not result.size:
        return result
    target = _check.writable(result)
    _rotary.rotary(rows, c, s, at, target, interleaved, threads_for(None))
    if target is not result:
        result[...] = target
    return result


def rotary_tables(
    length: int,
    dim: int,
    *,
    base: float = 10000.0,
    scaling: Mapping[str, Any] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the cosines and sines of rotary positions 0 to length - 1.

    Column j of row p is the cosine (sine) of p / base**(2 * j / dim), unless `scaling` stretches the wavelengths.

    Parameters
    ----------
    length : int
        Positions.
    dim : int
        How many elements of a row are turned: the head dim E, or less. Even.
    base : float
        Above 1; rope_theta of a Hugging Face configuration. One in `scaling` must agree, unless this is the default.
    scaling : mapping, optional
        As rope_scaling (rope_parameters) in a Hugging Face configuration. ``rope_type`` (or ``type``) is one of

        - "default": no scaling.
        - "linear": positions divided by ``factor`` (Chen et al. 2023).
        - "dynamic": the base grown for `length` (NTK-aware; no change up to original_max_position_embeddings).
          Needs ``factor`` and ``original_max_position_embeddings``.
        - "yarn": long wavelengths divided by ``factor``, short ones kept (Peng et al. 2023); tables times the attention
          factor. Needs ``factor`` and ``original_max_position_embeddings``; takes ``attention_factor``, ``beta_fast``,
          ``beta_slow``, ``mscale``, ``mscale_all_dim`` and ``truncate``.
        - "llama3": likewise, in the bands of Llama 3.1. Needs ``factor``, ``low_freq_factor``, ``high_freq_factor`` and
          ``original_max_position_embeddings``.

    Returns
    -------
    cos, sin : ndarray
        (length, dim // 2) float32, computed in float64.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range, or `scaling` has an unknown key or lacks one; the message names it.

    See Also
    --------
    apply_rotary : Turns rows by the tables.

    Notes
    -----
    Su et al., RoFormer (2021), section 3.2.2. transformers computes frequencies and angles in float32, which at
    position 100,000 is an error of some thousandths; here the tables are right to a rounding. Its configurations keep
    the trained length of "dynamic" beside the dict, as max_position_embeddings: add it, under either name. transformers
    recomputes "dynamic" tables as a sequence grows; here they are those of `length` for every position.

    Examples
    --------
    >>> import attnx
    >>> cos, sin = attnx.rotary_tables(4096, 64, base=500000.0, scaling={"rope_type": "linear", "factor": 4.0})
    >>> cos.shape, cos.dtype
    ((4096, 32), dtype('float32'))
    """
    length, dim = _check.integer("length", length), _check.integer("dim", dim)
    if length < 0:
        raise ValueError(f"length must not be negative, got {length}")
    if dim < 0 or dim % 2:
        raise ValueError(f"dim must be even and not negative, got {dim}")
    base = _check.real("base", base)
    if base <= 1:
        raise ValueError(f"base must be above 1, got {base}")
    frequencies, factor = _rotary_scaling.frequencies(length, dim, base, scaling)
    cos = np.empty((length, dim // 2), np.float32)
    sin = np.empty_like(cos)
    for start in range(0, length, _ROWS):
        angles = np.arange(start, min(start + _ROWS, length))[:, np.newaxis] * frequencies
        rows = slice(start, start + _ROWS)
        np.multiply(np.cos(angles), factor, out=cos[rows], casting="same_kind")
        np.multiply(np.sin(angles), factor, out=sin[rows], casting="same_kind")
    return cos, sin


def _positions(given: Array | None, shape: tuple[int, ...], rows: int) -> Array | None:
    """Return a private int64 copy of positions within the rows of the tables, of shape (L,) or (batch axes, L)."""
    length, wanted = shape[-2], (*shape[:-3], shape[-2])
    if given is None:
        if length > rows:
            raise ValueError(
                f"positions must lie between 0 and {rows - 1} (the rows of cos), got 0 to {length - 1}"
            )
        return None
    if given.dtype.kind not in "iu" or not given.dtype.isnative:
        raise TypeError(f"positions must be integers, got {given.dtype}")
    if given.shape != (length,) and not _broadcasts(given.shape, wanted):
        raise ValueError(
            f"positions must have shape ({length},) or {wanted} (batch axes and L), got {given.shape}"
        )
    copy = given.astype(np.int64, order="C")
    if copy.size and copy.view(np.uint64).max() >= rows:  # what is negative is large
        raise ValueError(
            f"positions must lie between 0 and {rows - 1} (the rows of cos), got {given.min()} to {given.max()}"
        )
    return copy


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape has the last axis that is wanted, and before it axes that broadcast."""
    pairs = zip(shape[-2::-1], wanted[-2::-1], strict=False)
    return (
        0 < len(shape) <= len(wanted)
        and shape[-1] == wanted[-1]
        and all(n in (1, m) for n, m in pairs)
    )
