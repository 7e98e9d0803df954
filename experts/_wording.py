"""Names in a sentence: articles and lists."""

from __future__ import annotations

from collections.abc import Sequence


def with_article(word: str) -> str:
    """ "a dog", "an apple"; nothing before what looks like a plural."""
    last = word.split()[-1]
    if last.endswith("s") and not last.endswith(("ss", "us", "is")):
        return word
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def listed(names: Sequence[str]) -> str:
    """ "a dog", "a dog and a cat", "a dog, a cat and a cow"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
