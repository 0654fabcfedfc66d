"""The command line: ``attnx pronounce``, ``attnx embed``, ``attnx view`` and ``attnx info``.

Whatever goes wrong is one line on standard error and exit status 2; Ctrl-C is 130.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NoReturn

from attnx.runtime import set_num_threads, show_config
from attnx.text_file import read_lines

if TYPE_CHECKING:
    from attnx.layers.module import FloatArray
    from attnx.models import TextEncoder

_EXAMPLES = """\
examples:
  attnx pronounce attention --align
  attnx embed texts.txt --model FOLDER -o vectors.npy
  cat texts.txt | attnx embed - --model FOLDER --format jsonl -o - | head
  attnx view --model FOLDER "The cat sat on the mat." --layer 0 --head 3
  attnx info
"""
_PRONOUNCE = """\
Print the ARPAbet phonemes of English words, one line a word, by a small model that is part of the
package. 1, 2 and 0 behind a vowel are primary, secondary and no stress.
"""
_PRONOUNCE_EXAMPLES = """\
examples:
  attnx pronounce attention transformer
  attnx pronounce attention --model transformer --align
"""
_EMBED = """\
Write one vector for each line of a text file. The file is UTF-8; an empty line is an empty text,
so that vector i belongs to line i. Nothing is left at the output's place unless all went well.
"""
_EMBED_EXAMPLES = """\
examples:
  attnx embed texts.txt --model FOLDER -o vectors.npy
  attnx embed - --model FOLDER --format jsonl -o vectors.jsonl < texts.txt
"""
_VIEW_EXAMPLES = """\
examples:
  attnx view --model FOLDER "The cat sat on the mat."
  attnx view --model FOLDER "The cat sat on the mat." --layer 0 --head 3
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
    except Exception as error:
        # Whatever it is, a user at a terminal is not helped by a traceback.
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
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="attnx",
        description="Attention on the CPU: words to phonemes, sentence vectors, and a look at the weights.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"attnx {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    pronounce = commands.add_parser(
        "pronounce", help="words to phonemes", description=_PRONOUNCE,
        epilog=_PRONOUNCE_EXAMPLES, formatter_class=raw,
    )  # fmt: skip
    pronounce.add_argument("words", metavar="WORD", nargs="+", help="letters a to z, apostrophes")
    pronounce.add_argument(
        "--model", choices=("seq2seq", "transformer"), default="seq2seq",
        help="GRUs with additive attention, or a transformer; default: seq2seq",
    )  # fmt: skip
    pronounce.add_argument(
        "--align", action="store_true", help="show which letters each phoneme was taken from"
    )
    pronounce.set_defaults(run=_pronounce)
    embed = commands.add_parser(
        "embed", help="texts to vectors", description=_EMBED, epilog=_EMBED_EXAMPLES,
        formatter_class=raw,
    )  # fmt: skip
    _add_embed_options(embed)
    view = commands.add_parser(
        "view", help="the attention weights of a text",
        description="Show the self-attention of one layer and head as a matrix of text.",
        epilog=_VIEW_EXAMPLES, formatter_class=raw,
    )  # fmt: skip
    view.add_argument("text", metavar="TEXT", help="a sentence")
    view.add_argument("--model", metavar="FOLDER", required=True, help="the model's folder")
    view.add_argument(
        "--layer", metavar="N", type=int, default=-1, help="counted from 0; default: the last one"
    )
    view.add_argument(
        "--head", metavar="N|mean", default="mean",
        help="a head, counted from 0, or the mean of all; default: mean",
    )  # fmt: skip
    view.set_defaults(run=_view)
    info = commands.add_parser(
        "info", help="instruction set, threads, build, versions",
        description="Show the instruction set, the threads and why, the build and the versions.",
    )  # fmt: skip
    info.set_defaults(run=lambda options: show_config())
    return parser


def _add_embed_options(embed: argparse.ArgumentParser) -> None:
    embed.add_argument("texts", metavar="TEXTS.txt", help="one text a line; - for standard input")
    embed.add_argument("--model", metavar="FOLDER", required=True, help="the model's folder")
    embed.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help="where the vectors go; - for standard output",
    )  # fmt: skip
    embed.add_argument(
        "--format", choices=("npy", "jsonl"),
        help="npy: one float32 array (n, dim); jsonl: one JSON list a line; default: by the name "
        "of the output, else npy",
    )  # fmt: skip
    embed.add_argument(
        "--batch-tokens", metavar="N", type=_count, default=4096,
        help="most tokens computed together (default: 4096); bounds the memory",
    )  # fmt: skip
    embed.add_argument(
        "--max-length", metavar="N", type=_count, help="cut texts to N tokens; default: the model's"
    )
    embed.add_argument(
        "--no-normalize", action="store_true", help="do not scale the vectors to length 1"
    )
    embed.add_argument(
        "--threads", metavar="N", type=_count, help="most threads; default: see attnx info"
    )
    embed.set_defaults(run=_embed)


