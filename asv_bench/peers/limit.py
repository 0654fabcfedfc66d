"""The machine's limits: compiles limit.c for this processor and calls it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("limit.c")
#: Arm compilers of some age want -mcpu where others want -march.
NATIVE_FLAGS = ("-march=native", "-mcpu=native")
#: Far larger than any last-level cache, for the rate of main memory.
MEMORY_BYTES = 1 << 28
#: The smallest buffer that limit_read accepts is 16 KiB a thread; stay well above it.
SMALLEST_READ = 1 << 18


class Limit:
    """Measure the multiply-add and the read rate of this machine, now.

    The loops run in threads of their own that end with the call, so nothing disturbs the engines.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._library = _compile()
        self._data = np.ones(MEMORY_BYTES // 4, dtype=np.float32)

    def arithmetic(self, dtype: str, seconds: float, threads: int | None = None) -> float:
        """Floating-point operations a second in multiply-adds of `dtype`."""
        width = np.dtype(dtype).itemsize
        return float(self._library.limit_arithmetic(width, threads or self.threads, seconds))

    def read(self, size: int, seconds: float, threads: int | None = None) -> float:
        """Bytes read a second from a buffer of `size` bytes (in cache where that fits one)."""
        size = min(max(size, SMALLEST_READ), MEMORY_BYTES)
        address = self._data.ctypes.data
        return float(self._library.limit_read(address, size, threads or self.threads, seconds))


def _compile() -> ctypes.CDLL:
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "limit.so"
        for native in NATIVE_FLAGS:
            flags = ["-O3", native, "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
            command = [*compiler, *flags, str(SOURCE), "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        # The mapping outlives the file, so the folder may go.
        library = ctypes.CDLL(str(target))
    library.limit_arithmetic.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_double]
    library.limit_arithmetic.restype = ctypes.c_double
    library.limit_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_double]
    library.limit_read.restype = ctypes.c_double
    return library
