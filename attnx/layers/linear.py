"""The linear layer: x W^T + b, with W packed once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attnx.layers.module import FloatArray, Module, Shapes, as_input, as_size, uniform
from attnx.linear import PackedWeight, linear, pack_weight


class Linear(Module):
    """Apply ``y = x W^T + b`` over the last axis.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of the input and of the output.
    bias : bool, default True
        Whether b is added.

    Notes
    -----
    Parameters, named and shaped as in ``torch.nn.Linear``: ``weight`` (out_features, in_features)
    and ``bias`` (out_features,). A row of the result has the same bits whatever rows come with it.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.layers import Linear
    >>> Linear(3, 2)(np.zeros((4, 3), dtype=np.float32)).shape
    (4, 2)
    """

    _weight: PackedWeight
    _bias: FloatArray | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features = as_size("in_features", in_features)
        self.out_features = as_size("out_features", out_features)
        self._has_bias = bool(bias)
        bound = 1 / math.sqrt(self.in_features)
        self._start({name: uniform(bound, shape) for name, shape in self._shapes().items()})

    def __call__(self, x: npt.ArrayLike, *, num_threads: int | None = None) -> FloatArray:
        """Return x W^T + b.

        Parameters
        ----------
        x : array_like
            Shape (..., in_features), float32.
        num_threads : int, optional
            Most threads to use; default: `attnx.get_num_threads`.

        Returns
        -------
        ndarray
            Shape (..., out_features).

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import Linear
        >>> Linear(3, 2)(np.zeros(3, dtype=np.float32)).shape
        (2,)
        """
        rows = as_input("x", x, self.in_features)
        return linear(rows, self._weight, self._bias, num_threads=num_threads)

    def _shapes(self) -> Shapes:
        shapes: Shapes = {"weight": (self.out_features, self.in_features)}
        if self._has_bias:
            shapes["bias"] = (self.out_features,)
        return shapes

    def _build(self, parameters: Mapping[str, FloatArray]) -> dict[str, Any]:
        return {"_weight": pack_weight(parameters["weight"]), "_bias": parameters.get("bias")}

    def _export(self) -> dict[str, FloatArray]:
        exported = {"weight": self._weight.unpack()}
        if self._bias is not None:
            exported["bias"] = np.array(self._bias)
        return exported
