"""From texts to normalised vectors around a peer's encoder: what every peer does alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

#: Sentences a padded batch, after sorting by length.
BATCH = 32

#: Token ids (B, L) and mask (B, L), both int64, to hidden states (B, L, width).
Encoder = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Batches:
    """Sorted batches of 32, padded to their longest: the usual way to embed many sentences."""

    def __init__(self, folder: str, texts: list[str]) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._texts = texts

    def encode(self, encoder: Encoder, pool: Executor | None = None) -> np.ndarray:
        """Tokenize, encode batch by batch (in `pool` where given), mean-pool, normalise."""
        batches = list(self._batches())
        apply = pool.map if pool else map
        parts = apply(lambda batch: _embed(encoder, *batch[1:]), batches)
        order = np.concatenate([rows for rows, _, _ in batches])
        vectors = np.concatenate(list(parts))
        out = np.empty_like(vectors)
        out[order] = vectors
        return out

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        encoded = [np.array(e.ids) for e in self._tokenizer.encode_batch(self._texts)]
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            shape = (len(rows), max(len(encoded[r]) for r in rows))
            ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
            for place, row in enumerate(rows):
                ids[place, : len(encoded[row])] = encoded[row]
                mask[place, : len(encoded[row])] = 1
            yield rows, ids, mask


def _embed(encoder: Encoder, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    hidden = encoder(ids, mask)
    # One small product a sentence: the mean over its own tokens.
    shares = (mask / mask.sum(axis=1, keepdims=True)).astype(hidden.dtype)
    mean = (shares[:, None] @ hidden)[:, 0]
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
