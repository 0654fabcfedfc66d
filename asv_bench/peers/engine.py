"""An engine's process, seen from the harness: start it, ask it, wait until it is quiet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: What each library looks at for its number of threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
#: Thread pools spin for a while after a call; so long is waited for them, window by window.
QUIET_WINDOW, QUIET_DEADLINE = 0.02, 1.0
#: The part of a window that a quiet process may compute.
QUIET_SHARE = 0.05


class EngineError(RuntimeError):
    """An engine that cannot start, has died or failed; the message is for people."""


class Engine:
    """One engine in a process of its own, blocked on a pipe while nothing is asked of it."""

    def __init__(self, name: str, python: str, threads: int, verbose: bool = False) -> None:
        self.name = name
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        environment["TOKENIZERS_PARALLELISM"] = "true"
        self._process = subprocess.Popen(
            [python, "-m", f"{__package__}.worker", name, str(threads)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            text=True,
        )
        self.version = str(self._answer()["version"])

    def prepare(self, row: str, inputs: str, results: str) -> dict[str, str]:
        """Build a row's forms and run each once; return the files of their results."""
        return dict(self._ask(do="prepare", row=row, inputs=inputs, results=results)["results"])

    def measure(self, form: str, seconds: float) -> float:
        """Return the mean seconds of one call, once everything in this process is quiet again."""
        answer = float(self._ask(do="measure", form=form, seconds=seconds)["seconds"])
        self.wait_until_quiet()
        return answer

    def wait_until_quiet(self) -> None:
        """Wait until no thread of the process spins any more."""
        deadline = time.monotonic() + QUIET_DEADLINE
        before = self._processor_time()
        while time.monotonic() < deadline:
            time.sleep(QUIET_WINDOW)
            after = self._processor_time()
            if after is not None and before is not None:
                if after - before <= QUIET_SHARE * QUIET_WINDOW:
                    return
            before = after

    def close(self) -> None:
        """End the process by closing its pipe."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EngineError("has died") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise EngineError(f"ended with status {status}; --verbose shows what it says")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            print(answer["error"], file=sys.stderr)
            raise EngineError(answer["error"].strip().splitlines()[-1])
        return answer

    def _processor_time(self) -> float | None:
        """Return the seconds that all its threads have computed, None where that is unknown."""
        total = 0
        for task in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:  # the thread has just ended
                continue
        return total * 1e-9 if total else None
