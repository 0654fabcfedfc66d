"""The two networks of the Pronouncer in PyTorch, for training; attnx/models computes the same from the same weights.

Token 0 is the end of a word, of letters as of phonemes, and the phoneme before the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

END = 0
SIZES = {
    "seq2seq": {"embedding": 64, "encoder": 96, "encoder_layers": 2, "decoder": 192, "units": 96, "combine": 128},
    "transformer": {"width": 96, "heads": 4, "feedforward": 256, "encoder_layers": 3, "decoder_layers": 2},
}  # fmt: skip


class Seq2Seq(nn.Module):
    """A bidirectional GRU reads the letters; a GRU over the phonemes so far attends to them additively.

    Bahdanau et al. (2015), https://arxiv.org/abs/1409.0473, with the order of Luong et al. (2015),
    https://arxiv.org/abs/1508.04025: the attention follows the decoder's step and is not fed back,
    so that all steps of a known pronunciation are one call.
    """

    def __init__(self, letters: int, phonemes: int, sizes: dict[str, int], dropout: float) -> None:
        super().__init__()
        embedding, hidden, units = sizes["embedding"], sizes["encoder"], sizes["units"]
        width, layers = sizes["decoder"], sizes["encoder_layers"]
        self.letters = nn.Embedding(letters, embedding)
        self.encoder = nn.GRU(
            embedding, hidden, layers, batch_first=True, bidirectional=True, dropout=dropout
        )
        self.start = nn.Linear(2 * hidden, width)
        self.phonemes = nn.Embedding(phonemes, embedding)
        self.decoder = nn.GRU(embedding, width, batch_first=True)
        self.attention = Additive(width, 2 * hidden, units)
        self.combine = nn.Linear(width + 2 * hidden, sizes["combine"])
        self.output = nn.Linear(sizes["combine"], phonemes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        """Return logits (B, T, phonemes); letters (B, S) are of one length, without an end."""
        memory, states = self.encoder(self.dropout(self.letters(letters)))
        memory = self.dropout(memory)
        start = torch.tanh(self.start(torch.cat((states[-2], states[-1]), -1)))
        states, _ = self.decoder(self.dropout(self.phonemes(phonemes)), start[None].contiguous())
        context = self.attention(states, memory)
        both = torch.cat((states, context), -1)
        return self.output(self.dropout(torch.tanh(self.combine(self.dropout(both)))))


class Additive(nn.Module):
    """Bahdanau's attention: score = score_weight . tanh(query_weight q + key_weight k + bias)."""

    def __init__(self, query_dim: int, key_dim: int, units: int) -> None:
        super().__init__()
        self.query_weight = nn.Parameter(torch.empty(units, query_dim))
        self.key_weight = nn.Parameter(torch.empty(units, key_dim))
        self.score_weight = nn.Parameter(torch.empty(units))
        self.bias = nn.Parameter(torch.zeros(units))
        nn.init.xavier_uniform_(self.query_weight)
        nn.init.xavier_uniform_(self.key_weight)
        nn.init.uniform_(self.score_weight, -(units**-0.5), units**-0.5)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """Return the context (B, T, D) of queries (B, T, E) over a memory (B, S, D)."""
        queries = query @ self.query_weight.T + self.bias
        keys = memory @ self.key_weight.T
        scores = torch.tanh(queries[:, :, None] + keys[:, None]) @ self.score_weight
        return torch.softmax(scores, -1) @ memory


class Transformer(nn.Module):
    """Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, normalised before each block.

    The encoder reads the end mark as well, by which a letter knows where the word ends; the decoder
    attends to the letters alone.
    """

    def __init__(self, letters: int, phonemes: int, sizes: dict[str, int], dropout: float) -> None:
        super().__init__()
        width, heads, wide = sizes["width"], sizes["heads"], sizes["feedforward"]
        # Dropout of the embeddings alone: inside the layers its random numbers are a fifth of the time.
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.letters = nn.Embedding(letters, width)
        self.phonemes = nn.Embedding(phonemes, width)
        for table in (self.letters, self.phonemes):
            nn.init.normal_(table.weight, std=width**-0.5)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, heads, wide, **options),
            sizes["encoder_layers"],
            nn.LayerNorm(width),
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, heads, wide, **options),
            sizes["decoder_layers"],
            nn.LayerNorm(width),
        )
        self.output = nn.Linear(width, phonemes)
        self.dropout = nn.Dropout(dropout)
        # TransformerEncoder copies its layer: each copy must start from weights of its own.
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        """Return logits (B, T, phonemes); letters (B, S) are of one length, without an end."""
        ended = nn.functional.pad(letters, (0, 1), value=END)
        memory = self.encoder(self._embed(self.letters, ended))[:, :-1]
        length = phonemes.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        out = self.decoder(
            self._embed(self.phonemes, phonemes), memory, tgt_mask=later, tgt_is_causal=True
        )
        return self.output(out)

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        width = table.embedding_dim
        return self.dropout(table(tokens) * math.sqrt(width) + positions(tokens.shape[1], width))


def positions(length: int, width: int) -> Tensor:
    """Return the sinusoids of positions 0 to length - 1, sines in the even columns."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), -1).reshape(length, width)


def build(model: str, letters: int, phonemes: int, dropout: float = 0.0) -> nn.Module:
    """Return a network with random weights, for so many tokens, the end included."""
    kinds = {"seq2seq": Seq2Seq, "transformer": Transformer}
    return kinds[model](letters, phonemes, SIZES[model], dropout)


@torch.no_grad()
def greedy(net: nn.Module, letters: Tensor, most: int) -> list[list[int]]:
    """Return the tokens of the likeliest next phonemes, one after the other, for words of one length.

    Each step computes all steps before it again: the shortest text that says what is meant.
    """
    tokens = torch.full((len(letters), 1), END)
    for _ in range(most):
        best = net(letters, tokens)[:, -1].argmax(-1)
        tokens = torch.cat((tokens, best[:, None]), 1)
        if (tokens[:, 1:] == END).any(1).all():
            break
    return [row[: row.index(END)] if END in row else row for row in tokens[:, 1:].tolist()]
