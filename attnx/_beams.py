"""The bookkeeping of beam search: which sequences go on, which are finished, and what they were."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnx import _check
from attnx.softmax import softmax_into

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

_NOT_A_SCORE = "step's scores must be numbers below infinity, got NaN or inf"


class Finished(NamedTuple):
    """A finished sequence: its score, and where its last token stands."""

    score: float
    depth: int  # how many tokens it has
    beam: int  # in which beam after that many
    ended: bool


class Beams:
    """The sequences of B sources, K beams each, as steps that point back at the ones before."""

    def __init__(
        self, batch: int, beams: int, max_length: int, end_token: int, length_penalty: float
    ) -> None:
        self.batch, self.beams, self.max_length = batch, beams, max_length
        self.end_token, self.length_penalty = end_token, length_penalty
        self.finished: list[list[Finished]] = [[] for _ in range(batch)]
        self.tokens: list[Array] = []  # (B, K) of each step,
        self.parents: list[Array] = []  # (B, K): the beams that they continue,
        self.weights: list[Array] = []  # and (B * K, S), of the rows before the step
        # At first all beams are the same sequence: one of them is enough.
        self.totals = np.full((batch, beams), -np.inf)
        self.totals[:, 0] = 0.0

    def live(self) -> Array:
        """Which rows (B * K,) are sequences that go on."""
        rows: Array = self.totals.reshape(-1) > -np.inf
        return rows

    def going_on(self) -> bool:
        """Whether any source has a sequence that goes on."""
        return len(self.tokens) < self.max_length and bool(self.live().any())

    def advance(self, logs: Array, weights: Array | None) -> tuple[Array, Array]:
        """Take log-probabilities (B * K, V); return the next tokens (B * K,) and the rows that they continue."""
        if weights is not None:
            self.weights.append(weights)
        words = logs.shape[1]
        totals = (self.totals.reshape(-1, 1) + logs).reshape(self.batch, -1)
        self.tokens.append(np.full((self.batch, self.beams), self.end_token, np.int64))
        self.parents.append(np.tile(np.arange(self.beams), (self.batch, 1)))
        for b in np.flatnonzero((self.totals > -np.inf).any(axis=1)).tolist():
            order = best(totals[b], 2 * self.beams)
            self._advance_source(b, order // words, order % words, totals[b, order])
        first = np.arange(self.batch)[:, None] * self.beams
        return self.tokens[-1].reshape(-1), (first + self.parents[-1]).reshape(-1)

    def _advance_source(self, b: int, parents: Array, tokens: Array, totals: Array) -> None:
        """Take the candidates of one source, the best first, at least K of which do not end."""
        count = len(self.tokens)
        ends = tokens == self.end_token
        for i in np.flatnonzero(ends[: self.beams]).tolist():
            self._finish(
                b, Finished(self._score(totals[i], count), count - 1, int(parents[i]), True)
            )
        on = np.flatnonzero(~ends)[: self.beams]
        self.tokens[-1][b, : len(on)] = tokens[on]
        self.parents[-1][b, : len(on)] = parents[on]
        self.totals[b] = -np.inf
        self.totals[b, : len(on)] = totals[on]
        if count == self.max_length:
            for beam, i in enumerate(on.tolist()):
                self._finish(b, Finished(self._score(totals[i], count), count, beam, False))
        elif len(self.finished[b]) == self.beams:
            # A sequence only gets less probable; the length that serves its score best is an end of the range.
            reach = self.max_length if self.length_penalty >= 0 else count + 1
            if self._score(self.totals[b, 0], reach) <= self.finished[b][-1].score:
                self.totals[b] = -np.inf

    def _score(self, total: float, count: int) -> float:
        return float(total / count**self.length_penalty)

    def _finish(self, b: int, found: Finished) -> None:
        kept = [*self.finished[b], found]
        kept.sort(key=lambda f: -f.score)  # stable: of equals the earlier one comes first
        self.finished[b] = kept[: self.beams]

    def results(self, b: int) -> list[tuple[Array, float, bool, Array | None]]:
        """Return tokens, score, whether it ended, and weights of each finished sequence of a source."""
        found = []
        for score, depth, beam, ended in self.finished[b]:
            tokens, rows = [], []
            for step in range(depth - 1, -1, -1):
                tokens.append(self.tokens[step][b, beam])
                beam = int(self.parents[step][b, beam])
                rows.append(b * self.beams + beam)
            weights = None
            if self.weights:
                rows.reverse()
                weights = np.array([self.weights[step][row] for step, row in enumerate(rows)])
            found.append((np.array(tokens[::-1], np.int64), score, ended, weights))
        return found


def best(scores: Array, count: int) -> Array:
    """Return the indices of the largest scores above -inf, the largest first, equal ones in order."""
    count = min(count, len(scores))
    least = np.partition(scores, -count)[-count]
    candidates = np.flatnonzero((scores >= least) & (scores > -np.inf))
    order = np.argsort(-scores[candidates], kind="stable")[:count]
    chosen: Array = candidates[order]
    return chosen


def starts(start_tokens: ArrayLike, end_token: int, max_length: int) -> tuple[Array, int, int]:
    """Return the checked arguments that every search has."""
    given = _check.array("start_tokens", start_tokens)
    if given.ndim != 1:
        raise ValueError(f"start_tokens must have shape (batch,), got {given.shape}")
    if not given.size:
        given = given.astype(np.int64)  # an empty list has no type of its own
    tokens = _check.integers("start_tokens", given, given.shape)
    end, most = _check.integer("end_token", end_token), _check.integer("max_length", max_length)
    if end < 0:
        raise ValueError(f"end_token must not be negative, got {end}")
    if most < 1:
        raise ValueError(f"max_length must be at least 1, got {most}")
    return tokens, end, most


def likeliest(
    outcome: Any, rows: int, ended: Array | None, end_token: int
) -> tuple[Array, Array, Array | None]:
    """Return the likeliest token of each row and its log-probability, of ended rows the end and 0; and the weights."""
    given, weights = _checked(outcome, rows, end_token)
    scores = given.astype(np.float64)
    tokens = scores.argmax(axis=1)
    at = np.arange(rows), tokens
    chances = np.empty_like(scores)
    softmax_into(scores, chances)
    logs: Array = np.log(chances[at])
    if not math.isfinite(logs.dot(logs)):
        largest = scores[at]
        going = slice(None) if ended is None else ~ended
        if not (largest[going] < np.inf).all():  # false for a NaN, which argmax finds
            raise ValueError(_NOT_A_SCORE)
        logs[largest == -np.inf] = -np.inf  # everything is forbidden
    if ended is not None:
        tokens[ended] = end_token
        logs[ended] = 0.0
    return tokens, logs, weights


def scored(outcome: Any, live: Array, end_token: int) -> tuple[Array, Array | None]:
    """Return what a step returned as log-probabilities (rows, V) in float64, and its weights (rows, S)."""
    scores, weights = _checked(outcome, len(live), end_token)
    logs = scores.astype(np.float64)
    if not live.all():
        logs[~live] = 0.0
    peak = logs.max(axis=1, keepdims=True)
    if not (peak < np.inf).all():  # false for a NaN
        raise ValueError(_NOT_A_SCORE)
    closed = peak == -np.inf  # rows in which everything is forbidden
    peak[closed] = 0.0
    logs -= peak
    total = np.exp(logs).sum(axis=1, keepdims=True)
    total[closed] = 1.0
    logs -= np.log(total)
    return logs, weights


def _checked(outcome: Any, rows: int, end_token: int) -> tuple[Array, Array | None]:
    """Return a step's scores (rows, V), and its weights (rows, S)."""
    scores, weights = outcome if isinstance(outcome, tuple) else (outcome, None)
    scores = _check.any_floats("step's scores", scores)
    if scores.ndim != 2 or len(scores) != rows or scores.shape[1] <= end_token:
        raise ValueError(
            f"step's scores must have shape ({rows}, more than {end_token}), got {scores.shape}"
        )
    if weights is None:
        return scores, None
    looked = np.array(
        _check.any_floats("step's weights", weights)
    )  # the model may use its own again
    if looked.ndim != 2 or len(looked) != rows:
        raise ValueError(f"step's weights must have shape ({rows}, S), got {looked.shape}")
    return scores, looked
