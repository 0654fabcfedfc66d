"""Decoding from a cache has the bits of the whole pass: steps, chunks, beams, ragged prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_same_bits
from test_layers import draw, randomized

from attnx.decoding import beam_search
from attnx.layers import LayerNorm, TransformerDecoder, TransformerDecoderLayer


def make(norm_first: bool = False, dim: int = 24, heads: int = 4) -> TransformerDecoder:
    layer = TransformerDecoderLayer(dim, heads, 40, norm_first=norm_first)
    decoder = TransformerDecoder(layer, 3, LayerNorm(dim))
    randomized(decoder)
    return decoder


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(("batch", "dim", "heads"), [(1, 24, 4), (5, 24, 2), (3, 128, 4)])
def test_steps_have_the_bits_of_the_whole(
    isa: str, norm_first: bool, batch: int, dim: int, heads: int
) -> None:
    decoder = make(norm_first, dim, heads)
    x, memory = draw(batch, 23, dim), draw(batch, 11, dim, seed=1)
    source = np.arange(batch) * 3 % 12
    whole = decoder(x, memory, memory_lengths=source, tgt_is_causal=True)
    cache = decoder.make_cache(memory, 23, memory_lengths=source)
    begin = 0
    for count in (1, 1, 5, 1, 9, 2, 1, 1, 1, 1):
        found = decoder(x[:, begin : begin + count], cache=cache)
        assert_same_bits(found, whole[:, begin : begin + count])
        begin += count
    assert begin == 23
    assert cache.lengths.tolist() == [23] * batch


def test_the_bits_stay_over_several_blocks_of_keys(isa: str) -> None:
    """Beyond the 192 keys of a block, of both the targets and the memory."""
    decoder = make()
    x, memory = draw(2, 260, 24), draw(2, 400, 24, seed=1)
    whole = decoder(x, memory, tgt_is_causal=True)
    cache = decoder.make_cache(memory, 260)
    assert_same_bits(decoder(x[:, :190], cache=cache), whole[:, :190])
    for i in range(190, 200):
        assert_same_bits(decoder(x[:, i : i + 1], cache=cache), whole[:, i : i + 1])
    assert_same_bits(decoder(x[:, 200:], cache=cache), whole[:, 200:])


def test_ragged_prompts() -> None:
    decoder = make()
    x, memory, lengths = draw(4, 6, 24), draw(4, 5, 24, seed=1), [6, 2, 0, 1]
    cache = decoder.make_cache(memory, 8)
    x[1, 2:], x[2], x[3, 1:] = np.nan, np.inf, np.nan
    prompt, weights = decoder(x, cache=cache, tgt_lengths=lengths, need_weights=True)
    assert cache.lengths.tolist() == lengths
    assert weights.shape == (3, 4, 4, 6, 5)
    step = draw(4, 1, 24, seed=7)
    following = decoder(step, cache=cache)
    for b, n in enumerate(lengths):
        whole = decoder(np.concatenate([x[b, :n], step[b]]), memory[b], tgt_is_causal=True)
        assert_same_bits(prompt[b, :n], whole[:n])
        assert not prompt[b, n:].any()
        assert_same_bits(following[b], whole[n:])


@pytest.mark.parametrize("lengths", [None, [7, 1, 4]])
def test_beams_share_their_source(isa: str, lengths: list[int] | None) -> None:
    decoder = make()
    x, memory = draw(6, 5, 24), draw(3, 7, 24, seed=1)
    rows = np.array([1, 1, 2, 3, 5, 4])  # inside each source
    shared = decoder.make_cache(memory, 9, memory_lengths=lengths, beams=2)
    apart = decoder.make_cache(
        memory.repeat(2, 0), 9, memory_lengths=None if lengths is None else np.repeat(lengths, 2)
    )
    assert shared.batch == apart.batch == 6
    for cache in (shared, apart):
        decoder(x[:, :2], cache=cache)
        cache.reorder(rows)
    assert shared.beams == 2
    found = decoder(x[:, 2:4], cache=shared, need_weights=True)
    for one, other in zip(found, decoder(x[:, 2:4], cache=apart, need_weights=True), strict=True):
        assert_same_bits(one, other)
    history = np.concatenate([x[rows, :2], x[:, 2:4]], axis=1)
    source = None if lengths is None else np.repeat(lengths, 2)
    whole, weights = decoder(
        history, memory.repeat(2, 0), memory_lengths=source, tgt_is_causal=True, need_weights=True
    )
    assert_same_bits(found[0], whole[:, 2:])
    assert_same_bits(found[1], weights[..., 2:, :])
    mask = draw(6, 4, 1, 7, seed=3)  # tells the beams apart
    assert_same_bits(
        decoder(x[:, 4:], None, None, mask, cache=shared),
        decoder(x[:, 4:], None, None, mask, cache=apart),
    )


def test_sequences_may_change_their_source() -> None:
    decoder = make()
    x, memory = draw(4, 3, 24), draw(2, 7, 24, seed=1)
    cache = decoder.make_cache(memory, 9, memory_lengths=[7, 3], beams=2)
    decoder(x[:, :2], cache=cache)
    rows = np.array([3, 0, 0, 2])
    cache.reorder(rows)
    found = decoder(x[:, 2:], cache=cache)
    history = np.concatenate([x[rows, :2], x[:, 2:]], axis=1)
    whole = decoder(
        history, memory[rows // 2], memory_lengths=np.array([7, 3])[rows // 2], tgt_is_causal=True
    )
    assert_same_bits(found, whole[:, 2:])


def test_keeping_some_of_the_sequences(isa: str) -> None:
    decoder = make()
    x, memory, lengths = draw(6, 3, 24), draw(3, 5, 24, seed=1), [5, 1, 3]
    for rows in ([1, 2, 5], [4], [], [0, 1, 2, 3, 4, 5]):
        whole = decoder.make_cache(memory, 9, memory_lengths=lengths, beams=2)
        part = decoder.make_cache(memory, 9, memory_lengths=lengths, beams=2)
        decoder(x[:, :2], cache=whole)
        decoder(x[:, :2], cache=part)
        part.keep(np.array(rows, np.int64))
        assert (part.batch, part.lengths.tolist()) == (len(rows), [2] * len(rows))
        expected = decoder(x[:, 2:], cache=whole)[rows]
        assert_same_bits(decoder(x[rows, 2:], cache=part), expected)


def test_steps_back() -> None:
    decoder = make()
    x, memory = draw(3, 6, 24), draw(3, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 6)
    whole = decoder(x, memory, tgt_is_causal=True)
    decoder(draw(3, 6, 24, seed=9), cache=cache)
    cache.truncate(0)
    decoder(x, cache=cache)
    cache.truncate([2, 6, 3])
    assert cache.lengths.tolist() == [2, 6, 3]
    cache.truncate(2)
    assert_same_bits(decoder(x[:, 2:], cache=cache), whole[:, 2:])


def test_masks_and_weights_with_a_cache() -> None:
    decoder = make()
    x, memory = draw(2, 6, 24), draw(2, 5, 24, seed=1)
    own, cross = draw(4, 6, 6, seed=3), draw(6, 5, seed=4) > -1
    options: dict[str, Any] = {"need_weights": True}
    whole, weights = decoder(x, memory, own, cross, tgt_is_causal=True, **options)
    cache = decoder.make_cache(memory, 6)
    assert_same_bits(decoder(x[:, :4], None, own[:, :4, :4], cross[:4], cache=cache), whole[:, :4])
    rest = decoder(x[:, 4:], None, own[:, 4:], cross[4:], cache=cache, **options)
    assert_same_bits(rest[0], whole[:, 4:])
    assert_same_bits(rest[1], weights[..., 4:, :])


def test_an_error_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make()
    x, memory = draw(2, 4, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 3)
    whole = decoder(x, memory, tgt_is_causal=True)
    decoder(x[:, :2], cache=cache)
    with pytest.raises(ValueError, match="cache of 3 positions"):
        decoder(x[:, 2:], cache=cache)
    with pytest.raises(ValueError, match="mask"):
        decoder(x[:, 2:3], None, None, np.ones((1, 4), bool), cache=cache)
    with pytest.raises(ValueError, match="between 0 and 1"):
        cache.reorder([0, 2])
    with pytest.raises(ValueError, match="lengths"):
        cache.truncate([3, 1])
    assert cache.lengths.tolist() == [2, 2]
    assert_same_bits(decoder(x[:, 2:3], cache=cache), whole[:, 2:3])


@pytest.mark.parametrize("beams", [1, 3])
def test_beam_search_reorders_the_cache(beams: int) -> None:
    """What it finds has the scores and weights of the whole pass without a cache."""
    decoder = TransformerDecoder(TransformerDecoderLayer(16, 2, 32), 2)
    randomized(decoder)
    memory, lengths = draw(4, 5, 16), [5, 2, 1, 4]
    embedding, output = draw(6, 16, seed=1), draw(6, 16, seed=2)
    cache = decoder.make_cache(memory, 7, memory_lengths=lengths, beams=beams)

    def step(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, weights = decoder(embedding[tokens][:, None], cache=cache, need_weights=True)
        return x[:, 0] @ output.T, weights[-1, :, :, 0].mean(axis=1)

    found = beam_search(
        step,
        [1] * 4,
        reorder=cache.reorder,
        end_token=0,
        max_length=7,
        beams=beams,
        length_penalty=1.0,
    )
    assert cache.beams == beams
    for b, hypotheses in enumerate(found):
        for h in hypotheses:
            history = [1, *h.tokens.tolist()]
            x, weights = decoder(
                embedding[history], memory[b], memory_lengths=lengths[b], tgt_is_causal=True,
                need_weights=True,
            )  # fmt: skip
            logits = (x @ output.T).astype(float)
            logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            following = [*history[1:], 0] if h.ended else history[1:]
            total = logs[np.arange(len(following)), following].sum()
            assert h.score == pytest.approx(total / len(following), rel=1e-5)
            assert h.weights is not None
            if len(h.tokens):
                wanted = weights[-1].mean(axis=0)[: len(h.tokens)]
                np.testing.assert_allclose(h.weights, wanted, rtol=1e-5, atol=1e-6)


DECODER = make()
MEMORY = np.zeros((2, 5, 24), np.float32)
CACHE = DECODER.make_cache(MEMORY, 4)
NEXT = np.zeros((2, 1, 24), np.float32)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: DECODER(NEXT, MEMORY, cache=CACHE), TypeError, "memory may not be given with cache"),
    (lambda: DECODER(NEXT, cache=CACHE, memory_lengths=[1, 2]), TypeError, "memory_lengths may not"),
    (lambda: DECODER(NEXT, cache=[]), TypeError, "cache.*make_cache.*list"),
    (lambda: DECODER(NEXT[:1], cache=CACHE), ValueError, r"tgt must have shape \(2, length, 24\)"),
    (lambda: DECODER(NEXT[0], cache=CACHE), ValueError, "tgt must have shape"),
    (lambda: DECODER(NEXT, cache=CACHE, tgt_lengths=[1, 2]), ValueError, "tgt_lengths"),
    (lambda: make(dim=48)(draw(2, 1, 48), cache=CACHE), ValueError, "cache must be of 3 layers"),
    (lambda: DECODER.make_cache(MEMORY[0], 4), ValueError, "memory must have shape"),
    (lambda: DECODER.make_cache(MEMORY.astype(float), 4), TypeError, "memory must be float32"),
    (lambda: DECODER.make_cache(MEMORY, 4, memory_lengths=[6, 1]), ValueError, "memory_lengths"),
    (lambda: DECODER.make_cache(MEMORY, 4, beams=0), ValueError, "beams"),
    (lambda: DECODER.make_cache(MEMORY, -1), ValueError, "capacity"),
    (lambda: CACHE.keep([0, 2]), ValueError, "rows must lie between 0 and 1"),
    (lambda: CACHE.keep([True, False]), ValueError, r"rows must be integers \(n,\), got bool"),
    (lambda: CACHE.keep(1), ValueError, r"rows must be integers \(n,\)"),
    (lambda: CACHE.reorder([0]), ValueError, "rows"),
])  # fmt: skip
def test_wrong_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
    assert CACHE.lengths.tolist() == [0, 0]
