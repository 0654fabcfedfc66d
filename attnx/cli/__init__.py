"""The command line: ``attnx pronounce``, ``attnx embed``, ``attnx view`` and ``attnx info``.

Each command has a module: its options, and what runs. Whatever goes wrong is one line on standard
error and exit status 2; Ctrl-C is 130.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from attnx.cli import embed, pronounce, view
from attnx.runtime import show_config

_EXAMPLES = """\
examples:
  attnx pronounce attention --align
  attnx embed texts.txt --model FOLDER -o vectors.npy
  cat texts.txt | attnx embed - --model FOLDER --format jsonl -o - | head
  attnx view --model FOLDER "The cat sat on the mat." --layer 0 --head 3
  attnx view --model FOLDER "The cat sat on the mat." -o page.html
  attnx info
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"attnx: error: {_one_line(message)} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; default: those of the process.

    Returns
    -------
    int
        0, or 2 after an error, or 130 after Ctrl-C.
    """
    try:
        status = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _close_output()
        print("attnx: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # whatever it is: a traceback does not help a user at a terminal
        _close_output()
        return _fail(error)
    return status


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:  # argparse's own end: help, version, or a wrong option
        return end.code if isinstance(end.code, int) else 2
    options.run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="attnx",
        description="Attention on the CPU: words to phonemes, sentence vectors, and a look at the weights.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"attnx {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    pronounce.add_command(commands)
    embed.add_command(commands)
    view.add_command(commands)
    info = commands.add_parser(
        "info", help="instruction set, threads, build, versions",
        description="Show the instruction set, the threads and why, the build and the versions.",
    )  # fmt: skip
    info.set_defaults(run=lambda options: show_config())
    return parser


def _version() -> str:
    try:
        return version("attnx")
    except PackageNotFoundError:
        return "(not installed)"


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _fail(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        message = "standard output was closed before everything was written"
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        message = f"{where}{error.strerror}"
    elif isinstance(error, MemoryError):
        message = f"not enough memory ({error})"
    else:
        message = str(error) or type(error).__name__
    print(f"attnx: error: {_one_line(message)}", file=sys.stderr)
    return 2


def _close_output() -> None:
    """Point standard output away, so that what is left in it fails without a word at exit."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
