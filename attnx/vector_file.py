"""Vectors to files: complete, or not there at all."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

# Vectors turned into text at a time.
_BLOCK = 256


def check_output(name: str) -> None:
    """Raise OSError if a file could not be written, before any work is done for it."""
    if name == "-":
        return
    path = Path(name)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the output's folder is not there", str(folder))
    if not path.exists() and not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "the output's folder cannot be written", str(folder))


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
    write = _write_npy if kind == "npy" else _write_jsonl
    if name == "-":
        write(sys.stdout.buffer, vectors)
        return
    if Path(name).exists() and not Path(name).is_file():
        with open(name, "wb") as file:
            write(file, vectors)
        return
    target = Path(os.path.realpath(name))
    # In the same folder, where a rename is one step; opened, not made by tempfile, so that the
    # file gets the permissions that the user's files get.
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            write(file, vectors)
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
