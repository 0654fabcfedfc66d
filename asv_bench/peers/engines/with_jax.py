"""JAX: what XLA makes of the plain formulas; for additive attention, where it is the best of the peers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..work import Additive, Arrays, Work
from .form import Form, Forms


def version(threads: int) -> str:
    """Set the number of threads and return the version."""
    # XLA makes a thread for each processor that it may use at its first work, and has no switch for that.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    return str(jax.__version__)


def prepare(work: Work, arrays: Arrays) -> Forms:
    """Return the forms of this work."""
    if not isinstance(work, Additive):
        return {}
    a = {name: jnp.asarray(array) for name, array in arrays.items()}
    query, key, score_weight = a["query"], a["key"], a["score_weight"]
    query_weight, key_weight = a["query_weight"].T, a["key_weight"].T
    before = key @ key_weight if work.projected else None

    def attend(scores_of: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(query: Any, key: Any, before: Any) -> Any:
            keys = key @ key_weight if before is None else before
            units = jnp.tanh((query @ query_weight)[:, :, None] + keys[:, None])
            return jax.nn.softmax(scores_of(units), axis=-1) @ key

        return jax.jit(call)

    forms = {
        "tanh, product": attend(lambda units: units @ score_weight),
        "tanh, sum": attend(lambda units: (units * score_weight).sum(axis=-1)),
    }
    return {
        name: Form(lambda call=call: call(query, key, before).block_until_ready())
        for name, call in forms.items()
    }
