"""What stands beside the rows and columns of a matrix."""

from __future__ import annotations

from collections.abc import Sequence


def as_labels(
    name: str, labels: Sequence[str] | None, count: int, *, ascii_only: bool = False
) -> list[str]:
    """Return so many labels, by default numbers, without characters that do more than be seen."""
    if labels is None:
        return [str(number) for number in range(count)]
    if isinstance(labels, str) or len(labels) != count:
        raise ValueError(f"{name} must be {count} labels, one for each, got {len(labels)}")
    return [printable(label, ascii_only) for label in labels]


def printable(label: str, ascii_only: bool = False) -> str:
    """Return a label with its codes for characters that move the cursor, or cannot be written."""
    return "".join(
        c if c.isprintable() and (c.isascii() or not ascii_only) else ascii(c)[1:-1]
        for c in str(label)
    )
