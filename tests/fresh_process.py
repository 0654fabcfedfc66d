"""Scripts in a process of their own, with a warm attnx, arrays, and a fork that cannot hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

PRELUDE = """
import ctypes, json, mmap, multiprocessing, os, signal, sys, threading, time
import numpy as np
import attnx

rng = np.random.default_rng(0)
args = [rng.standard_normal((2, 8, 200, 64)).astype(np.float32) for _ in range(3)]
small = [x[:, :, :70] for x in args]
rows = rng.standard_normal((3000, 300)).astype(np.float32)

def compute(threads=3):
    out = attnx.scaled_dot_product_attention(*small, is_causal=True, num_threads=threads)
    return out.tobytes() + attnx.softmax(rows, num_threads=threads).tobytes()

def child(work, seconds=10):
    '''Fork; 0 where the child finds work() true within the time.'''
    pid = os.fork()
    if pid == 0:
        signal.alarm(seconds)
        code = 3
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

expected = compute(1)
assert compute() == expected
"""


def run(script: str, *, prelude: str = PRELUDE, seconds: int = 100, **environment: str) -> Any:
    """Return what the script prints."""
    done = subprocess.run(
        [sys.executable, "-c", prelude + script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
