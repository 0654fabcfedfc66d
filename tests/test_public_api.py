"""The public names: what they are, what they take, what importing them costs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import types
from typing import Any

import pytest

import attnx

OPTIONS = {
    "bias": None,
    "is_causal": False,
    "query_offset": 0,
    "window": None,
    "scale": None,
    "softcap": None,
    "sinks": None,
}
ATTENTION = OPTIONS | {"key_lengths": None, "query_lengths": None, "layout": "bhld"}
RUN = {"out": None, "num_threads": None}
VARLEN = OPTIONS | {"return_lse": False}
RECURRENT = ("input_size hidden_size num_layers", {"bias": True, "bidirectional": False})
SIGNATURES: dict[str, tuple[str, dict[str, Any]]] = {
    "GRU": RECURRENT,
    "LSTM": RECURRENT,
    "TransformerDecoder": ("decoder_layer num_layers norm", {}),
    "TransformerDecoderLayer": (
        "d_model nhead dim_feedforward",
        {"activation": "relu", "layer_norm_eps": 1e-5, "norm_first": False, "bias": True},
    ),
    "softmax": ("x", {"axis": -1, "mask": None} | RUN),
    "scaled_dot_product_attention": (
        "query key value attn_mask",
        ATTENTION | {"return_lse": False} | RUN,
    ),
    "attention_weights": ("query key attn_mask", ATTENTION | {"stage": "weights"} | RUN),
    "attention_summary": (
        "query key value attn_mask",
        ATTENTION
        | {"top_k": 0, "entropy": False, "received": False, "rows": None, "num_threads": None},
    ),
    "attention_rollout": ("weights", {"residual": 0.5}),
    "value_norm_weights": ("weights value out_weight", {}),
    "varlen_attention": ("query key value query_starts key_starts", VARLEN | RUN),
    "merge_attention": ("outputs lses", {}),
    "apply_rotary": ("x cos sin", {"interleaved": False, "positions": None, "out": None}),
    "rotary_tables": ("length dim", {"base": 10000.0, "scaling": None}),
    "additive_attention": (
        "query key value score_weight attn_mask",
        {"key_lengths": None, "return_weights": False, "num_threads": None},
    ),
    "luong_attention": (
        "query key value attn_mask",
        {
            "score": "dot",
            "weight": None,
            "key_lengths": None,
            "return_weights": False,
            "score_weight": None,
            "num_threads": None,
        },
    ),
    "AdditiveAttention": ("query_dim key_dim units", {"bias": False}),
    "LuongAttention": ("query_dim key_dim", {"score": "general", "units": None}),
    "isa": ("", {}),
    "available_isas": ("", {}),
    "force_isa": ("name", {}),
    "get_num_threads": ("", {}),
    "set_num_threads": ("n", {}),
}
PUBLIC = [name for name in attnx.__all__ if not name.startswith("__")]


def fresh(code: str) -> Any:
    """Return what the code prints as JSON in a fresh interpreter."""
    out = subprocess.check_output([sys.executable, "-W", "error", "-c", code], timeout=60)
    return json.loads(out)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    parameters = inspect.signature(getattr(attnx, name)).parameters.values()
    positional, keywords = SIGNATURES[name]
    assert [p.name for p in parameters if p.kind != p.KEYWORD_ONLY] == positional.split()
    defaults = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
    assert defaults == keywords
    mask = [p.default for p in parameters if p.name == "attn_mask"]
    assert mask in ([], [None])


def test_all() -> None:
    assert len(set(attnx.__all__)) == len(attnx.__all__)
    assert set(SIGNATURES) | {"show_config"} <= set(attnx.__all__)
    for name in attnx.__all__:
        assert hasattr(attnx, name)
    assert set(attnx.__all__) <= set(dir(attnx))
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", attnx.__version__)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings(name: str) -> None:
    """Each public name says what it does, what it takes and gives, and shows it."""
    thing = getattr(attnx, name)
    doc = inspect.getdoc(thing)
    assert doc
    assert doc.splitlines()[0].endswith(".")
    if isinstance(thing, types.ModuleType):
        return
    assert callable(thing)
    parameters = [p for p in inspect.signature(thing).parameters if p != "self"]
    sections = re.findall(r"^(\w[\w ]+)\n-+$", doc, re.MULTILINE)
    assert "Examples" in sections
    assert ">>> " in doc
    if parameters:
        assert "Parameters" in sections
        described = doc.partition("Parameters\n")[2]
        for parameter in parameters:
            assert re.search(
                rf"^(\*{{0,2}}\w+, )*\*{{0,2}}{parameter}\b(, \w+)*( : .*)?$", described, re.M
            ), f"{parameter} is not described"
    returns = inspect.signature(thing).return_annotation
    if not inspect.isclass(thing) and returns not in (None, "None", "Iterator[None]"):
        assert {"Returns", "Yields"} & set(sections)


def test_no_other_public_functions() -> None:
    """What is ours and has no underscore is in __all__."""
    ours = [
        name
        for name, thing in vars(attnx).items()
        if not name.startswith("_") and getattr(thing, "__module__", "").startswith("attnx")
    ]
    assert "softmax" in ours
    assert set(ours) <= set(attnx.__all__)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        attnx.no_such_name  # noqa: B018


def test_import_brings_numpy_alone() -> None:
    code = """
