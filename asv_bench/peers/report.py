"""What was measured, as a table: in the terminal, in Markdown, in JSON."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

from .compare import Comparison
from .engines import MODULES
from .work import Sentences

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
OURS = "attnx"


def header(engines: list[str]) -> list[str]:
    """Return the titles of the columns."""
    return ["work", *engines, "rate of attnx", "share of limit", "best peer", "attnx is faster by"]


def line(found: Comparison, engines: list[str]) -> list[str]:
    """Return one row of the table."""
    times = {name: measured.median for name, measured in found.engines.items()}
    cells = [found.row.name]
    for name in engines:
        if name in times:
            cells.append(microseconds(times[name]))
        else:
            cells.append("failed" if name in found.problems else "-")
    peers = {name: time for name, time in times.items() if name != OURS}
    best = min(peers, key=lambda name: peers[name]) if peers else None
    if OURS in times:
        rate = found.amount / times[OURS]
        cells += [f"{rate * 1e-9:.0f} {found.unit}", f"{100 * rate / found.limit:.0f} %"]
    else:
        cells += ["-", "-"]
    cells.append(best or "-")
    cells.append(f"{peers[best] / times[OURS]:.2f}x" if best and OURS in times else "-")
    return cells


def microseconds(seconds: float) -> str:
    """Format a time in microseconds with three digits at least."""
    value = seconds * 1e6
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def terminal(cells: list[str]) -> str:
    """Return one row of the table for the terminal."""
    first, *middle, peer, ratio = cells
    columns = "".join(f"{cell:>13}" for cell in middle[:-2])
    rates = "".join(f"{cell:>16}" for cell in middle[-2:])
    return f"{first:<35}{columns}{rates}{peer:>13}{ratio:>20}"


def sentences_a_second(comparisons: list[Comparison]) -> list[str]:
    """Return one line for each row of many sentences."""
    lines = []
    for found in comparisons:
        work = found.row.work
        if isinstance(work, Sentences) and work.count > 1 and found.engines:
            rates = (f"{n} {work.count / m.median:.0f}" for n, m in found.engines.items())
            lines.append(f"Sentences a second: {', '.join(rates)}.")
    return lines


def shares(comparisons: list[Comparison]) -> list[str]:
    """Return one line for each row that is a part of another: its time against its share of work.

    1.00x is a call that costs no more than what it sees, or reads.
    """
    found_as = {found.row.name: found for found in comparisons}
    lines = []
    for found in comparisons:
        whole = found_as.get(found.row.beside)
        if whole is None or OURS not in found.engines or OURS not in whole.engines:
            continue
        time = found.engines[OURS].median / whole.engines[OURS].median
        share = found.amount / whole.amount
        lines.append(
            f"{found.row.name}: {100 * time:.1f} % of the time of {whole.row.name} for "
            f"{100 * share:.1f} % of its work, {time / share:.2f}x the share ({1 / time:.2f}x as fast)."
        )
    return lines


def replace_table(path: Path, comparisons: list[Comparison], about: list[str]) -> None:
    """Write the table between the two marker comments of a Markdown file."""
    used = {name for found in comparisons for name in (*found.engines, *found.problems)}
    engines = [name for name in MODULES if name in used]
    rows = [line(found, engines) for found in comparisons]
    table = [header(engines), ["---", *["---:"] * (len(header(engines)) - 1)], *rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    text = [*about, "", *lines, "", *sentences_a_second(comparisons), *_items(shares(comparisons))]
    block = "\n".join([BEGIN, *text, END])
    content = path.read_text()
    if not (BEGIN in content and END in content):
        raise ValueError(f"{path} has no {BEGIN} and {END}")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    path.write_text(re.sub(pattern, lambda _: block, content, flags=re.DOTALL))


def _items(lines: list[str]) -> list[str]:
    """Return a Markdown list."""
    return ["", *(f"- {line}" for line in lines)] if lines else []


def write_json(path: Path, comparisons: list[Comparison], about: list[str]) -> None:
    """Write every round of every engine."""
    rows = [_as_data(found) for found in comparisons]
    path.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def _as_data(found: Comparison) -> dict[str, Any]:
    engines = {name: vars(m) | {"median": m.median} for name, m in found.engines.items()}
    return {
        "row": found.row.name,
        "amount": found.amount,
        "unit": found.unit,
        "limit": found.limit,
        "engines": engines,
        "problems": found.problems,
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*: (.*)", text)
    return match[1] if match else platform.machine()
