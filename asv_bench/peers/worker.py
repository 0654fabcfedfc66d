"""One engine in a process of its own: `python -m asv_bench.peers.worker ENGINE THREADS`.

Requests come as JSON lines on standard input, answers leave as JSON lines on standard output;
between two requests the process is blocked on its pipe and uses no processor.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from . import rows
from .engines import MODULES
from .engines.form import Forms

#: The part of a measurement's time that is spent first to wake threads and warm caches.
WARM_UP = 0.2


def main() -> None:
    """Answer requests until standard input ends."""
    answers = _private_stdout()
    name, threads = sys.argv[1], int(sys.argv[2])
    engine = importlib.import_module(f"{__package__}.engines.{MODULES[name]}")
    _answer(answers, version=engine.version(threads))
    forms: Forms = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                forms = {}  # the last row's arrays may go before the next are read
                with np.load(request["inputs"]) as file:
                    arrays = dict(file)
                forms = engine.prepare(rows.find(request["row"]).work, arrays)
                _answer(answers, results=_results(forms, request["results"]))
            else:
                call = forms[request["form"]].call
                _answer(answers, seconds=measure(call, request["seconds"]))
        except Exception:  # of another project, so of any kind: this engine fails, the others go on
            _answer(answers, error=traceback.format_exc())


def measure(call: Callable[[], Any], seconds: float) -> float:
    """Return the mean time of one call, over calls that fill `seconds` (one call at least)."""
    clock = time.perf_counter
    best, begin = math.inf, clock()
    while clock() - begin < WARM_UP * seconds:
        start = clock()
        call()
        best = min(best, clock() - start)
    if best >= seconds:  # so long a call needs no warming up
        return best
    count = max(1, math.ceil(seconds / best))
    begin = clock()
    for _ in range(count):
        call()
    return (clock() - begin) / count


def _results(forms: Forms, folder: str) -> dict[str, str]:
    """Run each form once and save what it gives, for the harness to check."""
    paths = {}
    for place, (name, form) in enumerate(forms.items()):
        paths[name] = os.path.join(folder, f"result{place}.npy")
        np.save(paths[name], form.read(form.call()))
    return paths


def _private_stdout() -> TextIO:
    """Keep standard output for the answers alone; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answer(answers: TextIO, **content: Any) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
