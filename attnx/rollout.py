"""From the attention of each layer and head to what a token owes to another: functions on small matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attnx import _check

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["attention_rollout", "value_norm_weights"]


def attention_rollout(weights: ArrayLike, *, residual: float = 0.5) -> Array:
    """Return how much of each input token reaches each output token through all layers of self-attention.

    Parameters
    ----------
    weights : array_like
        (N, ..., H, L, L): the attention weights of N layers, the first one first.
    residual : float, default 0.5
        The share of a layer's output that its residual connection brings, from 0 to 1.

    Returns
    -------
    ndarray
        (..., L, L) in the dtype of weights, computed in float64: row i has the shares of the input tokens in output i,
        and sums to 1.

    Raises
    ------
    TypeError, ValueError
        If weights are no floats or have another shape, or `residual` is no number from 0 to 1.

    Notes
    -----
    Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020), section 2: with W the mean of a layer's
    heads, the layers' (1 - residual) W + residual I, their rows scaled to sum 1, are multiplied up. A row of zeros (a
    token that attends to nothing) owes all to itself.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> layer = np.array([[[1, 0], [0.5, 0.5]]])  # one head of two tokens
    >>> attnx.attention_rollout([layer, layer])
    array([[1.    , 0.    ],
           [0.4375, 0.5625]])
    """
    layers = _check.any_floats("weights", weights)
    if layers.ndim < 4 or layers.shape[-1] != layers.shape[-2]:
        raise ValueError(f"weights must have shape (layers, ..., heads, L, L), got {layers.shape}")
    share = _check.real("residual", residual)
    if not 0 <= share <= 1:
        raise ValueError(f"residual must lie between 0 and 1, got {share}")
    if (layers < 0).any():
        raise ValueError("weights must not be negative")
    if layers.shape[0] == 0 or layers.shape[-3] == 0:
        raise ValueError(f"weights must have a layer and a head or more, got {layers.shape}")
    identity = np.eye(layers.shape[-1])
    flow = np.broadcast_to(identity, (*layers.shape[1:-3], *identity.shape))
    for layer in layers:
        mixed = (1 - share) * layer.astype(np.float64).mean(axis=-3)
        mixed = mixed + np.where(mixed.any(axis=-1, keepdims=True), share, 1) * identity
        flow = (mixed / mixed.sum(axis=-1, keepdims=True)) @ flow
    return flow.astype(layers.dtype)


def value_norm_weights(
    weights: ArrayLike, value: ArrayLike, out_weight: ArrayLike | None = None
) -> Array:
    """Return attention weights times the size of what they weigh: a large weight on a tiny vector moves little.

    Parameters
    ----------
    weights : array_like
        (..., H, L, S), attention weights.
    value : array_like
        (..., G, S, D), the projected values that they were for, with H a multiple of G: query head h uses value head
        h // (H // G).
    out_weight : array_like, optional
        (M, H * D), the weight of the output projection (`out_proj.weight` of `MultiHeadAttention`): then the norm is
        that of the vector which head h adds to the output, ``out_weight[:, h * D : (h + 1) * D] @ value``.

    Returns
    -------
    ndarray
        (..., H, L, S) in the dtype of weights: weight times Euclidean norm; 0 where the weight is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has no float type, or its shape does not fit.

    Notes
    -----
    Kobayashi et al., "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms" (2020), equation 3: the
    norm of the weighted, transformed vector. Norms are computed in float64.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> weights, value = np.array([[[0.9, 0.1]]]), np.array([[[0.1, 0], [3, 4]]])
    >>> attnx.value_norm_weights(weights, value)
    array([[[0.09, 0.5 ]]])
    """
    w, v = _check.any_floats("weights", weights), _check.any_floats("value", value)
    if w.ndim < 3:
        raise ValueError(f"weights must have shape (..., H, L, S), got {w.shape}")
    if v.ndim < 3 or v.shape[-2] != w.shape[-1]:
        raise ValueError(f"value must have shape (..., G, {w.shape[-1]}, D), got {v.shape}")
    heads, kv_heads, dim = w.shape[-3], v.shape[-3], v.shape[-1]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"value must have a number of heads that divides {heads}, got {kv_heads}")
    if not _fits(v.shape[:-3], w.shape[:-3]):
        raise ValueError(
            f"value must have batch axes that broadcast to {w.shape[:-3]}, got {v.shape[:-3]}"
        )
    vectors = np.repeat(v.astype(np.float64), heads // kv_heads, axis=-3)
    if out_weight is not None:
        out = _check.any_floats("out_weight", out_weight)
        if out.ndim != 2 or out.shape[1] != heads * dim:
            raise ValueError(f"out_weight must have shape (M, {heads * dim}), got {out.shape}")
        by_head = out.astype(np.float64).reshape(len(out), heads, dim)
        with np.errstate(invalid="ignore"):  # infinite values are the caller's
            vectors = vectors @ by_head.transpose(1, 2, 0)
    norms = np.linalg.norm(vectors, axis=-1)[..., np.newaxis, :]
    # What has no weight adds nothing, whatever it is.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(w == 0, 0, w.astype(np.float64) * norms).astype(w.dtype)


def _fits(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts to another."""
    return len(shape) <= len(to) and all(
        n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False)
    )
