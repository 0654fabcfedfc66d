"""What every layer shares: named parameters that go in and out as a flat mapping.

A layer keeps its weights in the form its kernels read (packed panels), so parameters are not
attributes that can be written to in place: they enter through `load_state_dict`, which checks all
of them before it changes anything, and leave through `state_dict`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]
_FLOAT32 = np.dtype(np.float32)


class Module:
    """Base of all layers: parameters by name, child layers by attribute.

    A subclass says which parameters it owns (`_shapes`), turns checked arrays into the attributes
    that hold them (`_build`) and gives them back (`_export`). Attributes made by `_build` are
    never written in place, so copies of a layer share them.
    """

    _child_names: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, FloatArray]:
        """Return all parameters as new float32 arrays, named as in ``torch.nn``.

        Returns
        -------
        dict of str to ndarray
            In the order of PyTorch's own ``state_dict``.

        Examples
        --------
        >>> from attnx.layers import Linear
        >>> {name: array.shape for name, array in Linear(3, 2).state_dict().items()}
        {'weight': (2, 3), 'bias': (2,)}
        """
        return {
            prefix + name: array
            for prefix, module in self._walk("")
            for name, array in module._export().items()
        }

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Replace all parameters by those of a mapping.

        Parameters
        ----------
        mapping : mapping of str to array_like
            Floating-point arrays named and shaped as `state_dict` gives them: a PyTorch state
            dict as NumPy arrays or the tensors of a safetensors file. Everything is converted to
            float32 and copied.

        Raises
        ------
        ValueError
            If an entry is missing, is not a parameter of this layer, or has another shape; the
            message names it. The layer is then unchanged.
        TypeError
            If an entry is not a floating-point array.

        Examples
        --------
        >>> import numpy as np
        >>> from attnx.layers import Linear
        >>> layer = Linear(2, 1)
        >>> layer.load_state_dict({"weight": np.array([[1.0, 2.0]]), "bias": np.array([0.5])})
        >>> layer(np.array([[10.0, 1.0]], dtype=np.float32))
        array([[12.5]], dtype=float32)
        """
        modules = list(self._walk(""))
        wanted = {
            prefix + name: shape
            for prefix, module in modules
            for name, shape in module._shapes().items()
        }
        arrays = _checked(self, mapping, wanted)
        # All packing (and its memory) comes first, so that a failure leaves the layer as it was.
        built = [
            (module, module._build({name: arrays[prefix + name] for name in module._shapes()}))
            for prefix, module in modules
        ]
        for module, attributes in built:
            module.__dict__.update(attributes)

    def _walk(self, prefix: str) -> list[tuple[str, Module]]:
        """Return this layer and the layers inside it, each with the prefix of its names."""
        found: list[tuple[str, Module]] = [(prefix, self)]
        for name, child in self._children():
            found += child._walk(f"{prefix}{name}.")
        return found

    def _children(self) -> list[tuple[str, Module]]:
        return [(name, getattr(self, name)) for name in self._child_names]

    def _copy(self) -> Self:
        """Return a layer of its own that shares this one's weights until it loads others."""
        twin = copy.copy(self)
        for name, child in self._children():
            setattr(twin, name, child._copy())
        return twin

    def _shapes(self) -> Shapes:
        return {}

    def _build(self, parameters: Mapping[str, FloatArray]) -> dict[str, Any]:
        return {}

    def _export(self) -> dict[str, FloatArray]:
        return {}

    def _start(self, parameters: Mapping[str, FloatArray]) -> None:
        """Take the initial parameters, which need no checks."""
        self.__dict__.update(self._build(parameters))


def _checked(module: Module, mapping: Mapping[str, Any], wanted: Shapes) -> dict[str, FloatArray]:
    """Return the entries of a mapping as float32 arrays, or raise naming the wrong one."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping must map parameter names to arrays, got {type(mapping).__name__}")
    owner = type(module).__name__
    for name in wanted:
        if name not in mapping:
            raise ValueError(f"{owner}: entry {name!r} is missing")
    for name in mapping:
        if name not in wanted:
            raise ValueError(f"{owner}: entry {name!r} is not one of its parameters")
    arrays: dict[str, FloatArray] = {}
    for name, shape in wanted.items():
        array = np.asarray(mapping[name])
        # bfloat16 belongs to no NumPy kind; it is known by its name, without its package.
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise TypeError(
                f"{owner}: entry {name!r} must be a floating-point array, got {array.dtype}"
            )
        if array.shape != shape:
            raise ValueError(f"{owner}: entry {name!r} must have shape {shape}, got {array.shape}")
        # A copy even where the dtype fits: the caller may go on writing to its own array.
        arrays[name] = np.array(array, dtype=np.float32, order="C")
    return arrays


def as_input(name: str, array: npt.ArrayLike, features: int, *, least: int = 1) -> FloatArray:
    """Return a layer's argument as an array, or raise naming the argument."""
    plain = array
    if type(plain) is not np.ndarray:
        if isinstance(array, (np.ma.MaskedArray, np.matrix)):
            raise TypeError(f"{name} must be a plain array, got {type(array).__name__}")
        plain = np.asarray(array)
    if plain.dtype != _FLOAT32:
        raise TypeError(f"{name} must be float32, as the layer's weights are, got {plain.dtype}")
    if plain.ndim < least or plain.shape[-1] != features:
        axes = "..., " + "length, " * (least - 1)
        raise ValueError(f"{name} must have shape ({axes}{features}), got {plain.shape}")
    return plain


def as_size(name: str, value: int) -> int:
    """Return a constructor's size as an int of at least one, or raise naming it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def uniform(bound: float, shape: tuple[int, ...]) -> FloatArray:
    """Return weights spread evenly over [-bound, bound), the same at every call.

    The bounds are those of PyTorch's initialisers; the numbers are not.
    """
    random = np.random.default_rng(0)
    return (random.random(shape, dtype=np.float32) * 2 - 1) * np.float32(bound)
