"""Greedy and beam search against exhaustive search on small vocabularies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import Array, assert_same_bits

import attnx
from attnx.decoding import Hypothesis, beam_search, greedy_search

END = 0
Tokens = tuple[int, ...]


class Model:
    """A model whose scores depend on all that came before in a row: a table of random logits.

    It keeps the tokens of its rows itself, as a recurrent state would, so a search that forgets to
    reorder gets the scores of another sequence.
    """

    def __init__(self, words: int, sources: Array, beams: int = 1, spread: float = 2.0) -> None:
        self.words, self.spread = words, spread
        self.sources = np.repeat(sources, beams)
        self.rows: list[Tokens] = [()] * len(self.sources)
        self.calls = 0

    def logits(self, source: int, tokens: Tokens) -> Array:
        return np.random.default_rng([source, *tokens]).standard_normal(self.words) * self.spread

    def weights(self, source: int, tokens: Tokens) -> Array:
        return np.array(
            [source, len(tokens), *np.pad(tokens[-3:], (0, 3 - len(tokens[-3:])))], float
        )

    def step(self, tokens: Array) -> tuple[Array, Array]:
        self.calls += 1
        assert tokens.dtype == np.int64
        self.rows = [(*row, int(t)) for row, t in zip(self.rows, tokens, strict=True)]
        both = list(zip(self.sources.tolist(), self.rows, strict=True))
        logits = np.array([self.logits(*row) for row in both]).astype(np.float32)
        return logits, np.array([self.weights(*row) for row in both])

    def reorder(self, rows: Array) -> None:
        assert (self.sources[rows] == self.sources).all()
        self.rows = [self.rows[i] for i in rows]

    def keep(self, rows: Array) -> None:
        assert (np.diff(rows) > 0).all()
        assert 0 < 2 * len(rows) <= len(self.rows)
        self.rows, self.sources = [self.rows[i] for i in rows], self.sources[rows]

    def log_probability(self, source: int, start: int, tokens: Tokens, ended: bool) -> float:
        total, history = 0.0, (start,)
        for token in (*tokens, END) if ended else tokens:
            scores = self.logits(source, history).astype(np.float32).astype(float)
            total += scores[token] - np.log(np.exp(scores).sum())
            history = (*history, token)
        return total


def exhaustive(
    model: Model, source: int, start: int, max_length: int, penalty: float
) -> list[tuple[float, Tokens]]:
    """Return all sequences with their scores, the best first."""
    found = []
    for n in range(max_length + 1):
        ended = n < max_length
        count = n + ended
        for tokens in itertools.product(range(1, model.words), repeat=n):
            total = model.log_probability(source, start, tokens, ended)
            found.append((total / count**penalty, tokens))
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
@pytest.mark.parametrize(("words", "max_length"), [(2, 5), (3, 4), (4, 3), (5, 1)])
def test_enough_beams_are_exhaustive(words: int, max_length: int, penalty: float) -> None:
    beams = sum((words - 1) ** n for n in range(max_length + 1))
    sources = np.arange(5)
    model = Model(words, sources, beams)
    found = beam_search(
        model.step, [1] * 5, reorder=model.reorder, end_token=END, max_length=max_length,
        beams=beams, length_penalty=penalty,
    )  # fmt: skip
    for source in sources:
        truth = exhaustive(model, int(source), 1, max_length, penalty)
        assert len(found[source]) == len(truth) == beams
        for hypothesis, (score, tokens) in zip(found[source], truth, strict=True):
            assert tuple(hypothesis.tokens.tolist()) == tokens
            assert hypothesis.score == pytest.approx(score, rel=1e-12)
            assert hypothesis.ended == (len(tokens) < max_length)


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("beams", [1, 2, 3, 7])
def test_stopping_early_loses_nothing(beams: int, penalty: float) -> None:
    """The same search without an end, cut by hand: every step ranked, nothing stopped."""
    words, max_length = 6, 9
    model = Model(words, np.arange(12), beams)
    starts = np.arange(12) % words
    found = beam_search(
        model.step, starts, reorder=model.reorder, end_token=END, max_length=max_length,
        beams=beams, length_penalty=penalty,
    )  # fmt: skip
    for source in range(12):
        live: list[tuple[float, Tokens]] = [(0.0, ())]
        finished: list[tuple[float, Tokens, bool]] = []
        for count in range(1, max_length + 1):
            candidates = []
            for total, tokens in live:
                scores = model.logits(source, (int(starts[source]), *tokens)).astype(np.float32)
                logs = scores.astype(float) - np.log(np.exp(scores.astype(float)).sum())
                candidates += [(total + logs[t], (*tokens, t)) for t in range(words)]
            candidates.sort(key=lambda pair: -pair[0])
            for total, tokens in candidates[:beams]:
                if tokens[-1] == END:
                    finished.append((total / count**penalty, tokens[:-1], True))
            live = [pair for pair in candidates if pair[1][-1] != END][:beams]
        finished += [(total / max_length**penalty, tokens, False) for total, tokens in live]
        finished.sort(key=lambda entry: -entry[0])
        assert [(tuple(h.tokens.tolist()), h.ended) for h in found[source]] == [
            entry[1:] for entry in finished[:beams]
        ]


def test_it_does_stop_early() -> None:
    model = Model(4, np.arange(3), 2, spread=6.0)
    beam_search(
        model.step, [1, 1, 1], reorder=model.reorder, end_token=END, max_length=500, beams=2
    )
    assert model.calls < 100


def test_rows_that_have_ended_need_not_be_kept() -> None:
    options: dict[str, Any] = {"end_token": END, "max_length": 40}
    all_rows = greedy_search(Model(4, np.arange(50)).step, [1] * 50, **options)
    model = Model(4, np.arange(50))
    found = greedy_search(model.step, [1] * 50, keep=model.keep, **options)
    assert len(model.rows) < 25
    for a, b in zip(found, all_rows, strict=True):
        assert_same_bits(a.tokens, b.tokens)
        assert (a.score, a.ended) == (b.score, b.ended)
        assert a.weights is not None
        assert b.weights is not None
        assert_same_bits(a.weights, b.weights)


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_weights_and_scores_are_those_of_the_tokens(beams: int) -> None:
    model = Model(7, np.arange(6), beams)
    found = beam_search(
        model.step,
        [2] * 6,
        reorder=model.reorder,
        end_token=END,
        max_length=8,
        beams=beams,
        length_penalty=1.0,
    )
    for source, hypotheses in enumerate(found):
        assert 0 < len(hypotheses) <= beams
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert len({tuple(h.tokens.tolist()) for h in hypotheses}) == len(hypotheses)
        for h in hypotheses:
            tokens = tuple(h.tokens.tolist())
            assert h.tokens.dtype == np.int64
            total = model.log_probability(source, 2, tokens, h.ended)
            assert h.score == pytest.approx(total / (len(tokens) + h.ended), rel=1e-12)
            wanted = [model.weights(source, (2, *tokens[:i])) for i in range(len(tokens))]
            np.testing.assert_array_equal(h.weights, np.reshape(wanted, h.weights.shape))


def test_greedy_takes_the_best_token_each_time() -> None:
    model = Model(5, np.arange(40))
    found = greedy_search(model.step, [1] * 40, end_token=END, max_length=6)
    assert {h.ended for h in found} == {True, False}
    assert model.calls == 6
    for source, h in enumerate(found):
        tokens: Tokens = ()
        while len(tokens) < 6:
            best = int(model.logits(source, (1, *tokens)).argmax())
            if best == END:
                break
            tokens = (*tokens, best)
        assert tuple(h.tokens.tolist()) == tokens
        assert h.ended == (len(tokens) < 6)
        total = model.log_probability(source, 1, tokens, h.ended)
        assert h.score == pytest.approx(total, rel=1e-12)
        assert h.weights is not None
        assert h.weights.shape == (len(tokens), 5) or not tokens
        for i, row in enumerate(h.weights):
            np.testing.assert_array_equal(row, model.weights(source, (1, *tokens[:i])))


def assert_same(one: Hypothesis, other: Hypothesis) -> None:
    assert one.score == other.score
    assert one.ended == other.ended
    assert_same_bits(one.tokens, other.tokens)


@pytest.mark.parametrize("beams", [0, 1, 3])
def test_a_source_is_the_same_in_any_batch(beams: int) -> None:
    def search(sources: list[int]) -> list[list[Hypothesis]]:
        model = Model(5, np.array(sources), max(beams, 1))
        options: dict[str, Any] = {"end_token": END, "max_length": 12}
        if not beams:
            return [[h] for h in greedy_search(model.step, [1] * len(sources), **options)]
        options |= {"beams": beams, "reorder": model.reorder}
        return beam_search(model.step, np.ones(len(sources), int), **options)

    whole = search(list(range(9)))
    for source in range(9):
        (alone,) = search([source])
        for one, other in zip(alone, whole[source], strict=True):
            assert_same(one, other)
    assert search([]) == []


def test_ties_go_to_the_lower_beam_and_token() -> None:
    def step(tokens: Array) -> Array:
        return np.zeros((len(tokens), 4), np.float32)

    options: dict[str, Any] = {"end_token": 3, "max_length": 2}
    found = beam_search(step, [0], reorder=lambda rows: None, beams=4, **options)
    assert [h.tokens.tolist() for h in found[0]] == [[], [0], [0, 0], [0, 1]]
    assert greedy_search(step, [0], **options)[0].tokens.tolist() == [0, 0]


def test_forbidden_tokens_and_rows_that_are_done() -> None:
    """-inf forbids; what a step gives for a row that has ended is not even looked at."""
    logits = np.array([[-np.inf, 1.0, 0.0], [0.0, -np.inf, -np.inf], [np.nan, np.inf, 0.0]])

    def step(tokens: Array) -> Array:
        return logits[tokens]

    options: dict[str, Any] = {"end_token": 2, "max_length": 9}
    greedy = greedy_search(step, [0, 1], **options)
    assert [h.tokens.tolist() for h in greedy] == [[1, 0, 1, 0, 1, 0, 1, 0, 1], [0, 1] * 4 + [0]]
    found = beam_search(
        step, [0, 0], reorder=lambda rows: None, beams=3, length_penalty=1.0, **options
    )
    assert found[0][0].tokens.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert all(h.score > -np.inf for h in found[1])
    closed = greedy_search(lambda t: np.full((1, 3), -np.inf), [0], **options)
    assert closed[0].score == -np.inf
    none = beam_search(
        lambda t: np.full((3, 3), -np.inf), [0], reorder=lambda rows: None, beams=3, **options
    )
    assert none == [[]]


def flat(tokens: Array) -> Array:
    return np.zeros((len(tokens), 3), np.float32)


GOOD: dict[str, Any] = {"end_token": 0, "max_length": 3}


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"start_tokens": 1}, ValueError, r"start_tokens.*\(batch,\)"),
    ({"start_tokens": [1.0]}, TypeError, "start_tokens must be integers"),
    ({"end_token": -1}, ValueError, "end_token"),
    ({"end_token": 3}, ValueError, r"step's scores.*more than 3.*\(2, 3\)"),
    ({"end_token": 1.5}, TypeError, "end_token"),
    ({"max_length": 0}, ValueError, "max_length"),
    ({"beams": 0}, ValueError, "beams"),
    ({"beams": 2.0}, TypeError, "beams"),
    ({"length_penalty": np.nan}, ValueError, "length_penalty"),
    ({"step": lambda t: np.zeros((3, 3))}, ValueError, r"step's scores must have shape \(2"),
    ({"step": lambda t: np.zeros((2, 3), int)}, TypeError, "step's scores"),
    ({"step": lambda t: np.full((2, 3), np.nan)}, ValueError, "step's scores.*NaN"),
    ({"step": lambda t: (flat(t), np.zeros(2))}, ValueError, "step's weights"),
])  # fmt: skip
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    options = {"step": flat, "start_tokens": [1], "reorder": lambda rows: None, "beams": 2} | GOOD
    with pytest.raises(error, match=message):
        beam_search(**(options | change))
    if "beams" not in change and "length_penalty" not in change:
        options = {"step": flat, "start_tokens": [1, 1]} | GOOD
        with pytest.raises(error, match=message):
            greedy_search(**(options | change))


def test_the_module_is_reachable() -> None:
    assert attnx.decoding.beam_search is beam_search
