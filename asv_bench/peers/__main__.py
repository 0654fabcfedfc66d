"""The command line of the side-by-side benchmarks."""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from pathlib import Path

from . import report
from .compare import Comparison, Plan, compare
from .engine import Engine, EngineError
from .engines import MODULES
from .limit import Limit
from .rows import ROWS, Row


def main() -> int:
    """Measure the rows and report them."""
    options = parse(sys.argv[1:])
    rows = [row for row in ROWS if matches(row, options.rows)]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        print(f"no row matches {options.rows!r}; --list shows them all", file=sys.stderr)
        return 2
    limit = Limit(options.threads)
    engines = start(options)
    about = description(options, engines, limit)
    print("\n".join(about) + "\n")
    names = [engine.name for engine in engines]
    print(report.terminal(report.header(names)))
    comparisons = []
    try:
        for row in rows:
            found = measure(row, engines, limit, options)
            if found is not None:
                comparisons.append(found)
                print(report.terminal(report.line(found, names)), flush=True)
                for name, problem in found.problems.items():
                    print(f"  {name}: {problem}", file=sys.stderr)
    finally:
        for engine in engines:
            engine.close()
    print("\n".join(report.sentences_a_second(comparisons) + report.shares(comparisons)))
    if options.markdown:
        report.replace_table(options.markdown, comparisons, about)
    if options.json:
        report.write_json(options.json, comparisons, about)
    complete = len(engines) == len(options.engines.split(",")) and len(comparisons) == len(rows)
    return 0 if complete and not any(found.problems for found in comparisons) else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m asv_bench.peers",
        description="Measure attnx and other engines side by side on the same arrays. "
        "Nothing else should run meanwhile.",
        epilog="Exit status: 0, or 1 if an engine could not start, failed or gave a wrong result.",
    )
    add = parser.add_argument
    add("--list", action="store_true", help="print the names of the rows and stop")
    add("--rows", default="*", metavar="PATTERN", help="rows whose name contains or globs this")
    add("--engines", default=",".join(MODULES), metavar="LIST", help="default: %(default)s")
    add("--rounds", type=int, default=7, metavar="N", help="default: %(default)s")
    add(
        "--seconds",
        type=float,
        default=0.1,
        metavar="S",
        help="an engine's time in a round, one call at least (default: %(default)s)",
    )
    add(
        "--threads", type=int, default=2, metavar="N", help="for each engine (default: %(default)s)"
    )
    add(
        "--python-peers",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter of the environment that has the peers (default: this one)",
    )
    add("--model", default=None, metavar="FOLDER", help="all-MiniLM-L6-v2 (default: $ATTNX_MINILM)")
    add(
        "--markdown", type=Path, metavar="FILE", help="put the table between FILE's marker comments"
    )
    add("--json", type=Path, metavar="FILE", help="write every round of every engine to FILE")
    add("--verbose", action="store_true", help="show what the engines print")
    options = parser.parse_args(arguments)
    unknown = set(options.engines.split(",")) - set(MODULES)
    if unknown:
        parser.error(
            f"--engines: unknown {', '.join(sorted(unknown))}; known: {', '.join(MODULES)}"
        )
    if options.rounds < 1 or options.seconds <= 0 or options.threads < 1:
        parser.error("--rounds, --seconds and --threads must be positive")
    options.model = find_model(options.model)
    return options


def matches(row: Row, pattern: str) -> bool:
    """Tell whether a pattern, with or without wildcards, picks a row."""
    return pattern in row.name or fnmatch.fnmatchcase(row.name, pattern)


def find_model(given: str | None) -> str | None:
    """Return the folder of the text model: given, in the environment or in the cache folder."""
    default = Path(__file__).resolve().parents[2] / ".cache" / "minilm"
    folder = Path(given or os.environ.get("ATTNX_MINILM") or default).resolve()
    return str(folder) if (folder / "model.safetensors").is_file() else None


def start(options: argparse.Namespace) -> list[Engine]:
    """Start the engines that can be started."""
    engines = []
    for name in MODULES:
        if name not in options.engines.split(","):
            continue
        python = sys.executable if name == report.OURS else options.python_peers
        try:
            engines.append(Engine(name, python, options.threads, options.verbose))
        except EngineError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    if not engines:
        raise SystemExit("no engine could be started")
    return engines


def description(options: argparse.Namespace, engines: list[Engine], limit: Limit) -> list[str]:
    """Say what is measured on what."""
    threads = options.threads
    single, many = (limit.arithmetic("float32", 0.1, n) * 1e-9 for n in (1, threads))
    read_single, read_many = (limit.read(1 << 40, 0.1, n) * 1e-9 for n in (1, threads))
    return [
        f"{report.processor()}, {threads} threads for every engine; microseconds a call,",
        f"median of {options.rounds} rounds of {options.seconds:g} s.",
        f"Limits measured with 1 and with {threads} threads: float32 multiply-add {single:.0f} and",
        f"{many:.0f} GFLOP/s, reads from memory {read_single:.0f} and {read_many:.0f} GB/s.",
        ", ".join(f"{engine.name} {engine.version}" for engine in engines) + ".",
    ]


def measure(
    row: Row, engines: list[Engine], limit: Limit, options: argparse.Namespace
) -> Comparison | None:
    """Measure one row; None, with a message, where that cannot be done."""
    try:
        return compare(row, engines, limit, Plan(options.rounds, options.seconds, options.model))
    except EngineError as error:
        print(f"{row.name}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
