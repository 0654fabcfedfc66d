"""Many callers, idle processors, floating-point modes, memory: in processes of their own."""

from __future__ import annotations

import os
import platform

import pytest
from conftest import ISAS
from fresh_process import run


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
def test_many_callers_make_few_threads() -> None:
    """64 callers of 50 calls: no more than they themselves, the processors, and four."""
    script = """
most = 0
gate = threading.Barrier(64)
wrong = []
def count():
    global most
    most = max(most, len(os.listdir("/proc/self/task")))
def caller():
    gate.wait()
    for k in range(50):
        threads = None if k % 2 else 4
        out = attnx.scaled_dot_product_attention(*tiny, num_threads=threads)
        if out.tobytes() != right:
            wrong.append(k)
        count()
    gate.wait()
    count()
tiny = [x[:, :2, :60] for x in args]
right = attnx.scaled_dot_product_attention(*tiny, num_threads=1).tobytes()
callers = [threading.Thread(target=caller) for _ in range(64)]
for thread in callers: thread.start()
for thread in callers: thread.join()
print(json.dumps([most, len(wrong)]))
"""
    for threads in ("2", str(os.cpu_count())):
        most, wrong = run(script, ATTNX_NUM_THREADS=threads)
        assert wrong == 0
        assert 64 < most <= 64 + max(os.cpu_count() or 1, 4) + 4


def test_callers_from_threads_get_equal_bits() -> None:
    script = """
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    results = list(pool.map(lambda k: compute(1 + k % 4), range(64)))
print(json.dumps([r == expected for r in results]))
"""
    assert run(script) == [True] * 64


def test_nothing_spins_when_idle() -> None:
    """A second after a call the process takes at most 2 % of one processor."""
    script = """
for _ in range(20):
    compute(4)
time.sleep(1)
begin, clock = time.process_time(), time.monotonic()
time.sleep(1)
print(json.dumps((time.process_time() - begin) / (time.monotonic() - clock)))
"""
    assert run(script) <= 0.02


def test_other_threads_of_python_go_on() -> None:
    """The interpreter is free while kernels run: a heartbeat beside one long call."""
    script = """
long = [np.ones((1, 1, 4000, 64), np.float32) for _ in range(3)]
done = threading.Event()
def call():
    attnx.scaled_dot_product_attention(*long, num_threads=1)
    done.set()
thread = threading.Thread(target=call)
beats = 0
with attnx.force_isa("scalar"):
    begin = time.monotonic()
    thread.start()
    while not done.wait(0.001):
        beats += 1
    seconds = time.monotonic() - begin
thread.join()
print(json.dumps([beats, seconds]))
"""
    beats, seconds = run(script)
    assert seconds > 0.05, "too short a call to tell"
    assert beats > seconds * 20


MXCSR = """
def machine_code(code):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    held.append(page)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
        ctypes.addressof(ctypes.c_char.from_buffer(page)))
held = []
store = machine_code(bytes.fromhex("f30f1efa0fae1fc3"))  # endbr64; stmxcsr [rdi]; ret
load = machine_code(bytes.fromhex("f30f1efa0fae17c3"))   # endbr64; ldmxcsr [rdi]; ret
cell = ctypes.c_uint32()
def get():
    store(ctypes.addressof(cell))
    return cell.value & ~0x3F  # the low bits record what has happened
def put(value):
    cell.value = value
    load(ctypes.addressof(cell))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="MXCSR is x86-64's")
@pytest.mark.parametrize("name", ISAS)
def test_floating_point_mode_is_left_alone(name: str) -> None:
    """Neither set nor obeyed: flush-to-zero of a caller stays, and changes no result."""
    script = """
results, modes = [], []
subnormal = [x * np.float32(1e-39) for x in small[2:]]
low = np.linspace(-104, 0, 3000, dtype=np.float32).reshape(3, 1000)
def all_of_it(threads):
    out = attnx.scaled_dot_product_attention(*small[:2], *subnormal, num_threads=threads)
    return out.tobytes() + attnx.softmax(low, num_threads=threads).tobytes() + compute(threads)
normal = get()
wanted = all_of_it(1)
assert get() == normal
for mode in (normal, normal | 0x8000, normal | 0x8040, normal | 0x2000):
    for threads in (1, 3):
        put(mode)
        found = all_of_it(threads)
        modes.append(get() == mode)
        put(normal)
        results.append(found == wanted)
print(json.dumps([modes, results]))
"""
    modes, results = run(MXCSR + script, ATTNX_ISA=name)
    assert modes == [True] * 8
    assert results == [True] * 8


def test_memory_does_not_grow() -> None:
    script = """
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE
def calls(count):
    for k in range(count):
        part = [x[:, :, : 1 + k % 97] for x in args]
        attnx.scaled_dot_product_attention(*part, num_threads=1 + k % 3)
        attnx.softmax(rows[: 1 + k % 31])
        try:
            attnx.softmax(rows[:3], mask=np.ones((3, 3), bool))
        except ValueError:
            pass
calls(1500)
before = resident()
calls(3000)
print(json.dumps(resident() - before))
"""
    assert run(script) <= 2 << 20


def test_a_thread_that_cannot_be_made_is_done_without() -> None:
    """No more processes allowed to this user: the call still answers."""
    if os.getuid() == 0:
        pytest.skip("root has no such limit")
    script = """
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
print(json.dumps(compute(7) == expected))
"""
    assert run(script) is True
