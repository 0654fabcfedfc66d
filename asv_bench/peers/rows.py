"""The table of rows: to compare something more, add an entry here (and nothing else)."""

from __future__ import annotations

from typing import NamedTuple

from .work import Additive, Attention, Layer, Sentences, Softmax, Words, Work


class Row(NamedTuple):
    """One line of the table: its name and its work, and the row that it is a share of."""

    name: str
    work: Work
    beside: str = ""


#: Of models in use, beside 32, 64 and 128: what fills no whole number of vectors or tiles.
HEAD_DIMS = (40, 72, 80, 96, 112, 256)

ROWS = (
    # attention, named B x H x L x E
    Row("1x12x16x64", Attention(1, 12, 16, 64)),
    Row("1x12x32x32", Attention(1, 12, 32, 32)),
    Row("1x12x128x64", Attention(1, 12, 128, 64)),
    Row("8x12x128x64", Attention(8, 12, 128, 64)),
    Row("1x12x512x64", Attention(1, 12, 512, 64)),
    Row("32x12x64x32", Attention(32, 12, 64, 32)),
    Row("16x12x256x64, ragged lengths", Attention(16, 12, 256, 64, ragged=True)),
    Row("4x12x256x64, dense float mask", Attention(4, 12, 256, 64, float_mask=True)),
    Row("1x16x2048x64", Attention(1, 16, 2048, 64)),
    Row("1x16x2048x64, causal", Attention(1, 16, 2048, 64, causal=True)),
    Row("1x32(8)x2048x128, causal, grouped", Attention(1, 32, 2048, 128, kv_heads=8, causal=True)),
    Row("1x4x8192x128, causal", Attention(1, 4, 8192, 128, causal=True)),
    Row(
        "1x4x8192x128, window (256, 0)",
        Attention(1, 4, 8192, 128, window=(256, 0)),
        beside="1x4x8192x128, causal",
    ),
    Row("4x12x32x64 on 512 keys", Attention(4, 12, 32, 64, keys=512)),
    Row("float64 2x8x256x64", Attention(2, 8, 256, 64, dtype="float64")),
    *(Row(f"head dim {dim}, 1x8x1024", Attention(1, 8, 1024, dim)) for dim in HEAD_DIMS),
    # one query a sequence on the keys of a cache
    Row("decode 1x32(8)x1x128 on 4096 keys", Attention(1, 32, 1, 128, keys=4096, kv_heads=8)),
    Row(
        "decode 1x32(8)x1x128 on 4096 keys, bfloat16 cache",
        Attention(1, 32, 1, 128, keys=4096, kv_heads=8, stored="bfloat16"),
        beside="decode 1x32(8)x1x128 on 4096 keys",
    ),
    Row("decode 16x32(8)x1x128 on 1024 keys", Attention(16, 32, 1, 128, keys=1024, kv_heads=8)),
    Row(
        "decode 16x32(8)x1x128 on 1024 keys, bfloat16 cache",
        Attention(16, 32, 1, 128, keys=1024, kv_heads=8, stored="bfloat16"),
        beside="decode 16x32(8)x1x128 on 1024 keys",
    ),
    Row("decode 1x12x1x64 on 1024 keys", Attention(1, 12, 1, 64, keys=1024)),
    # multi-head self-attention layers, named B x L x width, h heads
    Row("multi-head layer 1x128x384 h12", Layer(1, 128, 384, 12)),
    Row("multi-head layer 8x128x768 h12", Layer(8, 128, 768, 12)),
    Row("multi-head layer 1x16x768 h12", Layer(1, 16, 768, 12)),
    # additive attention, named B x L on S keys, width -> units
    Row("additive 32x1 on 50, 512 -> 256", Additive(32, 1, 50, 512, 256)),
    Row("additive 16x40 on 50, 512 -> 256", Additive(16, 40, 50, 512, 256)),
    Row(
        "additive 32x1 on 50, 512 -> 256, keys projected before",
        Additive(32, 1, 50, 512, 256, projected=True),
    ),
    Row("softmax 4096x512", Softmax(4096, 512)),
    Row("softmax 32x50257", Softmax(32, 50257)),
    Row("400 sentences, MiniLM-L6", Sentences(400)),
    Row("one sentence, MiniLM-L6", Sentences(1)),
    # attnx's own models of letters and phonemes, from text to text
    Row("64 words, seq2seq", Words("seq2seq", 64)),
    Row("one word, seq2seq", Words("seq2seq", 1)),
    Row("64 words, transformer", Words("transformer", 64)),
    Row("one word, transformer", Words("transformer", 1)),
)


def find(name: str) -> Row:
    """Return the row of that name."""
    return next(row for row in ROWS if row.name == name)
