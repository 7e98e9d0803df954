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
_VERB = re.compile(
    r"^(?:please |can you |could you |i want (?:you )?to |i'd like (?:you )?to |help me )*"
    r"(?:generate|draw|create|make|paint|produce|show|render|imagine|design|give)\s+(?:me\s+)?",
    re.IGNORECASE,
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
    """
    things = _things(piece, nouns) or _things(request, nouns)
    texts = [p for p in tool.parameters if p.kind == "text"]
    out: list[list[str] | str] = []
    for parameter in tool.parameters:
        if parameter.kind != "text":
            out.append(_artifacts(parameter.kind, piece, request, artifacts, attached, produced))
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
) -> list[str]:
    there = artifacts.names(kind)
    for text in (piece, request):
        named = [n for n in _NAMED.findall(text) if n in there]
        if named:
            return named[:1]
    made = [n for n in produced if n in there]
    if made and _RESULT.search(piece):
        return made[-1:]
    came = [n for n in attached if n in there]
    return came[-1:] or there[-1:]


def _things(text: str, nouns: NounExpert | None) -> list[str]:
    """Noun phrases without determiner that name a thing, in order."""
    if nouns is None:
        return []
    found = [n.head for n in nouns.nouns(_NAMED.sub("it", text))]
    return list(dict.fromkeys(h for h in found if h.strip() and h.split()[-1] not in NOT_THINGS))


def _text(parameter: Parameter, piece: str, things: Sequence[str]) -> list[str] | str:
    if parameter.name in ("question", "query"):
        return [_NAMED.sub("", piece).strip() or piece]
    if parameter.name in ("text", "prompt", "description", "instruction"):
        return [_wish(piece)]
    # A thing: prefer the nouns of the piece; without any, any run of its words.
    return [t.replace(",", "") for t in things] or piece.replace(",", "")


def _one_of_two(index: int, piece: str, things: Sequence[str]) -> list[str] | str:
    """Two text arguments, as in "replace A with B": A from before the link word, B from behind."""
    link = _WITH.search(piece)
    if link is None:
        return list(things[index : index + 1]) or list(things) or piece.replace(",", "")
    head, tail = piece[: link.start()].lower(), link.group(1).lower()
    inside = head if index == 0 else tail
    own = [t for t in things if t.split()[-1][:4] in inside]
    return own[:1] or (piece if index == 0 else re.sub(r"^(?:an?|the)\s+", "", tail)).replace(",", "")


def _wish(piece: str) -> str:
    """What a request to make something asks for: "draw a picture of a red cat" -> "a red cat"."""
    text = _VERB.sub("", piece.strip()).strip(" .!")
    match = _TEXT_OF.search(text)
    lead = text[: match.start()] if match else ""
    if match and re.search(r"\b(image|picture|photo|drawing|painting|sketch|icon)\b", lead, re.I):
        return match.group(1).strip()
    return text or piece.strip()


wish = _wish
