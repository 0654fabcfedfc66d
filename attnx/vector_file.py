"""Vectors to files."""

from __future__ import annotations

import io
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from attnx.output_file import open_output

# Vectors turned into text at a time.
_BLOCK = 256


def write_vectors(
    name: str, vectors: npt.NDArray[np.float32], kind: Literal["npy", "jsonl"]
) -> None:
    """Write vectors (n, dim) to a file, which appears, or is replaced, when all is written.

    Parameters
    ----------
    name : str
        The file; "-" is standard output. What is no file (a pipe, a device) is written to as it is.
    vectors : ndarray
        Shape (n, dim), float32.
    kind : {"npy", "jsonl"}
        NumPy's format, or one JSON list a line with nine digits, which give the same float32 back.
    """
    with open_output(name) as file:
        (_write_npy if kind == "npy" else _write_jsonl)(file, vectors)


def _write_npy(file: BinaryIO, vectors: npt.NDArray[np.float32]) -> None:
    # numpy.save asks a file for its position, which a pipe does not have.
    header = io.BytesIO()
    little = np.ascontiguousarray(vectors, "<f4")
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(little))
    file.write(header.getvalue())
    if little.size:
        file.write(little.data.cast("B"))


def _write_jsonl(file: BinaryIO, vectors: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(vectors).all():
        raise ValueError("a vector is not finite, which JSON cannot say")
    for begin in range(0, len(vectors), _BLOCK):
        rows = vectors[begin : begin + _BLOCK].tolist()
        lines = ["[" + ", ".join(f"{x:.9g}" for x in row) + "]\n" for row in rows]
        file.write("".join(lines).encode("ascii"))
