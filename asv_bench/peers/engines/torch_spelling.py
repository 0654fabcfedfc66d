"""The pronouncing models in PyTorch: the networks as they were trained, decoded a step at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..spelling import DATA

TOOLS = str(DATA.parents[2] / "tools")

#: Takes the newest phonemes (B,) and returns the logits (B, phonemes) of the next ones.
Step = Callable[[torch.Tensor], torch.Tensor]


def forms(model: str, words: list[str]) -> dict[str, Callable[[], list[list[str]]]]:
    """Return the ways to pronounce words; each gives the phonemes of each word."""
    sys.path.insert(0, TOOLS)
    from pronouncer_nets import build

    config = json.loads((DATA / f"{model}.json").read_text())
    net = build(model, len(config["letters"]) + 1, len(config["phonemes"]) + 1).eval()
    weights = load_file(DATA / f"{model}.safetensors")
    net.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    starts: dict[str, Callable[[Any, Any, Any], Step]]
    if model == "seq2seq":
        starts = {"nn.GRU, then nn.GRUCell": _gru_cell(net)}
    else:
        starts = {"nn.TransformerDecoder": _all_again, "cache by hand": _cached}
    return {name: _pronounce(net, start, config, words) for name, start in starts.items()}


def _pronounce(
    net: Any, start: Callable[[Any, Any, Any], Step], config: dict[str, Any], words: list[str]
) -> Callable[[], list[list[str]]]:
    token = {letter: number for number, letter in enumerate(config["letters"], 1)}

    def run() -> list[list[str]]:
        rows = [torch.tensor([token[letter] for letter in word]) for word in words]
        lengths = torch.tensor([len(word) for word in words])
        letters = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        step = start(net, letters, lengths)
        newest = torch.zeros(len(words), dtype=torch.int64)
        found, ended = [], torch.zeros(len(words), dtype=torch.bool)
        while len(found) < 2 * letters.shape[1] + 8:
            newest = step(newest).argmax(-1)
            found.append(newest)
            ended |= newest == 0
            if ended.all():
                break
        answers = torch.stack(found, 1).tolist()
        return [
            [config["phonemes"][t - 1] for t in (row[: row.index(0)] if 0 in row else row)]
            for row in answers
        ]

    return run


def _gru_cell(net: Any) -> Callable[[Any, Any, Any], Step]:
    decoder, attention = net.decoder, net.attention
    cell = torch.nn.GRUCell(decoder.input_size, decoder.hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in decoder.state_dict().items()})

    def start(net: Any, letters: torch.Tensor, lengths: torch.Tensor) -> Step:
        embedded = net.letters(letters)
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        outputs, states = net.encoder(packed)
        memory, _ = pad_packed_sequence(outputs, batch_first=True)
        keys = memory @ attention.key_weight.T + attention.bias
        hidden = (torch.arange(letters.shape[1]) >= lengths[:, None]) if len(letters) > 1 else None
        state = torch.tanh(net.start(torch.cat((states[-2], states[-1]), -1)))

        def step(newest: torch.Tensor) -> torch.Tensor:
            nonlocal state
            state = cell(net.phonemes(newest), state)
            queries = functional.linear(state, attention.query_weight)
            scores = torch.tanh(queries[:, None] + keys) @ attention.score_weight
            if hidden is not None:
                scores = scores.masked_fill(hidden, -torch.inf)
            context = (torch.softmax(scores, -1)[:, None] @ memory)[:, 0]
            return net.output(torch.tanh(net.combine(torch.cat((state, context), -1))))

        return step

    return start


def _encoded(
    net: Any, letters: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the memory (B, S, width) and where it is not to be seen, if anywhere."""
    ended = functional.pad(letters, (0, 1))
    many = len(letters) > 1
    past = (torch.arange(ended.shape[1]) > lengths[:, None]) if many else None
    memory = net.encoder(net._embed(net.letters, ended), src_key_padding_mask=past)[:, :-1]
    return memory, past[:, 1:] if past is not None else None


def _all_again(net: Any, letters: torch.Tensor, lengths: torch.Tensor) -> Step:
    memory, hidden = _encoded(net, letters, lengths)
    before: list[torch.Tensor] = []

    def step(newest: torch.Tensor) -> torch.Tensor:
        before.append(newest)
        count = len(before)
        later = torch.ones(count, count, dtype=torch.bool).triu(1)
        out = net.decoder(
            net._embed(net.phonemes, torch.stack(before, 1)), memory, tgt_mask=later,
            memory_key_padding_mask=hidden, tgt_is_causal=True,
        )  # fmt: skip
        return net.output(out[:, -1])

    return step


def _cached(net: Any, letters: torch.Tensor, lengths: torch.Tensor) -> Step:
    from pronouncer_nets import positions

    memory, hidden = _encoded(net, letters, lengths)
    visible = None if hidden is None else ~hidden[:, None, None]
    layers, width = net.decoder.layers, memory.shape[2]
    places, heads = positions(2 * letters.shape[1] + 8, width), layers[0].self_attn.num_heads
    crossed = [_keys_values(layer.multihead_attn, memory) for layer in layers]
    kept: list[list[torch.Tensor]] = [[] for _ in layers]
    count = 0

    def step(newest: torch.Tensor) -> torch.Tensor:
        nonlocal count
        x = net.phonemes(newest) * width**0.5 + places[count]
        count += 1
        for number, layer in enumerate(layers):
            own, other = layer.self_attn, layer.multihead_attn
            packed = functional.linear(layer.norm1(x), own.in_proj_weight, own.in_proj_bias)
            query, key, value = packed.view(len(x), 3, heads, 1, -1).unbind(1)
            past = kept[number]
            kept[number] = now = (
                [torch.cat(pair, 2) for pair in zip(past, (key, value), strict=True)]
                if past
                else [key, value]
            )
            x = x + own.out_proj(_joined(query, *now))
            query = functional.linear(
                layer.norm2(x), other.in_proj_weight[:width], other.in_proj_bias[:width]
            )
            query = query.view(len(x), heads, 1, -1)
            x = x + other.out_proj(_joined(query, *crossed[number], visible))
            x = x + layer.linear2(torch.relu(layer.linear1(layer.norm3(x))))
        return net.output(net.decoder.norm(x))

    return step


def _joined(query: Any, key: Any, value: Any, mask: Any = None) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).flatten(1)


def _keys_values(attention: Any, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    width = memory.shape[2]
    packed = functional.linear(
        memory, attention.in_proj_weight[width:], attention.in_proj_bias[width:]
    )
    split = packed.view(*memory.shape[:2], 2, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return split[0], split[1]
