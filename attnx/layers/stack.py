"""One pass through a stack of encoder layers, from the user's array to the user's array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnx.layers.block import normalize, workspace
from attnx.layers.module import FloatArray, as_input
from attnx.layers.packing import Attend, as_lengths, attend_packed, attend_padded, starts_of

if TYPE_CHECKING:
    from attnx.layers.norm import LayerNorm
    from attnx.layers.transformer import TransformerEncoderLayer
    from attnx.layers.workspace import Workspace


def encode(
    layers: Sequence[TransformerEncoderLayer],
    norm: LayerNorm | None,
    src: npt.ArrayLike,
    mask: npt.ArrayLike | None,
    lengths: npt.ArrayLike | None,
    is_causal: bool,
) -> FloatArray:
    """Take (..., L, d_model) through all layers; positions past the lengths come back as 0.

    Without a mask the positions before the lengths are packed, and nothing is computed for the
    others. A mask has the axes of the padded array, so with one the rows stay where they are.
    """
    first = layers[0]
    padded = as_input("src", src, first.d_model, least=2)
    shape = padded.shape[:-1]
    limits = None if lengths is None else as_lengths("src_lengths", lengths, shape[:-1], shape[-1])
    rows = padded.reshape(-1, first.d_model)
    if limits is None:
        result = run(layers, norm, rows, attend_padded(shape, mask, None, is_causal))
        return result.reshape(padded.shape)
    valid = (np.arange(shape[-1]) < limits[:, None]).reshape(-1)
    if mask is not None:
        result = run(layers, norm, rows, attend_padded(shape, mask, limits, is_causal))
        result[~valid] = 0
        return result.reshape(padded.shape)
    result = np.zeros(rows.shape, np.float32)
    result[valid] = run(layers, norm, rows[valid], attend_packed(starts_of(limits), is_causal))
    return result.reshape(padded.shape)


def run(
    layers: Sequence[TransformerEncoderLayer],
    norm: LayerNorm | None,
    rows: FloatArray,
    attend: Attend,
) -> FloatArray:
    """Take packed rows (T, d_model) through all layers, with buffers of their own."""
    work = workspace(layers, len(rows))
    return run_in(layers, norm, rows, attend, work)


def run_in(
    layers: Sequence[TransformerEncoderLayer],
    norm: LayerNorm | None,
    rows: FloatArray,
    attend: Attend,
    work: Workspace,
) -> FloatArray:
    """Take packed rows (T, d_model), which may be `work.result`, through all layers."""
    for layer in layers:
        rows = layer._forward(rows, work, attend)
    if norm is not None:
        rows = normalize(norm, rows, work.other, work)
    return rows
