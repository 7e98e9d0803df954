"""Noun phrases of a text, with the characters they stand on.

Knows tokens, tags and chunks (NLTK with our weights), and a small English lemmatiser. Does not know
pictures: what a phrase means there is for the grounding expert.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybind.contracts import Build, Noun
from anybind.errors import ModelError
from anybind.optional import require

FORMAT = "anybind-tagger-1"
FILE = "tagger.json.gz"

_AFTER_DETERMINER = r"(<RB.*>?<JJ.*|VBN|VBG|CD>(<,|CC>?<RB.*>?<JJ.*|VBN|VBG|CD>)*)?"
_ALONE = r"(<JJ.*|CD>(<,|CC>?<JJ.*|CD>)*)?"
_OWNED = rf"(<POS>{_AFTER_DETERMINER}<NN.*>+)*"
GRAMMAR = rf"""
  NP: {{<PDT>?<DT|PRP\$|WP\$>{_AFTER_DETERMINER}<NN.*>+{_OWNED}}}
      {{{_ALONE}<NN.*>+{_OWNED}}}
"""
"""Determiner or possessive, numbers, adjectives, nouns; and what belongs to them ("'s hat").
Participles count as adjectives only after a determiner: "the running dog", not "holding bags".
No loop holds a loop that can match the same tags: the time must not explode on odd texts."""

_MAX_FILE = 32 << 20
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "st", "prof", "vs", "etc", "e.g", "i.e", "no"})
_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]]*(?=\s)|\n+")

_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot",
    "teeth": "tooth", "geese": "goose", "mice": "mouse", "oxen": "ox", "lice": "louse",
    "wolves": "wolf", "knives": "knife", "wives": "wife", "lives": "life", "leaves": "leaf",
    "shelves": "shelf", "halves": "half", "loaves": "loaf", "calves": "calf", "elves": "elf",
    "selves": "self", "thieves": "thief", "scarves": "scarf", "hooves": "hoof",
    "cacti": "cactus", "fungi": "fungus", "octopi": "octopus", "criteria": "criterion",
    "phenomena": "phenomenon", "dice": "die", "movies": "movie", "cookies": "cookie",
    "pies": "pie", "ties": "tie", "shoes": "shoe", "toes": "toe", "canoes": "canoe",
    "horseshoes": "horseshoe", "axes": "axe", "buses": "bus", "gases": "gas", "quizzes": "quiz",
    "zombies": "zombie", "brownies": "brownie", "selfies": "selfie", "houses": "house",
    "horses": "horse", "vases": "vase", "noses": "nose", "roses": "rose", "purses": "purse",
    "hoses": "hose", "nurses": "nurse", "cases": "case", "bases": "base", "sizes": "size",
    "prizes": "prize", "mazes": "maze", "caches": "cache", "avalanches": "avalanche",
    "headaches": "headache", "bicycles": "bicycle", "matrices": "matrix",
}  # fmt: skip
_UNCHANGED = frozenset({
    "glasses", "sunglasses", "scissors", "trousers", "pants", "jeans", "shorts", "headphones",
    "binoculars", "goggles", "clothes", "tongs", "pliers", "series", "species", "news", "bus",
    "gas", "lens", "stairs", "fish", "sheep", "deer", "chess", "tennis", "christmas", "pyjamas",
    "pajamas", "tights", "leggings", "surroundings", "outskirts", "means", "asparagus",
})  # fmt: skip


def singular(word: str) -> str:
    """The singular of an English noun in lower case: "boxes" to "box", "children" to "child".

    A word that is singular already stays as it is.
    """
    word = word.lower()
    if word in _UNCHANGED or len(word) < 3:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for plural, single in (("women", "woman"), ("men", "man"), ("children", "child"),
                           ("people", "person"), ("teeth", "tooth"), ("feet", "foot")):  # fmt: skip
        if word.endswith(plural) and len(word) > len(plural) + 2:
            return word[: -len(plural)] + single
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes", "zzes", "oes")):
        return word[:-2]
    return word[:-1]


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Character spans of sentences: split after . ! ? before a space, and at line ends."""
    start = 0
    for match in _SENTENCE_END.finditer(text):
        last = text[start : match.start()].rsplit(None, 1)[-1:]
        if match.group() == "." and last and last[0].lower().lstrip("(\"'") in _ABBREVIATIONS:
            continue
        if text[start : match.end()].strip():
            yield start, match.end()
        start = match.end()
    if text[start:].strip():
        yield start, len(text)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or mark with its Penn Treebank tag and place in the text."""

    text: str
    tag: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A noun phrase."""

    text: str
    """As written: "two small dogs"."""
    span: tuple[int, int]
    """Character offsets in the text, end excluded."""
    head: str
    """Without determiner, number and owner's pronoun; lower case, singular: "small dog"."""
    noun: str
    """The head noun as written: "dogs"."""
    lemma: str
    """The head noun in lower case, singular: "dog"."""


