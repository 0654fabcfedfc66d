"""JSON documents of a model folder, bounded in size and checked field by field.

They come from strangers. Every fault is a ValueError that names the file and the field.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

# Far above any real configuration, and parsed in a few milliseconds.
_LARGEST = 1 << 20


def existing(path: Path) -> Path:
    """Return the path of a file that is there, or raise FileNotFoundError naming it."""
    if not path.is_file():
        raise FileNotFoundError(f"model file not found: {path}")
    return path


def parse_json(path: Path | str, text: bytes) -> Any:
    """Return the value of a JSON text, or raise ValueError naming the file."""
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a valid JSON file: {error}") from None


def read_bounded(path: Path, largest: int) -> bytes:
    """Return the bytes of a file, or raise ValueError if there are too many."""
    size = existing(path).stat().st_size
    if size > largest:
        raise ValueError(f"{path} must have at most {largest} bytes, got {size}")
    with path.open("rb") as file:
        return file.read(size)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return entries


class Document:
    """A JSON object from a file, with fields that are read by kind."""

    def __init__(self, path: Path, entries: dict[str, Any]) -> None:
        self.path = path
        self._entries = entries

    @classmethod
    def read(cls, path: Path) -> Document:
        """Return the object in a file."""
        entries = parse_json(path, read_bounded(path, _LARGEST))
        if not isinstance(entries, dict):
            raise ValueError(f"{path} must hold a JSON object, got {type(entries).__name__}")
        return cls(path, entries)

    @classmethod
    def read_if_there(cls, path: Path) -> Document:
        """Return the object in a file, or an empty one where there is no file."""
        return cls.read(path) if path.exists() else cls(path, {})

    def get(self, name: str) -> Any:
        """Return the value of a field, None where it is absent."""
        return self._entries.get(name)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the fields that begin with a prefix."""
        return [name for name in self._entries if name.startswith(prefix)]

    def size(self, name: str) -> int:
        """Return a field that counts something: an integer from 1 to 2**31 - 1."""
        value = self._entries.get(name)
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise self.wrong(name, "an integer of at least 1")
        return value

    def flag(self, name: str) -> bool:
        """Return a field that is true or false, False where it is absent or null."""
        value = self._entries.get(name)
        if value is not None and type(value) is not bool:
            raise self.wrong(name, "true or false")
        return bool(value)

    def real(self, name: str, default: float) -> float:
        """Return a field that is a finite number."""
        value = self._entries.get(name, default)
        # An integer too long for a float is no epsilon either.
        if type(value) not in (int, float) or abs(value) > 1e30 or not math.isfinite(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def limit(self, name: str, most: int) -> int | None:
        """Return a field that bounds something, cut to `most`; None where it is absent or null.

        Tokenizers write 'no limit' as a number far beyond any integer type.
        """
        value = self._entries.get(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not value >= 1:
            raise self.wrong(name, "a number of at least 1")
        return int(min(value, most))

    def wrong(self, name: str, wanted: str) -> ValueError:
        """Return the error for a field."""
        value = repr(self._entries.get(name, "nothing"))
        return ValueError(f"{self.path}: {name} must be {wanted}, got {value[:80]}")
