"""Signals reach their handlers while a long call is under way."""

from __future__ import annotations

import signal

from conftest import assert_same_bits
from test_layers import draw

from attnx.layers import GRU


def test_a_long_way_through_the_steps_sees_signals() -> None:
    """Promise 8: a handler runs between parts of a call, not at its end."""
    layer, seen = GRU(8, 256), []
    x = draw(64, 400, 8)
    whole, _ = layer(x)  # in parts of some steps: the same bits as step by step
    state = None
    for i in range(0, 400, 100):
        part, state = layer(x[:, i : i + 100], state)
        assert_same_bits(part, whole[:, i : i + 100])
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        layer(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # 75 parts of a millisecond or more. In one call of the core all alarms are one; around it there are four.
    assert len(seen) >= 20
