#!/usr/bin/env python3
"""Fetch glassllm, a tiny causal language model in NumPy, into a folder and print the folder's path.

It is a package of the Python Package Index (MIT), pinned to one version: weights, tokenizer and the plain NumPy
that defines the model. It is downloaded and unzipped, never installed.

    python tools/fetch_glassllm.py --to .cache/glassllm
"""

from __future__ import annotations

import sys
from pathlib import Path

from wheel_files import run

PACKAGE = "glassllm==0.1.0"
WEIGHTS_BYTES = 1582752
NEEDED = ("model.py", "weights/en.npz", "weights/en.tokenizer.json")


def is_complete(folder: Path) -> bool:
    """Say whether a folder holds the package already."""
    package = folder / "glassllm"
    return (
        all((package / name).is_file() for name in NEEDED)
        and (package / "weights/en.npz").stat().st_size == WEIGHTS_BYTES
    )


if __name__ == "__main__":
    what = "glassllm, a tiny causal language model"
    sys.exit(run(what, ".cache/glassllm", PACKAGE, "", is_complete))
