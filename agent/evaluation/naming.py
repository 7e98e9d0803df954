"""Decides whether an answer names the object of a labelled photograph, picture or sound.

It knows WordNet's words and two levels of its hierarchy. It knows nothing of models, pictures or
files: the caller passes any object with the two methods of `WordNet` below (nltk's
`WordNetCorpusReader` is one).

The rule: an answer counts when it contains, as whole words, a lemma of one of the labelled synsets
(a synonym) or a lemma of one of their hypernyms one or two levels up, along every path. Letter
case, hyphens, underscores and the plural are folded: "two tabby-cats" names `tabby.n.01`. A word
inside a longer word does not count: "caterpillar" does not name a cat.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

LEVELS = 2
"""How far up the hierarchy a hypernym still counts as naming the object."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class Synset(Protocol):
    """The part of nltk's synset that the score uses."""

    def lemma_names(self) -> Sequence[str]:
        """The synonyms, words of one lemma joined by underscores: `["hot-air_balloon"]`."""
        ...

    def hypernyms(self) -> Sequence[Synset]:
        """The synsets one level up; several where the hierarchy branches."""
        ...

    def instance_hypernyms(self) -> Sequence[Synset]:
        """The kinds of which this synset is a single instance; empty for common nouns."""
        ...


class WordNet(Protocol):
    """The part of nltk's corpus reader that the score uses."""

    def synset(self, name: str) -> Synset:
        """The synset of a name such as `cat.n.01`; raises nltk's `WordNetError` for others."""
        ...

    def morphy(self, form: str, pos: str | None = None) -> str | None:
        """The base form of a word (`geese` → `goose`), or None for a word not in WordNet."""
        ...


def accepted_synsets(synset_ids: Iterable[str], wordnet: WordNet) -> list[Synset]:
    """The labelled synsets and every hypernym up to `LEVELS` above them, without repeats."""
    level = [wordnet.synset(name) for name in synset_ids]
    accepted: list[Synset] = []
    for _ in range(LEVELS + 1):
        accepted += [synset for synset in level if synset not in accepted]
        level = [up for s in level for up in (*s.hypernyms(), *s.instance_hypernyms())]
    return accepted


def accepted_names(synset_ids: Iterable[str], wordnet: WordNet) -> set[str]:
    """Every name that counts, lower case, words separated by single spaces."""
    lemmas = (n for s in accepted_synsets(synset_ids, wordnet) for n in s.lemma_names())
    return {" ".join(_words(lemma)) for lemma in lemmas} - {""}


def names_object(answer: str, synset_ids: list[str], wordnet: WordNet) -> bool:
    """True iff `answer` contains a lemma of a labelled synset or of a hypernym within two levels.

    `synset_ids` are WordNet names (`["cat.n.01"]`); any one of them is enough. An empty answer or
    an empty list is False. A name that WordNet does not have raises the reader's own error.
    """
    return mentions(answer, accepted_names(synset_ids, wordnet), wordnet)


def mentions(answer: str, names: Iterable[str], wordnet: WordNet) -> bool:
    """True iff `answer` has one of `names` as whole words, plural and case folded.

    `names` are lower case, words separated by single spaces.
    """
    words = _words(answer)
    if not words:
        return False
    # A word stands for itself and for its singular, so that a lemma that is itself a plural
    # ("sweets", "headphones") matches too. A lemma is folded only at its last word: that is
    # where English puts the plural of a compound.
    forms = [_forms(word, wordnet) for word in words]
    for name in names:
        lemma = name.split(" ")
        last = _forms(lemma[-1], wordnet)
        for start in range(len(words) - len(lemma) + 1):
            end = start + len(lemma) - 1
            if words[start:end] == lemma[:-1] and forms[end] & last:
                return True
    return False


def related(one: Iterable[str], other: Iterable[str], wordnet: WordNet) -> bool:
    """Whether naming one thing could count as naming the other: a shared name at most two levels
    up from either. Such a pair is no question of yes or no, and no scene of two things.
    """
    mine, theirs = list(one), list(other)
    names_of = {
        which: {" ".join(_words(n)) for s in ids for n in wordnet.synset(s).lemma_names()}
        for which, ids in (("mine", mine), ("theirs", theirs))
    }
    return bool(
        names_of["mine"] & accepted_names(theirs, wordnet)
        or names_of["theirs"] & accepted_names(mine, wordnet)
    )


def _words(text: str) -> list[str]:
    """The words of a text in lower case; hyphens and underscores separate, `'s` is dropped."""
    found = _WORD.findall(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower())
    return [word.removesuffix("'s") for word in found]


def _forms(word: str, wordnet: WordNet) -> set[str]:
    """A word and its base form as a noun."""
    base = wordnet.morphy(word, "n")
    return {word, base} if base else {word}
