"""Instruction sets, thread counts, environment variables, show_config."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS, make_qkv

import attnx
from attnx.runtime import cgroup_cpus

VARIABLES = ("ATTNX_ISA", "ATTNX_NUM_THREADS", "OMP_NUM_THREADS")
KNOWN = ("scalar", "avx2", "avx512", "avx512bf16", "neon")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with these variables and no other of ours."""
    clean = {name: x for name, x in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(code: str, **environment: str) -> str:
    """Return what the code prints; it must succeed in silence otherwise."""
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def thread_setting() -> Iterator[None]:
    """Put the number of threads back after the test."""
    before = attnx.get_num_threads()
    yield
    attnx.set_num_threads(before)


def test_instruction_sets() -> None:
    assert ISAS
    assert len(set(ISAS)) == len(ISAS)
    assert set(ISAS) <= set(KNOWN)
    assert "scalar" in ISAS
    assert attnx.isa() in ISAS


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="needs /proc/cpuinfo")
def test_what_the_processor_has_is_offered() -> None:
    with open("/proc/cpuinfo") as file:
        text = file.read()
    flags = set(text.partition("flags")[2].partition("\n")[0].split())
    for name, needed in {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512vl"}}.items():
        if needed <= flags and os.uname().machine == "x86_64":
            assert name in ISAS
        if not needed & flags:
            assert name not in ISAS


def test_force_isa() -> None:
    default = attnx.isa()
    for name in ISAS:
        with attnx.force_isa(name):
            assert attnx.isa() == name
            for inner in ISAS:
                with attnx.force_isa(inner):
                    assert attnx.isa() == inner
                assert attnx.isa() == name
        assert attnx.isa() == default


def test_force_isa_ends_with_an_exception() -> None:
    default = attnx.isa()
    with pytest.raises(KeyError), attnx.force_isa("scalar"):
        raise KeyError
    assert attnx.isa() == default


@pytest.mark.parametrize("name", ["mmx", "", "AVX-512", "avx2,scalar"])
def test_force_isa_unknown(name: str) -> None:
    default = attnx.isa()
    with pytest.raises(ValueError, match="scalar") as caught, attnx.force_isa(name):
        pass
    assert repr(name) in str(caught.value)
    assert attnx.isa() == default
    with pytest.raises(TypeError), attnx.force_isa(None):
        pass


@pytest.mark.skipif(len(ISAS) < 2, reason="one instruction set")
def test_forcing_changes_what_runs() -> None:
    """The sets round differently somewhere in a thousand sums, or they are the same code."""
    args = make_qkv(60, 500, 64)
    results = set()
    for name in ISAS:
        with attnx.force_isa(name):
            results.add(attnx.scaled_dot_product_attention(*args).tobytes())
    assert len(results) > 1


@pytest.mark.parametrize("name", ISAS)
def test_isa_variable(name: str) -> None:
    assert answer("import attnx; print(attnx.isa())", ATTNX_ISA=name) == name


@pytest.mark.parametrize("name", ["mmx", "avx3", "scalar avx2"])
def test_isa_variable_unknown(name: str) -> None:
    code = "import attnx, numpy; x = numpy.ones(3, 'f4'); attnx.softmax(x); print('ran')"
    done = run(code, ATTNX_ISA=name)
    assert done.returncode == 1
    assert "ran" not in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    for word in ("ATTNX_ISA", name, *ISAS):
        assert word in last


def test_isa_variable_unavailable() -> None:
    missing = [name for name in ("avx512", "neon") if name not in ISAS]
    for name in missing:
        done = run("import attnx; attnx.isa()", ATTNX_ISA=name)
        assert done.returncode == 1
        assert "ATTNX_ISA" in done.stderr
        assert name in done.stderr.splitlines()[-1]


def test_an_empty_isa_variable_is_none() -> None:
    assert answer("import attnx; print(attnx.isa())", ATTNX_ISA="") == attnx.isa()


def test_set_num_threads(thread_setting: None) -> None:
    for threads in (1, 2, 3, 1):
        attnx.set_num_threads(threads)
        assert attnx.get_num_threads() == threads
    args = make_qkv(60, 100)
    expected = attnx.scaled_dot_product_attention(*args, num_threads=1)
    for threads in (1, 2, 4):
        attnx.set_num_threads(threads)
        out = attnx.scaled_dot_product_attention(*args)
        np.testing.assert_array_equal(out, expected)
        attnx.scaled_dot_product_attention(*args, num_threads=3)
        assert attnx.get_num_threads() == threads


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None, True])
def test_set_num_threads_bad(thread_setting: None, bad: object) -> None:
    before = attnx.get_num_threads()
    with pytest.raises((TypeError, ValueError)):
        attnx.set_num_threads(bad)
    assert attnx.get_num_threads() == before


