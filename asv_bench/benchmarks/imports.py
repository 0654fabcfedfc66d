"""What `import attnx` costs beside `import numpy`, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


class Imports:
    """`timeraw` runs what a function returns in a new process and times that code alone."""

    def timeraw_attnx(self) -> str:
        return "import attnx"

    def timeraw_numpy(self) -> str:
        return "import numpy"


class ImportsRatio:
    """The median over interpreters started in turn, so that a busy moment falls on both."""

    timeout = 120
    unit = "attnx / numpy"
    rounds = 9

    def track_import(self) -> float:
        ratios = sorted(self._start("attnx") / self._start("numpy") for _ in range(self.rounds))
        return ratios[self.rounds // 2]

    @staticmethod
    def _start(module: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - begin


class ImportsMemory:
    """Peak resident bytes of a fresh interpreter; `peakmem` would count asv's own imports."""

    unit = "bytes"

    def setup(self) -> None:
        if not Path("/proc/self/status").is_file():
            raise NotImplementedError("needs /proc")  # how a benchmark tells asv to skip it

    def track_reference(self) -> int:
        return self._peak("")

    def track_numpy(self) -> int:
        return self._peak("import numpy")

    def track_attnx(self) -> int:
        return self._peak("import attnx")

    @staticmethod
    def _peak(code: str) -> int:
        # VmHWM and not getrusage: the latter starts from the peak of the process that forked.
        report = f"{code}\nprint(open('/proc/self/status').read())"
        done = subprocess.run(
            [sys.executable, "-c", report], check=True, capture_output=True, text=True
        )
        line = next(line for line in done.stdout.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
