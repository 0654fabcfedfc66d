"""The layer normalisation layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnx.layers.module import FloatArray, Module, Shapes, as_input, as_size
from attnx.norm import layer_norm


class LayerNorm(Module):
    """Normalise the last axis to mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    normalized_shape : int or sequence of one int
        Size of the last axis. PyTorch also normalises over several axes at once; that is not
        offered here.
    eps : float, default 1e-5
        Added to the variance.
    elementwise_affine : bool, default True
        Whether there are weights at all.
    bias : bool, default True
        Whether there is a shift beside the scale.

    Notes
    -----
    Parameters, as in ``torch.nn.LayerNorm``: ``weight`` and ``bias``, both (normalized_shape,).

    References
    ----------
    Ba, Kiros and Hinton, Layer Normalization, 2016, equation 3.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import LayerNorm
    >>> LayerNorm(2, eps=0.0)(np.array([[1.0, 3.0]], dtype=np.float32))
    array([[-1.,  1.]], dtype=float32)
    """

    _weight: FloatArray | None
    _bias: FloatArray | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        if isinstance(normalized_shape, Sequence):
            if len(normalized_shape) != 1:
                raise ValueError(
                    f"normalized_shape must name one axis, got {tuple(normalized_shape)}"
                )
            normalized_shape = normalized_shape[0]
        size = as_size("normalized_shape", normalized_shape)
        self.normalized_shape = (size,)
        self.eps = float(eps)
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise ValueError(f"eps must be finite and not negative, got {eps}")
        self._has_weight = bool(elementwise_affine)
        self._has_bias = bool(elementwise_affine and bias)
        ones, zeros = np.ones(size, np.float32), np.zeros(size, np.float32)
        self._start({"weight": ones, "bias": zeros})

    def __call__(self, x: npt.ArrayLike, *, num_threads: int | None = None) -> FloatArray:
        """Return the normalised array.

        Parameters
        ----------
        x : array_like
            Shape (..., normalized_shape), float32.
        num_threads : int, optional
            Most threads to use; default: `attnx.get_num_threads`.

        Returns
        -------
        ndarray
            Shape of `x`.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import LayerNorm
        >>> LayerNorm(4)(np.ones((2, 4), dtype=np.float32)).sum()
        np.float32(0.0)
        """
        rows = as_input("x", x, self.normalized_shape[0])
        return layer_norm(rows, self._weight, self._bias, eps=self.eps, num_threads=num_threads)

    def _shapes(self) -> Shapes:
        shapes: Shapes = {}
        if self._has_weight:
            shapes["weight"] = self.normalized_shape
        if self._has_bias:
            shapes["bias"] = self.normalized_shape
        return shapes

    def _build(self, parameters: Mapping[str, FloatArray]) -> dict[str, Any]:
        return {
            "_weight": parameters["weight"] if self._has_weight else None,
            "_bias": parameters["bias"] if self._has_bias else None,
        }

    def _export(self) -> dict[str, FloatArray]:
        arrays = {"weight": self._weight, "bias": self._bias}
        return {name: np.array(array) for name, array in arrays.items() if array is not None}
