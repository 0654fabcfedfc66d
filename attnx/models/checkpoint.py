"""Weights from a safetensors file, whose header is checked before the file is trusted.

A header is a length of 8 bytes and a JSON object that gives each tensor its dtype, shape and place
in the bytes that follow. Every number in it is checked here: sizes multiply without end, places
follow each other without gap or overlap, and the last one ends where the file does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnx.layers.module import FloatArray
from attnx.models.documents import existing, parse_json

# The format allows 100 MB. A BERT of a hundred layers needs 0.2 MB, and a header is parsed into
# Python objects of many times its size before its numbers can be checked.
_LARGEST_HEADER = 1 << 20
_ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# What NumPy reads the types of weights as: the format is little-endian.
FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


class Tensor(NamedTuple):
    """A tensor's dtype, its shape, and its place in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name, without reading their data.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a number in the header cannot be right.
    """
    size = existing(path).stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise ValueError(f"{path} is too short for a safetensors file: {len(first)} bytes")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - 8, _LARGEST_HEADER):
            raise ValueError(
                f"{path}: the header must have at most {min(size - 8, _LARGEST_HEADER)} bytes, "
                f"got {length}"
            )
        entries = parse_json(path, file.read(length))
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: the header must be a JSON object")
    entries.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _tensor(path, name, entry, start) for name, entry in entries.items()}
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin != end:
            raise ValueError(f"{path}: tensor {name!r} must begin where the one before it ends")
        end = tensor.end
    if end != size:
        raise ValueError(f"{path} must have {end} bytes by its header, got {size}")
    return tensors


def _tensor(path: Path, name: str, entry: Any, start: int) -> Tensor:
    """Return the tensor that an entry of the header describes."""
    what = f"{path}: tensor {name[:200]!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{what} must have a dtype, a shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
        raise ValueError(f"{what} has the unknown dtype {str(dtype)[:80]!r}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(_is_count(n) for n in shape):
        raise ValueError(f"{what} must have a shape of integers from 0 to 2**48")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ValueError(f"{what} must have two data_offsets from 0 to 2**48")
    # Python's integers do not overflow, and 32 sizes below 2**48 multiply in no time.
    size = _ITEM_SIZES[dtype]
    for n in shape:
        size *= n
    if offsets[1] - offsets[0] != size:
        raise ValueError(
            f"{what} has {offsets[1] - offsets[0]} bytes by its data_offsets, "
            f"its shape and dtype need another number"
        )
    return Tensor(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= 1 << 48


class Checkpoint:
    """The tensors of a checked file, read one at a time as float32.

    NumPy reads them where the header says they are: with every number of it checked, nothing is
    left for another package to do.

    Parameters
    ----------
    path : Path
        The safetensors file.
    tensors : mapping
        Its header, from `read_header`.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self._path = path
        self._tensors = tensors

    def read(self, name: str) -> FloatArray:
        """Return a tensor as a float32 array of its own."""
        tensor = self._tensors[name]
        count = math.prod(tensor.shape)
        stored = np.fromfile(self._path, FLOATS[tensor.dtype], count, offset=tensor.begin)
        if stored.size != count:
            raise ValueError(f"{self._path}: tensor {name!r} changed while it was read")
        if tensor.dtype == "BF16":
            # NumPy has no bfloat16: it is the upper half of a float32.
            stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return stored.astype(np.float32, copy=False).reshape(tensor.shape)
