"""What the self-attention of an encoder's layers looks at in one text, gathered as the text passes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attnx._attention_summary import map_arrays
from attnx.attention import attention_weights
from attnx.layers.module import FloatArray
from attnx.layers.packing import Attend, attend_packed, starts_of
from attnx.layers.workspace import Workspace
from attnx.summary import AttentionSummary, attention_summary

_OPTIONS = ("top_k", "entropy", "received", "rows", "num_threads")


def see_weights(collected: list[FloatArray], length: int) -> Attend:
    """Return self-attention that also appends the weights (H, L, L) of each layer."""
    attend = attend_packed(starts_of(np.array([length])), is_causal=False)

    def attend_and_collect(work: Workspace) -> None:
        collected.append(attention_weights(work.query, work.key, layout="blhd"))
        attend(work)

    return attend_and_collect


def see_summary(collected: list[AttentionSummary], options: Mapping[str, Any]) -> Attend:
    """Return self-attention that also appends a summary of each layer."""
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"options may be {', '.join(_OPTIONS)}, got {name!r}")

    def attend_and_collect(work: Workspace) -> None:
        found = attention_summary(work.query, work.key, work.value, layout="blhd", **options)
        work.attended_heads[...] = found.output
        collected.append(found._replace(output=None))

    return attend_and_collect


def stack_summaries(layers: Sequence[AttentionSummary]) -> AttentionSummary:
    """Return one summary whose arrays have a first axis of layers."""
    return map_arrays(lambda *arrays: np.stack(arrays), *layers)
