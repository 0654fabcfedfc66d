"""The attention of a layer's heads, and what its caller wants to see of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from attnx.attention import attention_weights, scaled_dot_product_attention
from attnx.layers.module import FloatArray
from attnx.summary import AttentionSummary, attention_summary

Heads = tuple[FloatArray, FloatArray, FloatArray]
Wanted = bool | Mapping[str, Any]  # the weights, or the options of a summary

_SUMMARY = ("top_k", "entropy", "received", "rows")


def check_wanted(need_weights: bool, summary: Mapping[str, Any] | None) -> Wanted:
    """Return the options of a summary if it is wanted, else whether the weights are."""
    if summary is None:
        return need_weights
    if not isinstance(summary, Mapping):
        raise TypeError(f"summary must be a mapping of options, got {type(summary).__name__}")
    if need_weights:
        raise ValueError("need_weights may not be given with summary, which spares the weights")
    for name in summary:
        if name not in _SUMMARY:
            raise ValueError(f"summary may have {', '.join(_SUMMARY)}, got {name!r}")
    return summary


def attend(
    heads: Heads, attn_mask: npt.ArrayLike | None, wanted: Wanted, **options: Any
) -> tuple[FloatArray, FloatArray | AttentionSummary | None]:
    """Return the attention, and what is wanted of its weights."""
    if isinstance(wanted, Mapping):
        return summarize(heads, attn_mask, wanted, **options)
    gathered: FloatArray = scaled_dot_product_attention(*heads, attn_mask, **options)
    return gathered, attention_weights(*heads[:2], attn_mask, **options) if wanted else None


def summarize(
    heads: Heads, attn_mask: npt.ArrayLike | None, wanted: Mapping[str, Any], **options: Any
) -> tuple[FloatArray, AttentionSummary]:
    """Return the attention, and a summary without it."""
    query, key, value = heads
    found = attention_summary(query, key, value, attn_mask, **wanted, **options)
    output: Any = found.output  # there is one, since there is a value
    return output, found._replace(output=None)
