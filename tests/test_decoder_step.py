"""A decoder's common step, whose buffers and calls are made once a cache: whose they are, and what ends them."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from conftest import assert_same_bits
from test_decoder_cache import make
from test_layers import draw, randomized

import attnx
from attnx.layers import TransformerDecoder, TransformerDecoderLayer
from attnx.layers.decoder_cache import DecoderCache


def test_steps_of_copies_and_of_other_decoders_do_not_meet() -> None:
    """The buffers of a step belong to one cache and one decoder; what a step returned stays as it was."""
    decoder, other = make(), TransformerDecoder(TransformerDecoderLayer(24, 4, 72), 3)
    randomized(other)
    x, memory = draw(2, 6, 24), draw(2, 5, 24, seed=1)
    whole = decoder(x, memory, tgt_is_causal=True)
    cache = decoder.make_cache(memory, 6)
    first = decoder(x[:, :1], cache=cache)
    twins = [copy.copy(cache), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))]
    twins[0] = copy.deepcopy(twins[0])
    assert_same_bits(decoder(x[:, 1:2], cache=cache), whole[:, 1:2])
    for twin in twins:
        other(x[:, 3:4], cache=twin)
        twin.truncate(1)
        for i in range(1, 6):
            assert_same_bits(decoder(x[:, i : i + 1], cache=twin), whole[:, i : i + 1])
    assert_same_bits(first, whole[:, :1])
    assert_same_bits(decoder(x[:, 2:3], cache=cache), whole[:, 2:3])


def test_a_step_sees_new_weights() -> None:
    decoder, other = make(), make(norm_first=True)
    x, memory = draw(2, 3, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 3)
    decoder(x[:, :1], cache=cache)
    state = {name: array * 0.5 for name, array in other.state_dict().items()}
    decoder.load_state_dict(state)
    cache.truncate(0)
    fresh = decoder.make_cache(memory, 3)
    fresh._memory = cache._memory  # projected with the old weights, as documented
    assert_same_bits(decoder(x[:, :1], cache=cache), decoder(x[:, :1], cache=fresh))


def test_a_full_cache_refuses_a_step_and_stays() -> None:
    decoder = make()
    x, memory = draw(2, 3, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 2)
    decoder(x[:, :1], cache=cache)
    decoder(x[:, 1:2], cache=cache)
    with pytest.raises(ValueError, match="key must fit into the cache of 2 positions"):
        decoder(x[:, 2:], cache=cache)
    assert cache.lengths.tolist() == [2, 2]
    cache.truncate(1)
    whole = decoder(x, memory, tgt_is_causal=True)
    assert_same_bits(decoder(x[:, 1:2], cache=cache), whole[:, 1:2])


def test_keeping_more_sequences_than_there_were() -> None:
    decoder = make()
    x, memory = draw(2, 3, 24), draw(2, 5, 24, seed=1)
    whole = decoder(x, memory, tgt_is_causal=True)
    cache = decoder.make_cache(memory, 3)
    decoder(x[:, :2], cache=cache)
    cache.keep([1, 0, 1])
    assert_same_bits(decoder(x[[1, 0, 1], 2:], cache=cache), whole[[1, 0, 1], 2:])


def test_a_layer_of_other_sizes_in_its_place() -> None:
    """The layers of a decoder are a list that may be changed; the buffers have the sizes of those that were there."""
    decoder = make()
    x, memory = draw(2, 2, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 2)
    decoder(x[:, :1], cache=cache)
    decoder.layers[0] = TransformerDecoderLayer(24, 4, 4000)
    whole, fresh = decoder(x, memory, tgt_is_causal=True), decoder.make_cache(memory, 2)
    decoder(x[:, :1], cache=fresh)
    cache._own, cache._memory = (
        fresh._own,
        fresh._memory,
    )  # of the old layer: nothing of the new one's
    assert_same_bits(decoder(x[:, 1:], cache=cache), whole[:, 1:])


def test_a_dropped_cache_is_gone_at_once() -> None:
    """No cycle waits for the collector with the keys and values of a finished sequence."""
    decoder = make()
    x, memory = draw(2, 2, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 2)
    decoder(x[:, :1], cache=cache)
    cache.keep([1])
    decoder(x[:1, 1:], cache=cache)
    keys = weakref.ref(cache._own[0])
    gc.disable()
    try:
        del cache
        assert keys() is None
    finally:
        gc.enable()


def test_an_error_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make()
    x, memory = draw(3, 3, 24), draw(3, 5, 24, seed=1)
    whole = decoder(x, memory, tgt_is_causal=True)
    cache = decoder.make_cache(memory, 3)
    decoder(x[:, :2], cache=cache)

    def fails(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(DecoderCache, "_memory_of", fails)
        with pytest.raises(MemoryError):
            cache.keep([2, 1])
    with monkeypatch.context() as patch:
        patch.setattr(TransformerDecoderLayer, "_feed_forward", fails)
        with pytest.raises(MemoryError):
            decoder(x[:, 2:], cache=cache)
    assert cache.lengths.tolist() == [2, 2, 2]
    assert_same_bits(decoder(x[:, 2:], cache=cache), whole[:, 2:])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("norm_first", [False, True])
def test_shares_of_many_sequences(isa: str, threads: int, beams: int, norm_first: bool) -> None:
    """Each thread takes its own sequences through all layers, those of a source together."""
    decoder, before = make(norm_first=norm_first), attnx.get_num_threads()
    x, memory = draw(35 * beams, 4, 24), draw(35, 5, 24, seed=1)
    lengths = np.arange(35) % 6
    attnx.set_num_threads(threads)
    try:
        cache = decoder.make_cache(memory, 4, memory_lengths=lengths, beams=beams)
        decoder(x[:, :2], cache=cache, tgt_lengths=np.arange(35 * beams) % 2 + 1)
        uneven = cache.lengths
        steps = [decoder(x[:, i : i + 1], cache=cache) for i in (2, 3)]
    finally:
        attnx.set_num_threads(before)
    for b in (0, 17 * beams, 35 * beams - 1):
        rows = np.concatenate((x[b, : uneven[b]], x[b, 2:]))[None]
        alone = decoder(
            rows,
            memory[b // beams][None],
            memory_lengths=lengths[b // beams][None],
            tgt_is_causal=True,
        )
        assert_same_bits(np.stack([step[b, 0] for step in steps]), alone[0, -2:])


def test_shares_of_as_many_rows_as_need_several_chunks() -> None:
    """A share of 513 rows has more calls than one of 512."""
    decoder, before = make(), attnx.get_num_threads()
    x, memory = draw(1025, 2, 24), draw(1025, 3, 24, seed=1)
    attnx.set_num_threads(2)
    try:
        cache = decoder.make_cache(memory, 2)
        steps = [decoder(x[:, i : i + 1], cache=cache) for i in range(2)]
    finally:
        attnx.set_num_threads(before)
    whole = decoder(x, memory, tgt_is_causal=True)
    assert_same_bits(np.concatenate(steps, axis=1), whole)


def test_a_step_sees_norms_that_change() -> None:
    decoder = make()
    x, memory = draw(2, 3, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 3)
    decoder(x[:, :1], cache=cache)
    for change in ("eps", "none"):
        cache.truncate(0)
        if change == "eps":
            decoder.layers[1].norm2.eps = 0.5
        else:
            decoder.norm = None
        whole = decoder(x, memory, tgt_is_causal=True)
        assert_same_bits(decoder(x[:, :1], cache=cache), whole[:, :1])


@pytest.mark.parametrize("name", ["linear1", "linear2", "norm1", "norm3"])
def test_a_step_sees_a_new_part_of_a_layer(name: str) -> None:
    decoder = make()
    x, memory = draw(2, 3, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 3)
    decoder(x[:, :1], cache=cache)
    cache.truncate(0)
    part = copy.copy(getattr(decoder.layers[-1], name))
    part.load_state_dict({key: array * 0.5 for key, array in part.state_dict().items()})
    setattr(decoder.layers[-1], name, part)
    whole = decoder(x, memory, tgt_is_causal=True)
    assert_same_bits(decoder(x[:, :1], cache=cache), whole[:, :1])


def test_a_part_that_goes_away_stays_with_the_step() -> None:
    """What a step points at lives as long as the step."""
    decoder = make()
    x, memory = draw(2, 3, 24), draw(2, 5, 24, seed=1)
    cache = decoder.make_cache(memory, 3)
    decoder(x[:, :1], cache=cache)
    step = cache._step
    assert step is not None
    decoder.load_state_dict({key: array * 0 for key, array in decoder.state_dict().items()})
    gc.collect()
    assert step.begin()
    assert np.isfinite(step.run(x[:, 1])).all()


@pytest.mark.parametrize("at", [0, 2])
def test_layers_of_unlike_feed_forward_sizes(at: int) -> None:
    decoder = make()
    decoder.layers[at] = TransformerDecoderLayer(24, 4, 700)
    x, memory = draw(3, 4, 24), draw(3, 5, 24, seed=1)
    whole, rows, cache = decoder(x, memory, tgt_is_causal=True), x, decoder.make_cache(memory, 4)
    for layer in decoder.layers:
        rows = layer(rows, memory, tgt_is_causal=True)
    assert decoder.norm is not None
    assert_same_bits(whole, decoder.norm(rows))
    for i in range(4):
        assert_same_bits(decoder(x[:, i : i + 1], cache=cache), whole[:, i : i + 1])
    decoder.layers[1] = TransformerDecoderLayer(24, 2, 40)
    with pytest.raises(ValueError, match="layers must all have d_model 24 and nhead 4"):
        decoder(x, memory)
