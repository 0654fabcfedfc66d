"""How far each sequence of a cache is filled, and what attention has to be told about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:  # numpy.typing alone would add 4 % to the import of NumPy
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Filled(NamedTuple):
    """Lengths of B sequences; never changed, only replaced, so that a step can be taken back."""

    lengths: Array  # (B,), never written to
    longest: int
    shortest: int
    newest: int = 0  # rows of the last append ...
    own: Array | None = (
        None  # ... and how many of them each sequence took, where some took fewer: (B,)
    )

    @classmethod
    def to(cls, lengths: Array) -> Self:
        """Return the state of given lengths."""
        return cls(lengths, int(lengths.max(initial=0)), int(lengths.min()) if lengths.size else 0)

    def append(self, count: int, own: Array | None) -> Self:
        """Return the state after `count` more rows, of which sequence b takes own[b] (None: all)."""
        if own is None and self.even:
            longer = self.longest + count
            return type(self)(self.lengths + count, longer, longer, count)
        if own is not None and (own == count).all():
            return self.append(count, None)
        grown = self.to(self.lengths + (count if own is None else own))
        return grown._replace(newest=count, own=own)

    def reorder(self, rows: Array) -> Self:
        """Return the state in which sequence b is what rows[b] was."""
        own = None if self.own is None else self.own[rows]
        return self.to(self.lengths[rows])._replace(newest=self.newest, own=own)

    @property
    def even(self) -> bool:
        """Whether all sequences are equally long."""
        return self.shortest == self.longest

    def sees_all(self, query_len: int) -> bool:
        """Whether every query is the newest position of its sequence, and all are equally long."""
        return query_len == 1 and self.even and self.own is None and self.longest > 0

    def positions(self, query_len: int) -> dict[str, Any]:
        """Return the options of attention that place the queries and end each sequence."""
        if self.own is not None:
            if query_len != self.newest:
                raise ValueError(
                    f"query must have the {self.newest} rows of the ragged append before it, got {query_len}"
                )
            return {
                "query_offset": self.lengths - self.own,
                "key_lengths": self.lengths,
                "query_lengths": self.own,
            }
        if query_len > self.shortest and self.lengths.size:
            raise ValueError(
                f"query must have at most as many rows as the cache has positions "
                f"({self.lengths.tolist()}), got {query_len}"
            )
        if self.even:
            return {"query_offset": self.longest - query_len}
        return {"query_offset": self.lengths - query_len, "key_lengths": self.lengths}
