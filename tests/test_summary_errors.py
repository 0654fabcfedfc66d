"""Bad input to attention_summary and to what it returns: the error's type, and the name in it."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from conftest import make_qkv

import attnx

QUERY, KEY, VALUE = make_qkv(5, 9)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"top_k": -1}),
        (TypeError, {"top_k": 1.0}),
        (TypeError, {"top_k": True}),
        (TypeError, {"top_k": None}),
        (TypeError, {"top_k": "3"}),
        (TypeError, {"entropy": 1}),
        (TypeError, {"entropy": None}),
        (TypeError, {"received": "yes"}),
        (ValueError, {"rows": [5]}),
        (ValueError, {"rows": [-6]}),
        (ValueError, {"rows": 0}),
        (ValueError, {"rows": [[0]]}),
        (ValueError, {"rows": np.array([2**64 - 1], np.uint64)}),
        (TypeError, {"rows": [0.0]}),
        (TypeError, {"rows": [True]}),
        (TypeError, {"rows": "all"}),
        (ValueError, {"num_threads": 0}),
        (ValueError, {"layout": "bdlh"}),
        (ValueError, {"key_lengths": [1, 10]}),
        (ValueError, {"query_lengths": [-1, 2]}),
        (TypeError, {"query_offset": 1.5}),
        (ValueError, {"window": (-1, 0)}),
        (ValueError, {"softcap": 0.0}),
        (ValueError, {"sinks": [0.0]}),
        (ValueError, {"bias": np.ones((6, 9), np.float32)}),
        (TypeError, {"attn_mask": np.ones((5, 9), int)}),
        (ValueError, {"attn_mask": np.ones((5, 8), bool)}),
        (TypeError, {"is_causal": 1}),
        (TypeError, {"scale": "large"}),
    ],
    ids=str,
)
def test_options(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        attnx.attention_summary(QUERY, KEY, VALUE, **options)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_arrays(name: str) -> None:
    good = {"query": QUERY, "key": KEY, "value": VALUE}
    for bad in (good[name].astype(int), good[name] > 0, np.ma.masked_array(good[name]), "text"):
        with pytest.raises(TypeError, match=name):
            attnx.attention_summary(**good | {name: bad})
    with pytest.raises(ValueError, match=name):
        attnx.attention_summary(**good | {name: good[name][0, 0, 0]})


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError):
        attnx.attention_summary(QUERY, KEY, VALUE, None, True)
    with pytest.raises(TypeError):
        attnx.attention_summary(QUERY, KEY, return_lse=True)


def test_to_csr() -> None:
    found = attnx.attention_summary(QUERY, KEY, top_k=2)
    for b in ((), (0, 0), (0, 0, 0)):
        with pytest.raises(ValueError, match="b must have an index for each of 1 batch axes"):
            found.to_csr(b)
    for b, h in ((2, 0), (0, 2), ((2,), 0)):
        with pytest.raises(IndexError):
            found.to_csr(b, h)
    with pytest.raises(TypeError, match="b must be an integer"):
        found.to_csr(0.0)
    with pytest.raises(TypeError, match="h must be an integer"):
        found.to_csr(0, 1.0)
    one = attnx.attention_summary(QUERY[0, 0], KEY[0, 0], top_k=2)
    with pytest.raises(IndexError, match="h must be 0"):
        one.to_csr(0, 1)
    with pytest.raises(ValueError, match="b must have"):
        one.to_csr(1)
    without = attnx.attention_summary(QUERY, KEY)
    with pytest.raises(ValueError, match="top_k"):
        without.to_csr(0, 0)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only to_csr needs it."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError("no scipy here")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    found = attnx.attention_summary(QUERY, KEY, top_k=2)
    with pytest.raises(ImportError, match="scipy"):
        found.to_csr(0, 0)
