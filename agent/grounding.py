"""Ties an answer to the picture: noun phrases of the text, boxes, and what is not supported.

Nouns of the answer go to the grounding expert; a noun that it can't find is marked, which is how
an invented object shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from anybind.agent.reply import NounFound
from anybind.content import Box, Image
from anybind.contracts import GroundingExpert, Noun, NounExpert

# Words that speak of the picture itself or of nothing that has a place in it.
NOT_THINGS = frozenset(
    """picture photo photograph image photography drawing scene view sight screen video sound audio noise
    recording background foreground front middle side left right top bottom centre center kind type
    sort example part piece lot number name question answer way time day i you it he she we they
    this that these those what which something anything nothing someone everything one file result
    description caption object thing colour color""".split()
)


@dataclass(frozen=True, slots=True)
class Grounding:
    """The outcome for one answer and one picture."""

    nouns: tuple[NounFound, ...]
    boxes: tuple[Box, ...]
    per_noun: tuple[tuple[Box, ...], ...]
    """The boxes of each noun, in the order of `nouns`."""

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Noun phrases that were not found."""
        return tuple(n.text for n in self.nouns if not n.supported)


def things(nouns: list[Noun]) -> list[Noun]:
    """The nouns that something in a picture could be."""
    return [n for n in nouns if n.head.split()[-1:] and n.head.split()[-1] not in NOT_THINGS]


def ground(answer: str, image: Image, parser: NounExpert, grounder: GroundingExpert) -> Grounding:
    """Look for every noun of an answer in a picture.

    The same head noun said twice is looked for once; every mention keeps its span.
    """
    found = things(parser.nouns(answer))
    heads = list(dict.fromkeys(n.head for n in found))
    boxes = grounder.ground(image, heads) if heads else []
    by_head: dict[str, list[Box]] = {h: [b for b in boxes if b.label == h] for h in heads}
    nouns: list[NounFound] = []
    per_noun: list[tuple[Box, ...]] = []
    for noun in found:
        own = by_head[noun.head]
        score = max((b.score for b in own), default=0.0)
        supported = score >= grounder.threshold
        nouns.append(NounFound(noun.text, noun.span, score, supported))
        per_noun.append(tuple(b for b in own if b.score >= grounder.threshold))
    unique = tuple(b for h in heads for b in by_head[h] if b.score >= grounder.threshold)
    return Grounding(tuple(nouns), unique, tuple(per_noun))
