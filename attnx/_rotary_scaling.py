"""Frequencies of rotary positions, scaled as the rope_scaling of a Hugging Face configuration says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnx import _check

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Scaled = tuple[NDArray[np.float64], float]  # frequencies, and the factor of the tables


class _Call(NamedTuple):
    """What a scaling is made from; lengths and factors have been checked."""

    length: int
    dim: int
    base: float
    options: dict[str, Any]

    def plain(self) -> NDArray[np.float64]:
        """Return base**(-2 j / dim)."""
        return self.base ** (np.arange(0, self.dim, 2) / -max(self.dim, 1))


def frequencies(length: int, dim: int, base: float, scaling: Mapping[str, Any] | None) -> Scaled:
    """Return dim // 2 frequencies in radians a position, and the factor of cosines and sines."""
    if scaling is None:
        scaling = {}
    elif not isinstance(scaling, Mapping):
        raise TypeError(f"scaling must be a dict, got {type(scaling).__name__}")
    options = {key: value for key, value in scaling.items() if value is not None}
    kind, same = options.pop("rope_type", None), options.pop("type", None)
    kind = (same or "default") if kind is None else kind
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"scaling['rope_type'] must be one of {', '.join(_KINDS)}, got {kind!r}")
    theta = _positive(options, "rope_theta", base)
    if theta != base and base != 10000.0:
        raise ValueError(f"scaling['rope_theta'] must be base ({base}), got {theta}")
    options.pop("rope_theta", None)
    if theta <= 1:
        raise ValueError(f"scaling['rope_theta'] must be above 1, got {theta}")
    scaled, required, optional = _KINDS[kind]
    if kind == "dynamic" and _TRAINED not in options and "max_position_embeddings" in options:
        options[_TRAINED] = options.pop("max_position_embeddings")
    for key in required:
        if key not in options:
            raise ValueError(f"scaling must have {key!r} for rope_type {kind!r}, got {[*scaling]}")
        options[key] = _positive(options, key)
    for key in options:
        if key not in required and key not in optional:
            raise ValueError(f"scaling has a key that rope_type {kind!r} does not know: {key!r}")
    return scaled(_Call(length, dim, theta, options))


def _positive(options: dict[str, Any], key: str, default: float | None = None) -> float:
    """Return a number above 0."""
    number = _check.real(f"scaling[{key!r}]", options.get(key, default))
    if number <= 0:
        raise ValueError(f"scaling[{key!r}] must be above 0, got {number}")
    return number


def _default(call: _Call) -> Scaled:
    return call.plain(), 1.0


def _linear(call: _Call) -> Scaled:
    return call.plain() / call.options["factor"], 1.0


def _dynamic(call: _Call) -> Scaled:
    """YaRN, section 3.3: another base, so that the longest wavelength grows most and the shortest not at all."""
    factor, trained = call.options["factor"], call.options[_TRAINED]
    stretch = factor * max(call.length, trained) / trained - (factor - 1)
    if call.dim > 2:  # the only frequency of dim 2 is 1 for every base
        call = call._replace(base=call.base * stretch ** (call.dim / (call.dim - 2)))
    return call.plain(), 1.0


def _yarn(call: _Call) -> Scaled:
    """YaRN, section 3.2: pairs that turn often in the trained length are kept, those that turn little are divided."""
    options, dim = call.options, call.dim
    fast, slow = _positive(options, "beta_fast", 32), _positive(options, "beta_slow", 1)
    if fast < slow:
        raise ValueError(f"scaling['beta_fast'] must be at least beta_slow {slow}, got {fast}")
    low, high = (
        dim * math.log(options[_TRAINED] / (turns * 2 * math.pi)) / (2 * math.log(call.base))
        for turns in (fast, slow)
    )
    if _check.boolean("scaling['truncate']", options.get("truncate", True)):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # no division by zero
    divided = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    frequency = call.plain()
    return frequency / options["factor"] * divided + frequency * (1 - divided), _temper(options)


def _temper(options: dict[str, Any]) -> float:
    """YaRN, section 3.4: longer contexts want sharper scores; DeepSeek's mscale weighs that."""
    if "attention_factor" in options:
        return _positive(options, "attention_factor")
    growth = math.log(max(options["factor"], 1.0)) / 10
    weights = [
        _check.real(f"scaling[{key!r}]", options.get(key, 0))
        for key in ("mscale", "mscale_all_dim")
    ]
    if all(weights):
        return (weights[0] * growth + 1) / (weights[1] * growth + 1)
    return growth + 1


def _llama3(call: _Call) -> Scaled:
    """Frequencies below low_freq_factor turns of the trained length are divided, above high_freq_factor kept."""
    factor, trained, low, high = (call.options[key] for key in _KINDS["llama3"][1])
    if low >= high:
        raise ValueError(f"scaling['high_freq_factor'] must be above {low}, got {high}")
    frequency = call.plain()
    turns = trained * frequency / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return frequency / factor * (1 - kept) + frequency * kept, 1.0


_TRAINED = "original_max_position_embeddings"
# What scales, the keys that it needs, and those that it may have.
_KINDS: dict[str, tuple[Callable[[_Call], Scaled], tuple[str, ...], tuple[str, ...]]] = {
    "default": (_default, (), ()),
    "linear": (_linear, ("factor",), ()),
    "dynamic": (_dynamic, ("factor", _TRAINED), ()),
    "yarn": (
        _yarn,
        ("factor", _TRAINED),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "llama3": (_llama3, ("factor", _TRAINED, "low_freq_factor", "high_freq_factor"), ()),
}
