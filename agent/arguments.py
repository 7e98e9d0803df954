"""What may stand in the arguments of a call: artifacts by name, words of the request.

Which words they are, a trained reader of requests says where the bundle has one. Else, and where it
finds none, these rules look for them; they stay simple (of 900 requests in people's own words they are
right about the thing in six of ten).

The candidates of each argument become alternatives of the grammar; where several stay, the
decoder's likelihood decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from anybind.agent.artifacts import ArtifactStore
from anybind.agent.grounding import NOT_THINGS
from anybind.agent.wording import change, guided_wish, plain, wish
from anybind.contracts import NounExpert, Parameter, Tool

_NAMED = re.compile(r"[a-z]+/[0-9a-f]{8}\.[a-z0-9]{1,5}")
_RESULT = re.compile(
    r"\b(result|output|that (?:image|picture|one)|new (?:image|picture)|edited|generated|"
    r"the (?:edge|edges|sketch|drawing|line|segmented)\b.*\b(?:image|picture|map))\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# Nouns (or what a tagger takes for nouns) that say what to do, not to what.
_COMMANDS = frozenset(
    """mask outline box crop mark highlight shape position place segment segmentation clean cut
    bounding region area detection boundary edge contour quality frame rectangle location spot
    point find locate show make remove erase delete replace swap trim copy version draw detect
    please thank thanks disappear colour color exact whole silhouette stencil form pixel pixels extent
    search circle ring tag spot whereabouts whereabout strip purge clear drop kill discard ditch lose
    rid act pretend favour favor hey hi hello scan hunt look highlight paint shade tint trace follow
    select pick overlay emphasise emphasize morph turn change convert transform substitute exchange
    trade barter sub swop zap lay idea clue chance bit mess guess thing stuff put insert help coordinates
    coordinate precise lasso matte layer cover square made cut-out""".split()
)
_OF_ITS_OWN = re.compile(r"(?:the|my|our|your|his|her|their|this|that)\s", re.IGNORECASE)
# Behind an order comes what it is to be done to.
_OBJECT_NEXT = re.compile(
    r"\s+(?:an?|the|my|our|your|his|her|that|this|these|those|all|every)\s+\w"
)
# A noun before these is who wishes, says or needs something.
_WISHES = re.compile(
    r"\s+(?:(?:really|just|also|always)\s+)?(?:wants?|needs?|says?|said|asks?|asked|thinks?|claims?|insists?"
    r"|hates?|likes?|loves?|prefers?|would like|would love|wishes|tells?|told|hopes?|swears?|keeps?|sees?"
    r"|bets?|gets?|knows?|lost|dropped|forgot|misplaced|(?:must|has to|have to|should|needs to|wants to) (?:see|know|find|find out))\b",
    re.IGNORECASE,
)
_PURPOSE = re.compile(
    r"(?:^|[.,;:]\s*|\b)for\s+(?:an?\s+|the\s+|my\s+|our\s+|his\s+|her\s+)?$", re.IGNORECASE
)
_PLACE = re.compile(
    r"\b(?:in|inside|among|amongst|within|at|near|behind|beside|by|under|from|next to|in front of|out of"
    r"|somewhere in|so)\s+(?:all\s+)?(?:(?:an?|the|my|our|his|her|this|that|these|those)\s+)?$",
    re.IGNORECASE,
)
# Words for the picture itself, beside those of `NOT_THINGS`.
_THE_PICTURE = frozenset(
    "upload screenshot snapshot shot selfie scene file pic attachment photograph rest".split()
)
_WITH = re.compile(
    r"\b(?:with|by|into|to|for|against|become|becomes|be|were|in with|and (?:put|place|insert|add))\s+"
    r"(.+)$",
    re.IGNORECASE,
)
# "Substitute A for B" puts A where B was.
_IN_FOR = re.compile(
    r"(?:substitute|sub|put|slot|bring|swap) in\b|substitute\b(?!.*\b(?:with|by)\b)", re.IGNORECASE
)
# What is named before these is the new thing, what comes after them the old one.
_SWAPPED = re.compile(
    r"\b(?:(?:stand|step|fill)s? in for|instead of|in (?:the )?(?:place|stead|lieu|spot) of|rather than|than|to replace"
    r"|as a replacement for|where(?=.*\b(?:is|are|was|were|stands|sits)\b))\b",
    re.IGNORECASE,
)


_CLAUSES = re.compile(r"[,;:.?!]\s+")


def candidates(
    tool: Tool,
    piece: str,
    request: str,
    artifacts: ArtifactStore,
    nouns: NounExpert | None,
    *,
    attached: Sequence[str],
    produced: Sequence[str],
    drawn: Sequence[str] = (),
    told: Mapping[str, str] = MappingProxyType({}),
) -> list[list[str] | str]:
    """For each parameter the strings that may stand there, best first; a str means its words.

    Args:
        tool: The tool to be called.
        piece: The piece of the request that asks for it.
        request: The whole request.
        artifacts: What the session keeps.
        nouns: The noun parser, if there is one.
        attached: Names that came with the request, or with the latest that had any.
        produced: Names that tools of this turn made.
        drawn: Those among them that were made from words alone: what follows is about them.
        told: What a reader of requests found, by the name of the parameter; where it found nothing,
            rules look for it.
    """
    things = _things(plain(piece), nouns) or _things(request, nouns)
    texts = [p for p in tool.parameters if p.kind == "text"]
    out: list[list[str] | str] = []
    for parameter in tool.parameters:
        if parameter.kind != "text":
            out.append(
                _artifacts(parameter.kind, piece, request, artifacts, attached, produced, drawn)
            )
        elif parameter.name in told:
            out.append([told[parameter.name]])
        elif len(texts) > 1:
            out.append(_one_of_two(texts.index(parameter), piece, things))
        else:
            guided = any(p.kind != "text" for p in tool.parameters)
            out.append(_text(parameter, piece, things, guided))
    return out


def possible(tool: Tool, artifacts: ArtifactStore) -> bool:
    """Whether there is an artifact for every content argument of a tool."""
    kinds = {p.kind for p in tool.parameters if p.kind != "text"}
    return all(artifacts.names(kind) for kind in kinds)


def _artifacts(
    kind: str,
    piece: str,
    request: str,
    artifacts: ArtifactStore,
    attached: Sequence[str],
    produced: Sequence[str],
    drawn: Sequence[str],
) -> list[str]:
    there = artifacts.names(kind)
    for text in (piece, request):
        named = [n for n in _NAMED.findall(text) if n in there]
        if named:
            return named[:1]
    if new := [n for n in drawn if n in there]:
        return new[-1:]
    made = [n for n in produced if n in there]
    if made and _RESULT.search(piece):
        return made[-1:]
    came = [n for n in attached if n in there]
    return came[-1:] or there[-1:]


def _things(text: str, nouns: NounExpert | None) -> list[str]:
    """Noun phrases without determiner that name a thing to act on, the likeliest first, else in order.

    "a crop of the cup" is about the cup: words that name the work are left out, also at the front
    of a phrase where a tagger took an imperative for a noun. Who wishes it, what it is for and where
    the thing is come last: "My boss wants the sign on the wall gone" is about the sign.
    """
    if nouns is None:
        return []
    bare = _NAMED.sub("it", text)
    main: list[str] = []
    aside: list[str] = []
    spare: list[str] = []
    for noun in nouns.nouns(bare):
        start, end = noun.span
        words = noun.head.split()
        while words and words[0] in _COMMANDS:
            words = words[1:]
        while words and words[-1] in _COMMANDS:
            words = words[:-1]
        if not words and _OF_ITS_OWN.match(noun.text):
            spare.append(noun.head.split()[-1])
        if not words or words[-1] in NOT_THINGS or words[-1] in _THE_PICTURE:
            continue
        if not bare[:start].strip(" ,.!?") and len(words) == 1 and _OBJECT_NEXT.match(bare[end:]):
            continue  # "Zap the spot": an order, whatever the tagger says
        behind = _WISHES.match(bare[end:]) or _PURPOSE.search(bare[:start])
        (aside if behind or _PLACE.search(bare[:start]) else main).append(
            " ".join(words).replace(",", "")
        )
    # "Find the frame": what mostly is work is the thing where nothing else is.
    found = main + aside or [s for s in spare if s not in NOT_THINGS and s not in _THE_PICTURE]
    return list(dict.fromkeys(found))


def _text(parameter: Parameter, piece: str, things: Sequence[str], guided: bool) -> list[str] | str:
    if parameter.name in ("question", "query"):
        return [_NAMED.sub("", piece).strip() or piece]
    if parameter.name == "instruction":
        return [change(piece)]
    if parameter.name in ("text", "prompt", "description"):
        return [guided_wish(piece) if guided else wish(piece)]
    numbers = _NUMBER.findall(_NAMED.sub("", piece))
    if parameter.name == "box" and len(numbers) >= 4:
        return [f"[{', '.join(numbers[:4])}]"]
    # A thing: prefer the nouns of the piece; without any, any run of its words.
    return list(things) or piece.replace(",", "")


def _one_of_two(index: int, piece: str, things: Sequence[str]) -> list[str] | str:
    """Two text arguments, as in "replace A with B": A from before the link word, B from behind."""
    text = plain(piece)
    swapped = _SWAPPED.search(text)
    link = swapped or _WITH.search(text)
    if _IN_FOR.match(text) and (given := re.search(r"\bfor\b", text)):
        swapped = link = given
    if link is None:
        return list(things[index : index + 1]) or list(things) or piece.replace(",", "")
    behind = text[link.end() :] if swapped else link.group(1)
    sides = [text[: link.start()].lower(), behind.lower()]
    if swapped and not any(_in(t, sides[0]) for t in things):
        # "Instead of the cat show a dog": both come after the link word, the old one first.
        own = [t for t in things if _in(t, sides[1])]
        return own[index : index + 1] or list(things) or piece.replace(",", "")
    # "a dog in place of the cat" names the new thing first.
    inside = sides[index] if not swapped else sides[1 - index]
    # "Our mascot is a bear, so the lion has to become one": what is near the link word counts.
    near = [c for c in _CLAUSES.split(inside) if any(_in(t, c) for t in things)]
    first = index == (1 if swapped else 0)
    return _side(near[-1] if near and first else inside, things) or piece


def _side(text: str, things: Sequence[str]) -> list[str] | str:
    """The first of the things that a part of the request names, or else its words."""
    own = [t for t in things if _in(t, text)]
    bare = re.sub(r"^\W*(?:an?|the|that|this|my|our|his|her)\s+", "", text)
    return own[:1] or bare.replace(",", "").strip()


def _in(thing: str, text: str) -> bool:
    """Whether a text has the last word of a thing, or one that begins like it (its plural)."""
    return bool(re.search(rf"\b{re.escape(thing.split()[-1][:4])}", text))