THREADS = "import attnx; print(attnx.get_num_threads())"


def test_thread_variables() -> None:
    assert answer(THREADS, OMP_NUM_THREADS="3") == "3"
    assert answer(THREADS, ATTNX_NUM_THREADS="5") == "5"
    assert answer(THREADS, ATTNX_NUM_THREADS="1", OMP_NUM_THREADS="3") == "1"
    assert answer(THREADS, OMP_NUM_THREADS="1") == "1"
    assert answer(THREADS, ATTNX_NUM_THREADS="", OMP_NUM_THREADS="3") == "3"


def test_threads_follow_the_affinity() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert 1 <= int(answer(THREADS)) <= len(allowed)
    pin = f"import os; os.sched_setaffinity(0, {{{allowed[-1]}}}); "
    assert answer(pin + THREADS) == "1"
    assert answer(pin + THREADS, ATTNX_NUM_THREADS="2") == "2"


def test_taskset() -> None:
    taskset = next((p for p in ("/usr/bin/taskset", "/bin/taskset") if os.path.exists(p)), None)
    if taskset is None or 0 not in os.sched_getaffinity(0):
        pytest.skip("needs taskset and processor 0")
    clean = {name: x for name, x in os.environ.items() if name not in VARIABLES}
    command = [taskset, "-c", "0", sys.executable, "-c", THREADS]
    assert subprocess.check_output(command, env=clean, text=True, timeout=60).strip() == "1"


@pytest.mark.parametrize(
    "membership, files, wanted",
    [
        ("0::/\n", {}, None),
        ("", {"cpu.max": "100000 100000"}, None),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "cpu.max": "100000 50000"}, 2),
        ("0::/a\n", {"b/cpu.max": "100000 100000"}, None),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "250000"}, 3),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1"}, None),
        ("4:cpuacct,cpu:/d\n", {"cpu,cpuacct/cpu.cfs_quota_us": "100000"}, 1),
        ("5:memory:/d\n4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "400000"}, 4),
    ],
)
def test_control_groups(
    tmp_path: Path, membership: str, files: dict[str, str], wanted: int | None
) -> None:
    """A tree of faked files: version 1, version 2, and a quota on a group around ours."""
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if file.name == "cpu.cfs_quota_us":
            file.with_name("cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "membership"
    own.write_text(membership)
    assert cgroup_cpus(tmp_path, own) == wanted
    assert cgroup_cpus(tmp_path, tmp_path / "absent") is None


def test_show_config_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert attnx.show_config() is None
    text = capsys.readouterr().out
    for word in (attnx.isa(), str(attnx.get_num_threads()), attnx.__version__, np.__version__):
        assert word in text


def test_show_config_dicts(capsys: pytest.CaptureFixture[str]) -> None:
    config = attnx.show_config(mode="dicts")
    assert capsys.readouterr().out == ""
    assert isinstance(config, dict)
    text = str(config)
    for word in (attnx.isa(), attnx.__version__, np.__version__, *ISAS):
        assert word in text
    with pytest.raises(ValueError, match="mode"):
        attnx.show_config(mode="json")