import json, sys
import numpy
before = set(sys.modules)
import attnx
print(json.dumps(sorted(m.partition(".")[0] for m in set(sys.modules) - before)))
"""
    extra = set(fresh(code)) - {"attnx"}
    assert extra <= sys.stdlib_module_names | {"numpy", "_cython_3_1"} | {
        name for name in extra if name.startswith(("_cython", "cython_runtime"))
    }


def test_import_loads_no_layers_models_or_views() -> None:
    code = """
import json, sys, attnx
print(json.dumps(sorted(m for m in sys.modules if m.startswith("attnx."))))
"""
    loaded = fresh(code)
    for late in ("decoding", "layers", "models", "view", "cli", "reference"):
        assert not any(name.startswith(f"attnx.{late}") for name in loaded)


@pytest.mark.parametrize("name", ["decoding", "layers", "models", "view"])
def test_late_modules_are_reachable(name: str) -> None:
    code = f"import json, attnx; print(json.dumps(attnx.{name}.__name__))"
    assert fresh(code) == f"attnx.{name}"


def test_names_are_not_modules_whatever_was_imported_before() -> None:
    """An import inside the package puts a module where a function of its name would be."""
    code = """
import importlib, json, pkgutil, types
import attnx
for module in pkgutil.iter_modules(attnx.__path__):
    if module.name not in ("__main__", "cli"):
        importlib.import_module(f"attnx.{module.name}")
names = [name for name in attnx.__all__ if isinstance(getattr(attnx, name), types.ModuleType)]
print(json.dumps(names))
"""
    assert fresh(code) == ["bias", "decoding", "layers", "models", "view"]


def test_import_and_a_call_leave_the_process_alone() -> None:
    """No thread from importing; no variable, signal handler or filter from calling either."""
    code = """
import json, os, signal, sys, threading, warnings, locale
import numpy as np

def state():
    handlers = [str(signal.getsignal(s)) for s in signal.valid_signals()]
    return [dict(os.environ), handlers, len(warnings.filters), np.geterr(), np.get_printoptions(),
            sys.getswitchinterval(), threading.excepthook is threading.__excepthook__,
            sys.getrecursionlimit(), os.getcwd(), locale.setlocale(locale.LC_ALL)]

def real_environment():
    with open("/proc/self/environ", "rb") as file:
        return file.read().decode("latin-1")

tasks = lambda: len(os.listdir("/proc/self/task"))
before, environ, threads = state(), real_environment(), tasks()
import attnx
after_import = tasks() - threads
attnx.scaled_dot_product_attention(*np.ones((3, 2, 4, 100, 64), np.float32), num_threads=2)
import ctypes
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_PROC_BIND", "ATTNX_ISA")
changed = [n for n in names if (getenv(n.encode()) or b"").decode() != os.environ.get(n, "")]
same = state() == before and real_environment() == environ
print(json.dumps([after_import, same, changed]))
"""
    assert fresh(code) == [0, True, []]


def test_importing_twice_or_after_a_failure_is_harmless() -> None:
    code = """
import json, sys, attnx
first = attnx.isa()
for name in [m for m in sys.modules if m == "attnx" or m.startswith("attnx.")]:
    if "_core" not in name:
        del sys.modules[name]
import attnx as again
print(json.dumps(first == again.isa()))
"""
    assert fresh(code) is True
