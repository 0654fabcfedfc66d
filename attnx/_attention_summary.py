"""What `attention_summary` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnx import _check

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]


class AttentionSummary(NamedTuple):
    """What `attention_summary` found; what was not asked for is None.

    Weights, entropy and log-sum-exp are float32, or float64 for float64 queries. Where query and key had two axes there
    is no axis of heads.

    Parameters
    ----------
    top_indices : ndarray of int64 or None
        (..., H, L, k): the keys that each query gives most weight to, in falling order of weight, of equal weights the
        first key first; -1 where fewer keys are visible.
    top_weights : ndarray or None
        (..., H, L, k): their weights, 0 where the index is -1.
    entropy : ndarray or None
        (..., H, L): -sum(w log w) over the keys, in nats; 0 where nothing is visible.
    received : ndarray or None
        (..., H, S): the weight that each key gets, summed over all queries.
    rows : ndarray or None
        (..., H, len(rows), S): all weights of the chosen queries.
    lse : ndarray
        (..., H, L): the natural log of the softmax's denominator.
    output : ndarray or None
        The attention itself, where a value was given.
    num_keys : int
        S.

    Examples
    --------
    >>> import numpy as np, attnx
    >>> query = key = np.eye(3, dtype=np.float32)
    >>> summary = attnx.attention_summary(query, key, top_k=2, is_causal=True)
    >>> summary.top_indices
    array([[ 0, -1],
           [ 1,  0],
           [ 2,  0]])
    >>> summary.entropy is None
    True
    """

    top_indices: Array | None
    top_weights: Array | None
    entropy: Array | None
    received: Array | None
    rows: Array | None
    lse: Array
    output: Array | None
    num_keys: int

    def __repr__(self) -> str:
        shapes = (
            f"{name}={getattr(x, 'shape', x)}"
            for name, x in zip(self._fields, self, strict=True)
            if x is not None
        )
        return f"AttentionSummary({', '.join(shapes)})"

    def to_csr(self, b: int | tuple[int, ...] = (), h: int = 0) -> Any:
        """Return the largest weights of one head as a sparse matrix.

        Parameters
        ----------
        b : int or tuple of int
            Which entry of the batch: an index for each batch axis; may be left out where there is none.
        h : int
            Which head.

        Returns
        -------
        scipy.sparse.csr_array
            (L, S), with the weights of `top_weights` at the keys of `top_indices`.

        Raises
        ------
        ValueError
            If no largest weights were asked for (`top_k`), or `b` does not have an index for each batch axis.
        IndexError
            If there is no such entry or head.
        ImportError
            If SciPy is not installed.

        Examples
        --------
        >>> import numpy as np, attnx
        >>> query = np.eye(3, dtype=np.float32)[None]
        >>> attnx.attention_summary(query, query, top_k=1).to_csr(h=0).toarray().round(2)
        array([[0.47, 0.  , 0.  ],
               [0.  , 0.47, 0.  ],
               [0.  , 0.  , 0.47]], dtype=float32)
        """
        if self.top_indices is None or self.top_weights is None:
            raise ValueError("top_k must have been 1 or more, got 0: there are no largest weights")
        axes = max(self.lse.ndim - 2, 0)
        entry = b if isinstance(b, tuple) else (_check.integer("b", b),)
        if axes == 0 and entry in ((), (0,)):
            entry = ()
        if len(entry) != axes:
            raise ValueError(f"b must have an index for each of {axes} batch axes, got {b!r}")
        one_head = self.lse.ndim == 1
        if one_head and h != 0:
            raise IndexError(f"h must be 0 where there is one head, got {h}")
        at = () if one_head else (*entry, _check.integer("h", h))
        return _csr(self.top_indices[at], self.top_weights[at], self.num_keys)


def map_arrays(change: Callable[..., Array], *summaries: AttentionSummary) -> AttentionSummary:
    """Return a summary with `change` of the arrays of summaries that have the same ones, attribute by attribute."""
    columns = zip(*(summary[:-1] for summary in summaries), strict=True)
    arrays = [None if column[0] is None else change(*column) for column in columns]
    return AttentionSummary._make([*arrays, summaries[0].num_keys])


def _csr(keys: Array, weights: Array, num_keys: int) -> Any:
    from scipy.sparse import csr_array  # type: ignore[import-untyped] # SciPy has no stubs

    found = keys >= 0
    starts = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(found.sum(axis=1), out=starts[1:])
    matrix = csr_array((weights[found], keys[found], starts), shape=(len(keys), num_keys))
    matrix.sort_indices()
    return matrix
