"""Files to write: complete, or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
    if (not path.exists() or path.is_file()) and not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "the output's folder cannot be written", str(folder))


@contextmanager
def open_output(name: str) -> Iterator[BinaryIO]:
    """Open a file that appears, or is replaced, when all was written without an error.

    Parameters
    ----------
    name : str
        The file; "-" is standard output. What is no file (a pipe, a device) is written to as it is.

    Yields
    ------
    BinaryIO
        Where the bytes go.
    """
    if name == "-":
        yield sys.stdout.buffer
        return
    if Path(name).exists() and not Path(name).is_file():
        with open(name, "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(name))
    # In the same folder, where a rename is one step; opened, not made by tempfile, so that the
    # file gets the permissions that the user's files get.
    part = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    file = part.open("xb")
    try:
        with file:
            yield file
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
