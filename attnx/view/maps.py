"""Weights from anywhere as maps: a matrix for each layer and head."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnx import _check

Maps = npt.NDArray[np.floating[Any]]

_FORMS = {2: "(L, S)", 3: "(H, L, S)", 4: "(layers, H, L, S)"}


def as_maps(weights: npt.ArrayLike, most_axes: int) -> Maps:
    """Return weights of two axes up to so many; each axis that may be missing is added, of length 1."""
    array = _check.array("weights", weights)
    if _check.is_half(array.dtype):
        array = array.astype(np.float32)
    forms = [form for axes, form in _FORMS.items() if axes <= most_axes]
    if array.dtype.kind != "f" or not 2 <= array.ndim <= most_axes:
        wanted = " or ".join([", ".join(forms[:-1]), forms[-1]]) if len(forms) > 1 else forms[0]
        raise ValueError(
            f"weights must be floats of shape {wanted}, got {array.dtype} of shape {array.shape}"
        )
    return array.reshape((1,) * (most_axes - array.ndim) + array.shape)


def check_weights(maps: Maps, largest: float) -> None:
    """Raise ValueError unless the weights that are there (not NaN) lie between 0 and a bound."""
    finite = maps[~np.isnan(maps)]
    if finite.size and not (finite.min() >= 0 and finite.max() <= largest):
        raise ValueError(
            f"weights must lie between 0 and {largest:g} (NaN: missing), "
            f"got {finite.min():g} to {finite.max():g}"
        )


def mean_of_heads(maps: Maps) -> Maps:
    """Return the mean (layers, 1, L, S) over the heads in which a weight is there, else NaN."""
    there = (~np.isnan(maps)).sum(axis=1, keepdims=True)
    total = np.nansum(maps, axis=1, keepdims=True, dtype=np.float64)
    mean: Maps = np.divide(total, there, out=np.full(total.shape, np.nan), where=there > 0)
    return mean


def received(maps: Maps) -> Maps:
    """Return the weight (layers, H, S) that each key gets over all queries; NaN where none is there."""
    total = np.nansum(maps, axis=-2, dtype=np.float64)
    return np.where(np.isnan(maps).all(axis=-2), np.nan, total)
