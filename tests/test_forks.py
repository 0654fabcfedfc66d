"""A process may fork at any time: nothing hangs, in the parent or the child, and bits stay.

A child that does not answer in ten seconds is ended by its alarm and counts as wrong.
"""

from __future__ import annotations

import os

import pytest
from fresh_process import PRELUDE, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_a_hundred_forks_after_a_warm_up() -> None:
    script = """
codes = []
for k in range(100):
    codes.append(child(lambda: compute() == expected))
    if k % 10 == 0:
        assert compute() == expected
print(json.dumps(codes))
"""
    assert run(script) == [0] * 100


def test_forks_before_the_first_call() -> None:
    script = """
print(json.dumps([child(lambda: compute(4) == expected) for _ in range(3)]))
"""
    warm_up = "assert compute() == expected\n"
    assert warm_up in PRELUDE
    assert run(script, prelude=PRELUDE.replace(warm_up, "")) == [0] * 3


def test_forks_from_a_thread() -> None:
    script = """
codes = []
def from_here():
    codes.append(child(lambda: compute() == expected))
for _ in range(25):
    thread = threading.Thread(target=from_here)
    thread.start()
    thread.join()
    compute()
print(json.dumps(codes))
"""
    assert run(script) == [0] * 25


def test_grandchildren() -> None:
    script = """
def generation(left):
    right = compute() == expected
    return right and (left == 0 or child(lambda: generation(left - 1)) == 0)
print(json.dumps([child(lambda: generation(2)) for _ in range(8)]))
"""
    assert run(script) == [0] * 8


def test_forks_while_another_thread_computes() -> None:
    script = """
stop = threading.Event()
wrong = []
def keep_computing():
    while not stop.is_set():
        if compute() != expected:
            wrong.append(1)
thread = threading.Thread(target=keep_computing)
thread.start()
codes = []
for k in range(25):
    time.sleep(0.002 * (k % 5))
    codes.append(child(lambda: all(compute() == expected for _ in range(3))))
stop.set()
thread.join()
print(json.dumps([codes, wrong]))
"""
    assert run(script) == [[0] * 25, []]


def test_pools_that_fork() -> None:
    script = """
def task(k):
    return compute() == expected
good = 0
for _ in range(25):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        good += sum(pool.map_async(task, range(4)).get(timeout=10))
    compute()
print(json.dumps(good))
"""
    assert run(script) == 100


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
def test_children_have_threads_of_their_own() -> None:
    """Not hanging is not all: a child that could only work alone would be half as fast."""
    script = """
def with_threads():
    right = compute() == expected
    return right and len(os.listdir("/proc/self/task")) > 1
print(json.dumps([child(with_threads), child(lambda: child(with_threads) == 0)]))
"""
    assert run(script) == [0, 0]


def test_a_forked_child_keeps_its_settings() -> None:
    script = """
attnx.set_num_threads(3)
with attnx.force_isa("scalar"):
    print(json.dumps(child(lambda: attnx.get_num_threads() == 3 and attnx.isa() == "scalar")))
"""
    assert run(script) == 0


def test_the_stand_in_for_a_hang_is_noticed() -> None:
    """The alarm of these tests works: a child that sleeps counts as one that hangs."""
    codes = run("print(json.dumps([child(lambda: time.sleep(9), seconds=1), child(lambda: 0)]))")
    assert codes == [14, 256]
