"""Sentence embeddings: texts in, one vector a text out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from attnx.layers.block import workspace
from attnx.layers.module import FloatArray, as_size
from attnx.layers.packing import Attend, attend_packed, starts_of
from attnx.layers.stack import run_in
from attnx.layers.workspace import Workspace
from attnx.models.attention_maps import see_summary, see_weights, stack_summaries
from attnx.models.batching import token_batches
from attnx.models.bert_config import BertConfig, read_config
from attnx.models.bert_weights import BertWeights, find_tensors, load_weights
from attnx.models.pooling import pool, unit
from attnx.models.progress import progress_bar
from attnx.models.tokens import Tokens, as_list, named_ids
from attnx.norm import layer_norm
from attnx.summary import AttentionSummary

TokenIds = npt.NDArray[np.int32]


class TextEncoder:
    """A BERT-type model that turns texts into vectors.

    Made by `from_pretrained`. A text's vector has the same bits alone and in any batch, with any
    number of threads. One encoder may be used by several threads at a time.

    References
    ----------
    Devlin et al., BERT, 2019; Reimers and Gurevych, Sentence-BERT, 2019.
    """

    def __init__(self, config: BertConfig, tokens: Tokens, weights: BertWeights) -> None:
        self._config = config
        self._tokens = tokens
        self._weights = weights

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a model folder in the Hugging Face convention.

        Parameters
        ----------
        folder : path
            Holds config.json, model.safetensors and tokenizer.json of a BERT-type encoder; where
            they are present, modules.json, 1_Pooling/config.json (mean, cls or max; the mean by
            default), sentence_bert_config.json and tokenizer_config.json are heeded.

        Returns
        -------
        TextEncoder
            With float32 weights, whatever the file holds.

        Raises
        ------
        FileNotFoundError
            If the folder or one of its files is missing.
        ValueError
            If a file is damaged, the files disagree, or the model is of another kind. Everything
            is checked before anything large is read.
        ImportError
            If the packages of ``attnx[models]`` are not installed.

        Examples
        --------
        >>> from attnx.models import TextEncoder
        >>> encoder = TextEncoder.from_pretrained(".cache/minilm")  # doctest: +SKIP
        >>> encoder.encode(["A sentence.", "Another one."]).shape  # doctest: +SKIP
        (2, 384)
        """
        config = read_config(Path(folder))
        tensors, names = find_tensors(config)
        tokens = Tokens(config.tokenizer, config.vocab_size)
        return cls(config, tokens, load_weights(config, tensors, names))

    @property
    def dim(self) -> int:
        """The number of elements of a vector."""
        return self._config.hidden_size

    @property
    def max_length(self) -> int:
        """The number of tokens to which longer texts are cut, unless `encode` is told another."""
        return max(self._config.max_length, self._tokens.least)

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        batch_tokens: int = 1024,
        normalize: bool = True,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> FloatArray:
        """Return one vector for each text.

        Parameters
        ----------
        texts : str or iterable of str
            The texts; a str is one text. Empty texts are allowed.
        batch_tokens : int, default 1024
            Most tokens computed together. It bounds the memory and has no influence on the result.
        normalize : bool, default True
            Whether vectors are scaled to length 1. sentence-transformers' default is that of the
            model's modules.json.
        max_length : int, optional
            Tokens to which longer texts are cut, special tokens included; default `max_length`.
        show_progress : bool, default False
            Whether to show a progress bar, on a terminal only.

        Returns
        -------
        ndarray
            Shape (n, dim), float32, in the order of the texts; (0, dim) for no texts and (1, dim)
            for a str, where sentence-transformers returns one axis less.

        Raises
        ------
        TypeError
            If a text is not a str; the message names its index.
        ValueError
            If `max_length` or `batch_tokens` is out of range.

        Examples
        --------
        >>> from attnx.models import TextEncoder
        >>> encoder = TextEncoder.from_pretrained(".cache/minilm")  # doctest: +SKIP
        >>> a, b, c = encoder.encode(["It rains.", "It is wet.", "I paid."])  # doctest: +SKIP
        >>> a @ b > a @ c  # doctest: +SKIP
        np.True_
        """
        batch_tokens = as_size("batch_tokens", batch_tokens)
        token_ids = self.tokenize(texts, max_length=max_length)
        return self._encode_ids(token_ids, batch_tokens, normalize, show_progress)

    def tokenize(
        self, texts: str | Iterable[str], *, max_length: int | None = None
    ) -> list[TokenIds]:
        """Return the token ids of each text, cut and with special tokens, as `encode` sees them.

        Parameters
        ----------
        texts : str or iterable of str
            The texts; a str is one text.
        max_length : int, optional
            As in `encode`.

        Returns
        -------
        list of ndarray
            One int32 array a text.

        Examples
        --------
        >>> from attnx.models import TextEncoder
        >>> encoder = TextEncoder.from_pretrained(".cache/minilm")  # doctest: +SKIP
        >>> encoder.tokenize("Hello!")  # doctest: +SKIP
        [array([ 101, 7592,  999,  102], dtype=int32)]
        """
        limit, lower = self._limit(max_length), self._config.lower_case
        ids = (named_ids(self._tokens, i, t, limit, lower) for i, t in enumerate(as_list(texts)))
        return [np.array(part, np.int32) for part in ids]

    def attentions(self, text: str) -> tuple[list[str], FloatArray]:
        """Return the self-attention weights of all layers for one text.

        Parameters
        ----------
        text : str
            The text, cut to `max_length` tokens.

        Returns
        -------
        tokens : list of str
            The L tokens, special ones included.
        weights : ndarray
            Shape (layers, H, L, L), float32: what each token (row) attends to; rows sum to 1.

        Examples
        --------
        >>> from attnx.models import TextEncoder
        >>> encoder = TextEncoder.from_pretrained(".cache/minilm")  # doctest: +SKIP
        >>> tokens, weights = encoder.attentions("Hello!")  # doctest: +SKIP
        >>> tokens, weights.shape  # doctest: +SKIP
        (['[CLS]', 'hello', '!', '[SEP]'], (6, 12, 4, 4))
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        (ids,) = self.tokenize(text)
        collected: list[FloatArray] = []
        self._run(ids, see_weights(collected, len(ids)))
        return self._tokens.words(ids.tolist()), np.stack(collected)

    @overload
    def attention_summary(
        self, texts: str, *, max_length: int | None = ..., **options: Any
    ) -> tuple[list[str], AttentionSummary]: ...

    @overload
    def attention_summary(
        self, texts: Iterable[str], *, max_length: int | None = ..., **options: Any
    ) -> list[tuple[list[str], AttentionSummary]]: ...

    def attention_summary(
        self, texts: str | Iterable[str], *, max_length: int | None = None, **options: Any
    ) -> tuple[list[str], AttentionSummary] | list[tuple[list[str], AttentionSummary]]:
        """Return what each token attends to and receives, in all layers, without their matrices.

        Parameters
        ----------
        texts, max_length
            As in `encode`.
        **options
            `top_k`, `entropy`, `received`, `rows` and `num_threads` of `attnx.attention_summary`.

        Returns
        -------
        tokens : list of str
            The L tokens, special ones included.
        summary : AttentionSummary
            Its arrays have a first axis of layers: `top_indices` (layers, H, L, k), `received`
            (layers, H, L); ``summary.to_csr(layer, head)``. For several texts a list of pairs.

        Examples
        --------
        >>> from attnx.models import TextEncoder
        >>> encoder = TextEncoder.from_pretrained(".cache/minilm")  # doctest: +SKIP
        >>> tokens, found = encoder.attention_summary("Hello!", received=True)  # doctest: +SKIP
        >>> found.received.shape  # doctest: +SKIP
        (6, 12, 4)
        """
        found = []
        for ids in self.tokenize(texts, max_length=max_length):
            layers: list[AttentionSummary] = []
            self._run(ids, see_summary(layers, options))
            found.append((self._tokens.words(ids.tolist()), stack_summaries(layers)))
        return found[0] if isinstance(texts, str) else found

    def _run(self, ids: TokenIds, attend: Attend) -> None:
        """Take one text through all layers."""
        layers = self._weights.encoder.layers
        work = workspace(layers, len(ids))
        run_in(layers, None, self._embed([ids], work), attend, work)

    def _encode_ids(
        self,
        token_ids: Sequence[TokenIds],
        batch_tokens: int,
        normalize: bool,
        progress: bool = False,
    ) -> FloatArray:
        """Return the vectors of texts given as ids."""
        vectors = np.zeros((len(token_ids), self.dim), np.float32)
        lengths = np.array([len(ids) for ids in token_ids], np.int64)
        batches = token_batches(lengths, batch_tokens)
        layers = self._weights.encoder.layers
        memory = workspace(layers, max((int(lengths[i].sum()) for i in batches), default=0))
        with progress_bar(len(token_ids), progress) as bar:
            for batch in batches:
                starts = starts_of(lengths[batch])
                work = memory.first(int(starts[-1]))
                rows = self._embed([token_ids[i] for i in batch], work)
                rows = run_in(layers, None, rows, attend_packed(starts, is_causal=False), work)
                pooled = pool(rows, starts, self._config.pooling)
                vectors[batch] = unit(pooled) if normalize else pooled
                bar.update(len(batch))
            bar.update(len(token_ids) - int(np.count_nonzero(lengths)))
        return vectors

    def _embed(self, token_ids: Sequence[TokenIds], work: Workspace) -> FloatArray:
        """Return the packed input rows of the first layer."""
        ids = np.concatenate(token_ids)
        positions = np.concatenate([np.arange(len(part)) for part in token_ids])
        # Every id was checked against the table when the model was read; "clip" only spares
        # NumPy's buffering of the output, which "raise" brings.
        np.take(self._weights.words, ids, axis=0, out=work.other, mode="clip")
        np.take(self._weights.positions, positions, axis=0, out=work.attended, mode="clip")
        norm = self._weights.norm
        return layer_norm(
            work.other, norm._weight, norm._bias, eps=norm.eps, residual=work.attended,
            out=work.result,
        )  # fmt: skip

    def _limit(self, max_length: int | None) -> int:
        if max_length is None:
            return self.max_length
        limit = as_size("max_length", max_length)
        least, most = self._tokens.least, self._config.max_position_embeddings
        if not least <= limit <= most:
            raise ValueError(f"max_length must lie between {least} and {most}, got {limit}")
        return limit
