"""``attnx pronounce``: English words to phonemes, and which letters they are taken from."""

from __future__ import annotations

import argparse
from typing import Any

from attnx.cli.pictures import add_picture_options, check_pictures, print_weights, write_pictures

_DESCRIPTION = """\
Print the ARPAbet phonemes of English words, one line a word, by a small model that is part of the
package. 1, 2 and 0 behind a vowel are primary, secondary and no stress.
"""
_EXAMPLES = """\
examples:
  attnx pronounce attention transformer
  attnx pronounce attention --model transformer --align
  attnx pronounce attention --html page.html --png picture.png
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the command line."""
    pronounce = commands.add_parser(
        "pronounce", help="words to phonemes", description=_DESCRIPTION, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    pronounce.add_argument("words", metavar="WORD", nargs="+", help="letters a to z, apostrophes")
    pronounce.add_argument(
        "--model", choices=("seq2seq", "transformer"), default="seq2seq",
        help="GRUs with additive attention, or a transformer; default: seq2seq",
    )  # fmt: skip
    pronounce.add_argument(
        "--align", action="store_true", help="show which letters each phoneme was taken from"
    )
    add_picture_options(pronounce, "which letters each phoneme of one WORD was taken from")
    pronounce.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from attnx.models import Pronouncer

    pictures = check_pictures(options)
    if pictures and len(options.words) > 1:
        raise ValueError(f"a page or picture shows one WORD, got {len(options.words)}")
    pronouncer = Pronouncer.load(options.model)
    # All words are looked at before anything is printed.
    answers = pronouncer.pronounce_batch(options.words)
    if pictures:
        phonemes, letters, weights = pronouncer.align(options.words[0])
        title = f"{options.words[0]}: the letters of each phoneme ({options.model})"
        write_pictures(options, weights, phonemes, letters, title=title)
    if "-" in (options.html, options.png):
        return
    for number, (word, phonemes) in enumerate(zip(options.words, answers, strict=True)):
        if options.align and number:
            print()
        print(f"{word}  {' '.join(phonemes)}")
        if options.align:
            _, letters, weights = pronouncer.align(word)
            print()
            print_weights(weights, phonemes, letters)
