"""From text to token ids, through the tokenizers package."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attnx.models.documents import parse_json, read_bounded

# The largest multilingual vocabularies take about 20 MB.
_LARGEST = 1 << 26
# Letters, an ideograph and an emoji, so that a vocabulary without a token for the unknown fails
# when the model is read, not at the first unusual text.
_SAMPLE = "attention \u5b57 \U0001f600"


class Tokens:
    """A tokenizer.json, with the truncation and padding it may hold switched off.

    Parameters
    ----------
    path : Path
        The file.
    vocab_size : int
        Rows of the embedding table: every id must lie below it.

    Raises
    ------
    ValueError
        If the file is damaged or can give an id that the table does not have.

    Notes
    -----
    Truncation is done here, on finished ids: the tokenizer object is then never changed, and
    threads may share it. Texts are taken one at a time, because the package's batches start a pool
    of threads that warns in, and changes the environment of, every process forked later; the
    difference is about half a percent of the time a text takes.
    """

    def __init__(self, path: Path, vocab_size: int) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ImportError(
                "reading a model needs the package tokenizers: pip install 'attnx[models]'"
            ) from None
        text = read_bounded(path, _LARGEST)
        document = parse_json(path, text)
        if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
            raise ValueError(f"{path} must hold a JSON object with a model")
        try:
            self._tokenizer: Any = Tokenizer.from_buffer(text)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            sample = self._tokenizer.encode(_SAMPLE)
            largest = max(
                [*self._tokenizer.get_vocab(with_added_tokens=True).values(), *sample.ids]
            )
        except BaseException as error:
            # A panic of the Rust code below is no Exception.
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise ValueError(f"{path} is not a valid tokenizer: {str(error)[:500]}") from None
        if largest >= vocab_size:
            raise ValueError(
                f"{path} must give ids below the vocab_size of config.json ({vocab_size}), "
                f"got {largest}"
            )
        marks = sample.special_tokens_mask
        # Tokens that every text gets at its end ([SEP]); truncation keeps them.
        self._at_end = marks[::-1].index(0) if 0 in marks else 0
        self.least = sum(marks)

    def ids(self, text: str, max_length: int) -> list[int]:
        """Return the ids of a text, cut in its middle, before the closing tokens, where too long."""
        ids: list[int] = self._tokenizer.encode(text).ids
        if len(ids) <= max_length:
            return ids
        return ids[: max_length - self._at_end] + ids[len(ids) - self._at_end :]

    def words(self, ids: list[int]) -> list[str]:
        """Return the tokens of ids as text."""
        return [str(self._tokenizer.id_to_token(number)) for number in ids]


def named_ids(tokens: Tokens, index: int, text: object, limit: int, lower: bool) -> list[int]:
    """Return the ids of one of many texts; an error names it by its index."""
    if not isinstance(text, str):
        raise TypeError(f"texts[{index}] must be a str, got {type(text).__name__}")
    try:
        return tokens.ids(text.lower() if lower else text, limit)
    except Exception as error:  # of the package tokenizers, which raises nothing narrower
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"texts[{index}] holds half a surrogate pair") from None
        raise ValueError(f"texts[{index}] cannot be tokenized: {error}") from None


def as_list(texts: str | Iterable[str]) -> list[str]:
    """Return texts as a list; a str is one text."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a str or an iterable of str, got {type(texts).__name__}")
    return list(texts)
