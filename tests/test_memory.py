"""Long sequences in bounded memory: what a call needs beside its arrays does not grow with L * S, nor with S."""

from __future__ import annotations

import pytest
from fresh_process import run

LONG = 65536
MIB = 1 << 20
# A process of its own, which nothing has made large before. Its peak is that of this program alone (VmHWM; what
# getrusage gives begins with the parent's), its arrays are written before, and no larger ones are made for that.
PRELUDE = """
import json, sys
import ml_dtypes
import numpy as np
import attnx

def drawn(rows, dtype, dim=64):
    x = np.empty((1, rows, dim), dtype)
    rng = np.random.default_rng(0)
    for start in range(0, rows, 1024):
        x[0, start : start + 1024] = rng.random((min(1024, rows - start), dim), np.float32) - 0.5
    return x

def memory(name):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(name)).split()[1]) * 1024

def grown(call):
    before = memory("VmRSS")
    call()
    return memory("VmHWM") - before
"""


def grown(call: str, queries: int, dtype: str = "np.float32", stored: str = "np.float32") -> int:
    """Return the bytes by which a call on queries and 65,536 keys raises the memory of a process."""
    script = f"""
query, key, value = drawn({queries}, {dtype}), drawn({LONG}, {stored}), drawn({LONG}, {stored})
out = np.ones_like(query)
print(json.dumps(grown(lambda: {call})))
assert np.isfinite(out.astype(np.float32)).all() and not (out == 1).all(axis=-1).any()
"""
    return int(run(script, prelude=PRELUDE, seconds=1800))


ATTEND = "attnx.scaled_dot_product_attention(query, key, value, out=out{})"


@pytest.mark.slow
def test_65536_queries_on_as_many_keys() -> None:
    """L * S is 4.3e9 scores: 16 GiB, were they ever held."""
    assert grown(ATTEND.format(""), LONG) <= 64 * MIB


@pytest.mark.parametrize(
    "queries, options",
    [
        (1, ""),
        (500, ""),
        (500, ", is_causal=True, query_offset=65036"),
        (500, ", window=(40000, 0), query_offset=60000, softcap=5.0"),
        (500, ", bias=attnx.bias.ALiBi([0.01])"),
        (500, ", attn_mask=np.broadcast_to(True, (500, 65536)), key_lengths=60000"),
        (500, ", return_lse=True"),
    ],
)
def test_options_need_no_more(queries: int, options: str) -> None:
    assert grown(ATTEND.format(options), queries) <= 64 * MIB


@pytest.mark.parametrize("stored", ["np.float16", "ml_dtypes.bfloat16"])
@pytest.mark.parametrize("dtype", ["np.float32", "stored"])
def test_keys_in_16_bits_are_not_converted_as_a_whole(dtype: str, stored: str) -> None:
    """As float32 the two would be 32 MiB."""
    dtype = stored if dtype == "stored" else dtype
    assert grown(ATTEND.format(""), 200, dtype, stored) <= 16 * MIB


def test_packed_rows_need_no_more() -> None:
    starts = "[0, 30000, 65536]"
    call = (
        "attnx.varlen_attention(*(x[0, :, None] for x in (query, key, value)), "
        f"[0, 100, 500], {starts}, out=out[0, :, None])"
    )
    assert grown(call, 500) <= 64 * MIB


@pytest.mark.slow
def test_a_summary_of_32768_queries_on_as_many_keys() -> None:
    """Beside what it returns; a matrix would be 4 GiB."""
    script = """
query, key, value = (drawn(32768, np.float32) for _ in range(3))
kept = {}
call = lambda: kept.update(found=attnx.attention_summary(
    query, key, value, top_k=16, entropy=True, received=True, rows=[0, 99, -1]))
more = grown(call)
found = kept["found"]
assert found.top_indices.shape == (1, 32768, 16) and found.received.shape == (1, 32768)
assert np.isfinite(found.entropy).all() and abs(found.received.sum() - 32768) < 1
print(json.dumps([more, sum(x.nbytes for x in found[:-1])]))
"""
    more, returned = run(script, prelude=PRELUDE, seconds=1800)
    assert more - returned <= 64 * MIB


def test_a_summary_needs_no_more_than_its_arrays() -> None:
    """500 queries: no cache of scores a query either."""
    call = (
        "out.__setitem__(..., attnx.attention_summary("
        "query, key, value, top_k=16, entropy=True, received=True, rows=[7]).output)"
    )
    assert grown(call, 500) <= 16 * MIB


def test_the_measurement_sees_what_is_held() -> None:
    """Else every test above would pass."""
    call = "np.add(query, np.ones(1 << 24, np.float32).sum(), out=out)"
    assert grown(call, 8) > 60 * MIB