def load_tagger(path: Path) -> Any:
    """NLTK's `PerceptronTagger` with our weights from a gzipped JSON file (never a pickle).

    `path` is the file, or the folder that holds it as `tagger.json.gz`.

    Raises:
        ModelError: the file is not one that `anybind.experts.training.tagger` wrote.
        MissingExtra: NLTK is not installed.
    """
    if path.is_dir():
        path = path / FILE
    tagger: Any = require("nltk.tag.perceptron", "model").PerceptronTagger(load=False)
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise ModelError(f"{path.name} holds more than {_MAX_FILE} bytes")
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ModelError(f"{path.name}: format is {content['format']!r}, expected {FORMAT!r}")
        classes: list[str] = [str(name) for name in content["classes"]]
        scale = float(content["scale"])
        tagger.tagdict = {str(w): classes[int(i)] for w, i in content["tagdict"].items()}
        tagger.model.weights = {
            str(feature): {classes[int(i)]: float(w) / scale for i, w in row.items()}
            for feature, row in content["weights"].items()
        }
    except (
        OSError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ModelError(f"{path.name} does not hold tagger weights: {error}") from error
    tagger.classes = set(classes)
    tagger.model.classes = tagger.classes
    return tagger


class NounPhrases:
    """Finds noun phrases (contract: `anybind.contracts.NounExpert`).

    With `unique`, a phrase whose head was named before is left out.
    """

    name = "nouns"

    def __init__(self, tagger: Any, *, unique: bool = False) -> None:
        self._tagger = tagger
        self._unique = unique
        self._parser: Any = require("nltk.chunk.regexp", "model").RegexpParser(GRAMMAR)
        self._words: Any = require("nltk.tokenize.destructive", "model").NLTKWordTokenizer()

    @classmethod
    def from_file(cls, path: Path, *, unique: bool = False) -> NounPhrases:
        """From a file of tagger weights.

        Raises:
            ModelError: the file is not one.
            MissingExtra: NLTK is not installed.
        """
        return cls(load_tagger(path), unique=unique)

    def tokens(self, text: str) -> Iterator[list[Token]]:
        """Tagged tokens of each sentence. Tokens keep the characters of the text."""
        for start, end in sentences(text):
            # the tokeniser rewrites quotes and then loses its place: give it plain ones, as long
            sentence = text[start:end].replace("``", '" ').replace("''", '" ').replace("`", "'")
            spans = list(self._words.span_tokenize(sentence))
            words = [sentence[a:b] for a, b in spans]
            yield [
                Token(text[start + a : start + b], _sure(word, tag), start + a, start + b)
                for (a, b), (word, tag) in zip(spans, self._tagger.tag(words), strict=True)
            ]

    def chunks(self, text: str, *, unique: bool | None = None) -> list[Chunk]:
        """Noun phrases in order of appearance."""
        out: list[Chunk] = []
        seen: set[str] = set()
        for tokens in self.tokens(text):
            if not tokens:
                continue
            tree = self._parser.parse([(index, token.tag) for index, token in enumerate(tokens)])
            for phrase in tree.subtrees(_is_noun_phrase):
                inside = [index for index, _ in phrase.leaves()]
                chunk = _chunk(text, [tokens[index] for index in inside])
                if chunk is None or _is_preposition(tokens, inside):
                    continue
                if self._unique if unique is None else unique:
                    if chunk.head in seen:
                        continue
                    seen.add(chunk.head)
                out.append(chunk)
        return out

    def nouns(self, text: str) -> list[Noun]:
        """Noun phrases in order of appearance, as the contract wants them."""
        return [Noun(chunk.text, chunk.span, chunk.head) for chunk in self.chunks(text)]

    def close(self) -> None:
        """Nothing to give back."""


_PRONOUNS = frozenset({
    "one", "someone", "somebody", "something", "anyone", "anybody", "anything", "everyone",
    "everybody", "everything", "noone", "nobody", "nothing", "none",
})  # fmt: skip
"""Tagged as nouns in the Penn Treebank, but they name no thing that could be looked for."""
_PLACED = frozenset({"front", "top", "back", "spite", "lieu", "terms", "case"})
"""Nouns of "in front of" and its like; only without a determiner."""
_DROPPED = ("DT", "PDT", "PRP$", "WP$", "CD")


def _is_noun_phrase(node: Any) -> bool:
    return node.label() == "NP"


def _sure(word: str, tag: str) -> str:
    """The tag, but marks are never words: the training text hardly knows quotes and brackets."""
    if any(letter.isalnum() for letter in word) or word in ("%", "$", "&") or tag == "POS":
        return tag
    return "," if word == "," else ":"


def _is_preposition(tokens: list[Token], inside: list[int]) -> bool:
    """Whether the chunk is the noun in "in front of" or "on top of"."""
    at = inside[0]
    return (
        len(inside) == 1
        and tokens[at].text.lower() in _PLACED
        and 0 < at < len(tokens) - 1
        and tokens[at - 1].tag == "IN"
        and tokens[at + 1].text.lower() == "of"
    )


def _chunk(text: str, tokens: list[Token]) -> Chunk | None:
    last = tokens[-1]
    if not any(letter.isalpha() for letter in last.text) or last.text.lower() in _PRONOUNS:
        return None
    kept = list(tokens)
    while len(kept) > 1 and kept[0].tag in _DROPPED:
        kept.pop(0)
    lemma = singular(last.text) if last.tag in ("NNS", "NNPS") else last.text.lower()
    before = text[kept[0].start : last.start].lower()
    span = (tokens[0].start, last.end)
    return Chunk(
        text=text[span[0] : span[1]],
        span=span,
        head=" ".join((before + lemma).split()),
        noun=last.text,
        lemma=lemma,
    )


def build(build: Build) -> NounPhrases:
    """Factory for the plugin: weight role `tagger`; option `unique`."""
    return NounPhrases.from_file(
        build.weights["tagger"], unique=bool(build.options.get("unique", False))
    )
