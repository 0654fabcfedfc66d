"""``attnx view``: what the tokens of a text attend to."""

from __future__ import annotations

import argparse
from typing import Any

from attnx.cli.pictures import add_picture_options, check_pictures, print_weights, write_pictures

_EXAMPLES = """\
examples:
  attnx view --model FOLDER "The cat sat on the mat."
  attnx view --model FOLDER "The cat sat on the mat." --layer 0 --head 3
  attnx view --model FOLDER "The cat sat on the mat." -o page.html
  attnx view --model FOLDER "The cat sat on the mat." --layer 0 --head all --png heads.png
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its options to the command line."""
    view = commands.add_parser(
        "view", help="the attention weights of a text",
        description="Show the self-attention of a text: one layer and head as a matrix of text, all of them as a page.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    view.add_argument("text", metavar="TEXT", help="a sentence")
    view.add_argument("--model", metavar="FOLDER", required=True, help="the model's folder")
    view.add_argument(
        "--layer", metavar="N", type=int, default=-1,
        help="counted from 0; default: the last one. A page has all and opens with this one",
    )  # fmt: skip
    view.add_argument(
        "--head", metavar="N|mean|all", default="mean",
        help="a head, counted from 0, the mean of all, or all of them; default: mean",
    )  # fmt: skip
    add_picture_options(view, "the weights")
    view.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from attnx.models import TextEncoder

    pictures = check_pictures(options)
    encoder = TextEncoder.from_pretrained(options.model)
    tokens, weights = encoder.attentions(options.text)
    layers, heads = weights.shape[:2]
    if not -layers <= options.layer < layers:
        raise ValueError(f"--layer must lie between 0 and {layers - 1}, got {options.layer}")
    layer, head = options.layer % layers, None
    shown, which = weights[layer], f"{heads} heads"
    if options.head == "mean":
        shown, which = shown.mean(axis=0), f"mean of {heads} heads"
    elif options.head.isdecimal() and int(options.head) < heads:
        head = int(options.head)
        shown, which = shown[head], f"head {head}"
    elif options.head != "all":
        raise ValueError(
            f"--head must be mean or from 0 to {heads - 1}, or all, got {options.head!r}"
        )
    if pictures:
        write_pictures(
            options, shown, tokens, tokens, title=options.text, layers=weights, layer=layer, head=head
        )  # fmt: skip
        return
    print(f"layer {layer} of 0 to {layers - 1}, {which}: rows attend to columns\n")
    print_weights(shown, tokens, tokens)
