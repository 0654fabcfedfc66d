#!/usr/bin/env python3
"""What the heads of a causal model attend to in a long text, from a summary: no matrix is made.

The first layer of glassllm (see generate.py) reads a text; `attention_summary` says of each of its heads how sharp
it is, how far it looks back, which token it chooses, and which tokens are attended to most.

    python tools/fetch_glassllm.py
    python examples/long_text.py examples/sentences.txt
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from generate import Model, Tokenizer, load, rms_norm
from numpy.typing import NDArray

from attnx import apply_rotary, attention_summary, rotary_tables
from attnx.summary import AttentionSummary

Array = NDArray[Any]


def queries_and_keys(model: Model, tokens: list[int]) -> tuple[Array, Array]:
    """Return what the first layer attends with: query (H, L, E) and key (G, L, E), turned to their positions."""
    layer, config = model.layers[0], model.config
    dim = config["d_model"] // config["n_heads"]
    rows = layer.query_key_value(rms_norm(model.embedding[tokens], layer.norms[0], layer.eps))
    heads = rows.reshape(len(tokens), -1, dim).swapaxes(0, 1)
    tables = rotary_tables(len(tokens), dim, base=config["rope_base"])
    query, key, _ = np.split(heads, [layer.heads, layer.heads + config["n_kv_heads"]])
    return (
        apply_rotary(query, *tables, interleaved=True),
        apply_rotary(key, *tables, interleaved=True),
    )


def report(summary: AttentionSummary, words: list[str]) -> None:
    """Print a line or two for each head."""
    top, entropy, received = summary.top_indices, summary.entropy, summary.received
    assert top is not None
    assert entropy is not None
    assert received is not None
    positions = np.arange(len(words))
    for head in range(len(top)):
        first = top[head, :, 0]
        back = positions - first
        print(
            f"head {head}: attends to about {np.exp(np.median(entropy[head])):.0f} tokens; its first choice "
            f"is itself for {np.mean(back == 0):.0%}, the token before for {np.mean(back == 1):.0%}, "
            f"the same token earlier for "
            f"{np.mean([b > 0 and words[i] == words[f] for i, f, b in zip(positions, first, back, strict=True)]):.0%}"
        )
        most = np.argsort(-received[head], kind="stable")[:5]
        named = ", ".join(f"{words[j].strip()!r} at {j} ({received[head, j]:.0f})" for j in most)
        print(f"        most attended to: {named}")


def read(file: Path, tokenizer: Tokenizer, limit: int) -> tuple[list[int], list[str]]:
    """Return the tokens of a text, and how each is written."""
    tokens = tokenizer.encode(" ".join(file.read_text(encoding="utf-8").split()))[:limit]
    return tokens, [tokenizer.words[token].replace("▁", " ") for token in tokens]


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(description="Summarise the attention of a long text.")
    parser.add_argument("text", metavar="TEXT.txt", type=Path, help="a UTF-8 text")
    parser.add_argument("--limit", type=int, default=10_000, help="most tokens (default: 10000)")
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        type=Path,
        default=Path(".cache/glassllm"),
        help="where tools/fetch_glassllm.py put it (default: .cache/glassllm)",
    )
    options = parser.parse_args(arguments)
    try:
        model, tokenizer = load(options.model, "en")
        tokens, words = read(options.text, tokenizer, options.limit)
    except OSError as error:
        parser.error(f"{error}; run tools/fetch_glassllm.py first")
    if not tokens:
        parser.error("the text is empty")
    query, key = queries_and_keys(model, tokens)
    start = time.perf_counter()
    summary = attention_summary(query, key, is_causal=True, top_k=3, entropy=True, received=True)
    seconds = time.perf_counter() - start
    matrix = 4 * len(query) * len(tokens) ** 2
    print(
        f"{len(tokens)} tokens; the matrices of {len(query)} heads would be {matrix / 1e9:.1f} GB"
    )
    report(summary, words)
    print(f"summary: {seconds:.2f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
