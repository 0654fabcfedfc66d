"""From the rows of a text's tokens to its one vector.

Each text is reduced by itself, over its rows in order, so that its bits do not depend on the texts
around it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from attnx.layers.module import FloatArray

Pooling = Literal["mean", "cls", "max"]


def pool(rows: FloatArray, starts: npt.NDArray[np.int64], pooling: Pooling) -> FloatArray:
    """Return one vector for each of the packed texts, none of which is empty.

    Parameters
    ----------
    rows : ndarray
        Shape (T, E), the last layer's output.
    starts : ndarray
        Shape (B + 1,): where each text begins, and where the last one ends.
    pooling : {"mean", "cls", "max"}
        The mean of the rows, the first of them, or the largest of each column.

    Returns
    -------
    ndarray
        Shape (B, E).

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.models.pooling import pool
    >>> rows = np.array([[1, 2], [3, 4], [9, 9]], dtype=np.float32)
    >>> pool(rows, np.array([0, 2, 3]), "mean")
    array([[2., 3.],
           [9., 9.]], dtype=float32)
    """
    if pooling == "cls":
        return rows.take(starts[:-1], axis=0)
    pooled = np.empty((len(starts) - 1, rows.shape[1]), np.float32)
    combine = np.add if pooling == "mean" else np.maximum
    ends = starts.tolist()
    for i, vector in enumerate(pooled):
        combine.reduce(rows[ends[i] : ends[i + 1]], axis=0, out=vector)
    if pooling == "mean":
        pooled /= np.diff(starts).astype(np.float32)[:, None]
    return pooled


def unit(vectors: FloatArray) -> FloatArray:
    """Return vectors (B, E) scaled to length 1; a vector of zeros stays one.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.models.pooling import unit
    >>> unit(np.array([[3, 4]], dtype=np.float32))
    array([[0.6, 0.8]], dtype=float32)
    """
    wide = vectors.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=-1, keepdims=True))
    scaled: npt.NDArray[np.float64] = wide / np.maximum(lengths, 1e-12)
    return scaled.astype(np.float32)
