"""Instruction sets, threads, and what this installation is."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from attnx._core import _runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "available_isas",
    "force_isa",
    "get_num_threads",
    "isa",
    "set_num_threads",
    "show_config",
]


def isa() -> str:
    """Return the name of the instruction set in use.

    The first call chooses it: the one that the environment variable ``ATTNX_ISA`` names, else the best.

    Returns
    -------
    str
        One of `available_isas`.

    Raises
    ------
    ValueError
        If ``ATTNX_ISA`` names one that this machine does not have.

    Examples
    --------
    >>> import attnx
    >>> attnx.isa() in attnx.available_isas()
    True
    """
    return _runtime.isa()


def available_isas() -> tuple[str, ...]:
    """Return the names of the instruction sets that this machine runs, from plain to best.

    Returns
    -------
    tuple of str
        Of "scalar", "avx2", "avx512" (x86-64) or "scalar", "neon" (AArch64).

    Examples
    --------
    >>> import attnx
    >>> attnx.available_isas()[0]
    'scalar'
    """
    return _runtime.available_isas()


@contextmanager
def force_isa(name: str) -> Iterator[None]:
    """Use one instruction set inside a ``with`` block, in the whole process.

    Results are reproducible bit for bit on one instruction set only; this is how to fix it, and how tests compare them.

    Parameters
    ----------
    name : str
        One of `available_isas`.

    Raises
    ------
    ValueError
        If this machine does not have it.

    Examples
    --------
    >>> import attnx
    >>> with attnx.force_isa("scalar"):
    ...     attnx.isa()
    'scalar'
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    before = isa()
    _runtime.use_isa(name)
    try:
        yield
    finally:
        _runtime.use_isa(before)


class _Threads:
    """The default number of threads, found once, at the first call that asks."""

    count: int | None = None
    reason = ""
    openmp: int = 0


def get_num_threads() -> int:
    """Return the number of threads that a call uses where its ``num_threads`` is None.

    The first of these that is given: `set_num_threads`, the environment variables ``ATTNX_NUM_THREADS`` and
    ``OMP_NUM_THREADS``; else the processors that the process may use by its affinity and by the CPU quotas of its
    control groups. A later limit set through OpenMP (threadpoolctl) lowers it.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> import attnx
    >>> attnx.get_num_threads() >= 1
    True
    """
    if _Threads.count is None:
        _Threads.openmp = _runtime.openmp_limit()
        _Threads.count, _Threads.reason = _default_threads()
    limit = _runtime.openmp_limit()
    return limit if limit < _Threads.openmp and limit < _Threads.count else _Threads.count


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call uses where its ``num_threads`` is None.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If n is not an integer, or less than 1.

    Examples
    --------
    >>> import attnx
    >>> before = attnx.get_num_threads()
    >>> attnx.set_num_threads(1)
    >>> attnx.get_num_threads()
    1
    >>> attnx.set_num_threads(before)
    """
    from attnx import _check

    n = _check.integer("n", n)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    _Threads.openmp = _runtime.openmp_limit()
    _Threads.count, _Threads.reason = min(n, MOST_THREADS), "set_num_threads"


# More than any machine has; bounds what a mistyped number can allocate.
MOST_THREADS = 1024


def threads_for(num_threads: int | None) -> int:
    """Return the threads of a call from its ``num_threads`` argument."""
    if num_threads is None:
        return get_num_threads()
    if type(num_threads) is int and 1 <= num_threads <= MOST_THREADS:
        return num_threads
    from attnx import _check

    n = _check.integer("num_threads", num_threads)
    if n < 1:
        raise ValueError(f"num_threads must be at least 1, got {n}")
    return min(n, MOST_THREADS)


def _default_threads() -> tuple[int, str]:
    for variable in ("ATTNX_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return min(int(text), MOST_THREADS), variable
        if text and variable == "ATTNX_NUM_THREADS":
            raise ValueError(f"{variable} must be a whole number of at least 1, got {text!r}")
    from pathlib import Path

    if hasattr(os, "sched_getaffinity"):
        count, reason = len(os.sched_getaffinity(0)), "CPU affinity"
    else:
        count, reason = os.cpu_count() or 1, "processors"
    quota = cgroup_cpus(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    if quota is not None and quota < count:
        return quota, "cgroup CPU quota"
    return count, reason


def cgroup_cpus(root: Path, membership: Path) -> int | None:
    """Return the processors that the tightest CPU quota of this process's control groups pays for, or None.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``); a group is bounded by all its ancestors.
    """
    least: float | None = None
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        version1 = "cpu" in controllers.split(",")
        if controllers and not version1:
            continue
        base = root / ("cpu" if (root / "cpu").is_dir() else "cpu,cpuacct") if version1 else root
        group = type(root)(path.lstrip("/"))
        for folder in [base, *(base / part for part in [group, *group.parents])]:
            quota = _quota_v1(folder) if version1 else _quota_v2(folder)
            if quota is not None:
                least = quota if least is None else min(least, quota)
    return None if least is None else max(1, int(-(-least // 1)))


def _quota_v2(folder: Path) -> float | None:
    return _ratio(*(_read(folder / "cpu.max").split() + ["", ""])[:2])


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal()) or int(quota) == 0 or int(period) == 0:
        return None  # "max", -1, absent, malformed
    return int(quota) / int(period)


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Show, or return, what this installation is and how it will run.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print it, or return it as nested dictionaries (as `numpy.show_config`).

    Returns
    -------
    dict or None
        The dictionaries, for ``mode="dicts"``.

    Examples
    --------
    >>> import attnx
    >>> sorted(attnx.show_config("dicts"))
    ['SIMD', 'Threads', 'Versions']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f'mode must be "stdout" or "dicts", got {mode!r}')
    import platform

    import numpy as np

    from attnx import __version__

    threads = get_num_threads()
    config: dict[str, Any] = {
        "SIMD": {
            "in use": isa(),
            "available": list(available_isas()),
            "ATTNX_ISA": os.environ.get("ATTNX_ISA"),
        },
        "Threads": {
            "default": threads,
            "because of": _Threads.reason,
            "processors": os.cpu_count(),
        },
        "Versions": {
            "attnx": __version__,
            "numpy": np.__version__,
            "python": sys.version.split()[0],
            "machine": f"{platform.system()} {platform.machine()}",
            "compiler": _runtime.compiler(),
            "flags": _runtime.build_flags(),
        },
    }
    if mode == "dicts":
        return config
    for section, entries in config.items():
        print(f"{section}:")
        for name, value in entries.items():
            print(f"  {name}: {', '.join(value) if isinstance(value, list) else value}")
    return None
