"""Decoding token by token from any model that scores the next token: greedy and beam search.

The model is one function, `step`: it takes the newest token of each row and returns the scores of the
next one; what came before, the model keeps itself (the state of a GRU, a cache). So nothing here
knows what the model is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnx import _check
from attnx._beams import Beams, likeliest, scored, starts

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["Hypothesis", "beam_search", "greedy_search"]


class Hypothesis(NamedTuple):
    """One decoded sequence.

    Attributes
    ----------
    tokens : ndarray
        (T,): the tokens, without the start and the end.
    score : float
        The log-probability of the tokens and of the end; in beam search over the length penalty.
    ended : bool
        Whether it reached the end token; else it was cut at `max_length`.
    weights : ndarray or None
        (T, S): what each token attended to, where `step` tells it.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.decoding import greedy_search
    >>> scores = np.log([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    >>> greedy_search(lambda tokens: scores[tokens], [0], end_token=0, max_length=9)[0].tokens
    array([2, 1])
    """

    tokens: Array
    score: float
    ended: bool
    weights: Array | None


def greedy_search(
    step: Callable[[Array], Any],
    start_tokens: ArrayLike,
    *,
    end_token: int,
    max_length: int,
    keep: Callable[[Array], Any] | None = None,
) -> list[Hypothesis]:
    """Take the most probable next token, again and again.

    Parameters
    ----------
    step : callable
        ``step(tokens)`` takes the newest token of each row, (B,) int64, and returns the scores of the next one, (B, V):
        logits or log-probabilities (they are normalised here, which leaves log-probabilities alone; -inf forbids). It
        may return a pair (scores, weights) with the attention weights (B, S) behind them.
    start_tokens : array_like of int
        (B,): what the rows begin with.
    end_token : int
        The token that ends a sequence. Ended rows go on getting it until the last one has ended, and are ignored.
    max_length : int
        Most tokens of a sequence, the end included: `step` is called at most so many times.
    keep : callable, optional
        ``keep(rows)`` makes the model go on with these of its rows alone, (n,) int64 in rising order; called before the
        next `step` when rows that had ended have cost as much as a step of all, which is about what it costs itself.
        ``cache.keep`` of a decoder's cache is such a function.

    Returns
    -------
    list of Hypothesis
        One a row. Of equal scores that of the lowest token is taken.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what `step` returns, has the wrong type, shape or range; the message names it.

    Notes
    -----
    A row's result depends on its own scores alone. Hugging Face's ``generate`` does the same inside its models.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.decoding import greedy_search
    >>> scores = np.log([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    >>> [h.tokens.tolist() for h in greedy_search(lambda t: scores[t], [0, 2], end_token=0, max_length=9)]
    [[2, 1], [1]]
    """
    tokens, end, most = starts(start_tokens, end_token, max_length)
    batch = len(tokens)
    going, lengths = np.ones(batch, bool), np.zeros(batch, np.int64)
    # The sequences that the model still has, how many, those of them that go on, and how many these are; and rows of
    # steps that had ended before.
    rows: Array | slice = slice(None)
    count, live, left, wasted = batch, going, batch, 0
    totals = np.zeros(batch)
    chosen: list[Array] = []
    looked: list[Array] = []
    while len(chosen) < most and left:
        ended = None if left == count else ~live
        wasted += count - left
        tokens, logs, weights = likeliest(step(tokens), count, ended, end)
        totals[rows] += logs
        live = tokens != end
        left = int(np.count_nonzero(live))
        going[rows] = live
        lengths += going
        chosen.append(_spread(tokens, rows, batch))
        if weights is not None:
            looked.append(_spread(weights, rows, batch))
        if keep is not None and left and wasted >= count and len(chosen) < most:
            kept = np.flatnonzero(live)
            keep(kept)
            rows = kept if isinstance(rows, slice) else rows[kept]
            count, tokens, live, wasted = left, tokens[kept], live[kept], 0
    found = np.array(chosen, np.int64).reshape(len(chosen), batch)
    return [
        Hypothesis(
            found[:n, b].copy(),
            float(totals[b]),
            not going[b],
            np.array([weights[b] for weights in looked[:n]]) if looked else None,
        )
        for b, n in enumerate(lengths.tolist())
    ]


def _spread(values: Array, rows: Array | slice, batch: int) -> Array:
    """Return what rows have in an array for all sequences, 0 where there is no row."""
    if isinstance(rows, slice):
        return values
    out = np.zeros((batch, *values.shape[1:]), values.dtype)
    out[rows] = values
    return out


def beam_search(
    step: Callable[[Array], Any],
    start_tokens: ArrayLike,
    *,
    reorder: Callable[[Array], Any],
    end_token: int,
    max_length: int,
    beams: int = 4,
    length_penalty: float = 0.0,
) -> list[list[Hypothesis]]:
    """Follow the `beams` most probable sequences of each source side by side.

    Parameters
    ----------
    step : callable
        ``step(tokens)`` takes the newest token of each row, (B * beams,) int64, the beams of a source next to each
        other, and returns the scores of the next one, (B * beams, V): logits or log-probabilities (they are normalised
        here, which leaves log-probabilities alone; -inf forbids). It may return a pair (scores, weights) with the
        attention weights (B * beams, S) behind them. All rows are there from the first call on.
    start_tokens : array_like of int
        (B,): what the sequences of each source begin with.
    reorder : callable
        ``reorder(rows)`` makes the model continue row i as a copy of row rows[i], (B * beams,) int64; called before the
        next `step` wherever that changes something. ``cache.reorder`` of a cache is such a function.
    end_token : int
        The token that ends a sequence.
    max_length : int
        Most tokens of a sequence, the end included: `step` is called at most so many times.
    beams : int, default 4
        How many sequences of a source are kept. Candidates are the continuations of all of them; those among the
        `beams` best that end are finished, the `beams` best that do not end go on.
    length_penalty : float, default 0.0
        A sequence of n tokens (the end included) has the score log-probability / n ** length_penalty. With 0 the most
        probable sequence wins, which favours short ones; with 1 the best average of a token.

    Returns
    -------
    list of list of Hypothesis
        For each source at most `beams` sequences, the best first.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what `step` returns, has the wrong type, shape or range; the message names it.

    Notes
    -----
    A source is done when no sequence that still goes on could come among its `beams` best, so no result is missed by
    stopping early; Hugging Face calls this ``early_stopping="never"``, and divides by the length unless told otherwise.
    With a positive penalty that may take all `max_length` steps, since length alone could still help. Of equal
    candidates that of the lower beam and token comes first, of equal results the earlier one. With one beam this goes
    past the greedy end where that pays; `greedy_search` does not.

    References
    ----------
    Graves, Sequence Transduction with Recurrent Neural Networks, 2012; Wu et al., Google's Neural Machine Translation
    System, 2016, section 7, for the length penalty.

    Examples
    --------
    >>> import numpy as np
    >>> from attnx.decoding import beam_search
    >>> scores = np.log([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])
    >>> found = beam_search(lambda tokens: scores[tokens], [0], reorder=lambda rows: None,
    ...                     end_token=0, max_length=5, beams=2)
    >>> [(h.tokens.tolist(), np.exp(h.score).round(2).tolist()) for h in found[0]]
    [([2], 0.36), ([1], 0.2)]
    """
    tokens, end, most = starts(start_tokens, end_token, max_length)
    width = _check.integer("beams", beams)
    if width < 1:
        raise ValueError(f"beams must be at least 1, got {beams}")
    search = Beams(len(tokens), width, most, end, _check.real("length_penalty", length_penalty))
    tokens = np.repeat(tokens, width)
    while search.going_on():
        tokens, rows = search.advance(*scored(step(tokens), search.live(), end))
        if search.going_on() and (rows != np.arange(len(rows))).any():
            reorder(rows)
    return [[Hypothesis(*found) for found in search.results(b)] for b in range(search.batch)]
