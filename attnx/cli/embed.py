"""``attnx embed``: a text file to vectors."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from attnx.runtime import set_num_threads
from attnx.text_file import read_lines

_DESCRIPTION = """\
Write one vector for each line of a text file. The file is UTF-8; an empty line is an empty text,
so that vector i belongs to line i. Nothing is left at the output's place unless all went well.
"""
_EXAMPLES = """\
examples:
  attnx embed texts.txt --model FOLDER -o vectors.npy
  attnx embed - --model FOLDER --format jsonl -o vectors.jsonl < texts.txt
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the command line."""
    embed = commands.add_parser(
        "embed", help="texts to vectors", description=_DESCRIPTION, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
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
        "--batch-tokens", metavar="N", type=_count, default=1024,
        help="most tokens computed together (default: 1024); bounds the memory",
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
    embed.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from attnx.models import TextEncoder
    from attnx.output_file import check_output
    from attnx.vector_file import write_vectors

    check_output(options.output)
    encoder = TextEncoder.from_pretrained(options.model)
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


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
