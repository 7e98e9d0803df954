"""What may stand in the arguments of a call: artifacts by name, words of the request.

The candidates of each argument become alternatives of the grammar; where several stay, the
decoder's likelihood decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from anybind.agent.artifacts import ArtifactStore
from anybind.agent.grounding import NOT_THINGS
from anybind.contracts import NounExpert, Parameter, Tool

_NAMED = re.compile(r"[a-z]+/[0-9a-f]{8}\.[a-z0-9]{1,5}")
_RESULT = re.compile(
    r"\b(result|output|that (?:image|picture|one)|new (?:image|picture)|edited|generated|"
    r"the (?:edge|edges|sketch|drawing|line|segmented)\b.*\b(?:image|picture|map))\b",
    re.IGNORECASE,
)
_TEXT_OF = re.compile(r"\b(?:of|showing|with|depicting|about|saying)\s+(.+)$", re.IGNORECASE)
_MAKE = "generate|draw|create|make|paint|produce|show|render|imagine|design|give|sketch"
_VERB = re.compile(
    r"^(?:please |can you |could you |i want (?:you )?to |i'd like (?:you )?to |help me |i want )*"
    rf"(?:(?:{_MAKE})\s+(?:and\s+(?:{_MAKE})\s+)?)?(?:me\s+)?",
    re.IGNORECASE,
)
_PICTURE = re.compile(
    r"\b(image|picture|photo|drawing|painting|sketch|icon|illustration|artwork)\b:?", re.IGNORECASE
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# Nouns (or what a tagger takes for nouns) that say what to do, not to what.
_COMMANDS = frozenset(
    """mask outline box crop mark highlight shape position place segment segmentation clean cut
    bounding region area detection boundary edge contour quality frame rectangle location spot
    point find locate show make remove erase delete replace swap trim copy version draw detect
    please thank thanks disappear colour color exact whole""".split()
)
_WITH = re.compile(r"\b(?:with|by|into|to|for)\s+(.+)$", re.IGNORECASE)


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
    """
    things = _things(piece, nouns) or _things(request, nouns)
    texts = [p for p in tool.parameters if p.kind == "text"]
    out: list[list[str] | str] = []
    for parameter in tool.parameters:
        if parameter.kind != "text":
            out.append(
                _artifacts(parameter.kind, piece, request, artifacts, attached, produced, drawn)
            )
        elif len(texts) > 1:
            out.append(_one_of_two(texts.index(parameter), piece, things))
        else:
            out.append(_text(parameter, piece, things))
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
    """Noun phrases without determiner that name a thing to act on, in order.

    "a crop of the cup" is about the cup: words that name the work are left out, also at the front
    of a phrase where a tagger took an imperative for a noun.
    """
    if nouns is None:
        return []
    out: list[str] = []
    for noun in nouns.nouns(_NAMED.sub("it", text)):
        words = noun.head.split()
        while words and words[0] in _COMMANDS:
            words = words[1:]
        while words and words[-1] in _COMMANDS:
            words = words[:-1]
        if words and words[-1] not in NOT_THINGS:
            out.append(" ".join(words).replace(",", ""))
    return list(dict.fromkeys(out))


def _text(parameter: Parameter, piece: str, things: Sequence[str]) -> list[str] | str:
    if parameter.name in ("question", "query"):
        return [_NAMED.sub("", piece).strip() or piece]
    if parameter.name in ("text", "prompt", "description", "instruction"):
        return [wish(piece)]
    numbers = _NUMBER.findall(_NAMED.sub("", piece))
    if parameter.name == "box" and len(numbers) >= 4:
        return [f"[{', '.join(numbers[:4])}]"]
    # A thing: prefer the nouns of the piece; without any, any run of its words.
    return list(things) or piece.replace(",", "")


def _one_of_two(index: int, piece: str, things: Sequence[str]) -> list[str] | str:
    """Two text arguments, as in "replace A with B": A from before the link word, B from behind."""
    swapped = re.search(r"\b(?:instead of|in place of)\b", piece, re.IGNORECASE)
    link = swapped or _WITH.search(piece)
    if link is None:
        return list(things[index : index + 1]) or list(things) or piece.replace(",", "")
    behind = piece[link.end() :] if swapped else link.group(1)
    sides = [piece[: link.start()].lower(), behind.lower()]
    # "a dog in place of the cat" names the new thing first.
    inside = sides[index] if not swapped else sides[1 - index]
    own = [t for t in things if re.search(rf"\b{re.escape(t.split()[-1][:4])}", inside)]
    return own[:1] or re.sub(r"^\W*(?:an?|the)\s+", "", inside).replace(",", "").strip() or piece


def wish(piece: str) -> str:
    """What a request to make something asks for: "draw a picture of a red cat" -> "a red cat"."""
    text = _VERB.sub("", piece.strip()).strip(" .!?")
    text = re.sub(r"\s+(?:for me|please)$", "", text, flags=re.IGNORECASE)
    named = _PICTURE.search(text)
    if named and len(text[: named.start()].split()) <= 3:
        rest = text[named.end() :].strip()
        match = _TEXT_OF.match(rest)
        text = match.group(1).strip() if match else rest or text
    return text or piece.strip()
