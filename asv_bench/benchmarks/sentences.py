"""Real sentences to embed, and words to pronounce, from the language reference that comes with every Python."""

from __future__ import annotations

import re
from pydoc_data.topics import topics


def real_sentences(count: int) -> list[str]:
    """Return `count` different sentences of 40 to 400 characters, in no order of length."""
    found: dict[str, None] = {}
    for _, text in sorted(topics.items()):
        for paragraph in text.split("\n\n"):
            if not re.match(r"[A-Z]", paragraph):  # headings' underlines, code, lists
                continue
            for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split())):
                if 40 <= len(sentence) <= 400 and re.fullmatch(r"[A-Z].*[.!?]", sentence):
                    found[sentence] = None
    sentences = list(found)
    if len(sentences) < count:
        raise ValueError(f"count must be at most {len(sentences)}, got {count}")
    return [sentences[i * len(sentences) // count] for i in range(count)]


def real_words(count: int) -> list[str]:
    """Return `count` different words of lower-case letters, in no order of length."""
    text = " ".join(real_sentences(400))
    words = list(dict.fromkeys(re.findall(r"(?<!\S)[a-z]{2,}(?=[ ,.;:!?])", text)))
    if len(words) < count:
        raise ValueError(f"count must be at most {len(words)}, got {count}")
    return [words[i * len(words) // count] for i in range(count)]