def _pronounce(options: argparse.Namespace) -> None:
    from attnx.models import Pronouncer

    pronouncer = Pronouncer.load(options.model)
    # All words are looked at before anything is printed.
    answers = pronouncer.pronounce_batch(options.words)
    for number, (word, phonemes) in enumerate(zip(options.words, answers, strict=True)):
        if options.align and number:
            print()
        print(f"{word}  {' '.join(phonemes)}")
        if options.align:
            _, letters, weights = pronouncer.align(word)
            print()
            _print_matrix(weights, phonemes, letters)


def _embed(options: argparse.Namespace) -> None:
    from attnx.vector_file import check_output, write_vectors

    check_output(options.output)
    encoder = _load(options.model)
    if options.threads is not None:
        set_num_threads(options.threads)
    texts = read_lines(options.texts)
    start = time.perf_counter()
    token_ids = encoder.tokenize(texts, max_length=options.max_length)
    vectors = encoder._encode_ids(
        token_ids, options.batch_tokens, normalize=not options.no_normalize, progress=True
    )
    seconds = time.perf_counter() - start
    kind = options.format or ("jsonl" if options.output.endswith(".jsonl") else "npy")
    write_vectors(options.output, vectors, "jsonl" if kind == "jsonl" else "npy")
    tokens = sum(map(len, token_ids))
    print(
        f"attnx: {len(texts)} texts, {tokens} tokens, {seconds:.2f} s, "
        f"{len(texts) / max(seconds, 1e-9):.1f} texts/s",
        file=sys.stderr,
    )


def _view(options: argparse.Namespace) -> None:
    encoder = _load(options.model)
    tokens, weights = encoder.attentions(options.text)
    layers, heads = weights.shape[:2]
    if not -layers <= options.layer < layers:
        raise ValueError(f"--layer must lie between 0 and {layers - 1}, got {options.layer}")
    layer = options.layer % layers
    if options.head == "mean":
        matrix, which = weights[layer].mean(axis=0), f"mean of {heads} heads"
    elif options.head.isdecimal() and int(options.head) < heads:
        matrix, which = weights[layer, int(options.head)], f"head {int(options.head)}"
    else:
        raise ValueError(f"--head must be mean or from 0 to {heads - 1}, got {options.head!r}")
    print(f"layer {layer} of 0 to {layers - 1}, {which}: rows attend to columns\n")
    _print_matrix(matrix, tokens, tokens)


def _print_matrix(matrix: FloatArray, rows: Sequence[str], columns: Sequence[str]) -> None:
    from attnx.view import to_text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    print(to_text(matrix, rows, columns, width=width, ascii_only=plain))


def _load(folder: str) -> TextEncoder:
    from attnx.models import TextEncoder

    return TextEncoder.from_pretrained(folder)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


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
