"""Questions whether something is in the picture: who answers is the one that looks for things.

A joint embedding tells what a picture is mostly of, and a decoder agrees all too readily with what it
is asked for. The grounding expert searches the picture for one thing, so where a bundle has one, it
decides between yes and no, and the decoder says the rest.
"""

from __future__ import annotations

import re

from anybind.agent.grounding import things
from anybind.content import Image
from anybind.contracts import GroundingExpert, NounExpert

_PICTURE = r"(?:the|this|that|my)\s+(?:picture|image|photo|photograph|drawing|scene)"
_FORMS = re.compile(
    rf"^\W*(?:(?:hi|hello|hey|please|so|and|now|ok|okay)\b[\s,.!]*)*"
    rf"(?:(?:can|could) you tell me (?:whether|if)\s+|tell me (?:whether|if)\s+|do you know (?:whether|if)\s+)?"
    rf"(?:(?:is|are)\s+there\b|there\s+(?:is|are)\b|(?:do|can|could)\s+you\s+(?:also\s+)?(?:see|spot|find)\b"
    rf"|does\s+{_PICTURE}\s+(?:show|contain|have|include)\b"
    rf"|(?:is|are)\s+(?:an?|any|some|the)?\s*[\w' -]+\s+(?:visible|in\s+{_PICTURE}|to\s+be\s+seen)\b)",
    re.IGNORECASE,
)
_LOOKS = re.compile(
    rf"\b(?:in|of|on)\s+{_PICTURE}\s*[.?!]*$|\b(?:describe|caption)\s+{_PICTURE}\s*[.?!]*$"
    rf"|^\W*what\s+(?:does|do|can|could)\s+(?:you\s+see|{_PICTURE}\s+show)\s*[.?!]*$"
    rf"|^\W*(?:do|can|could)\s+you\s+(?:also\s+)?(?:see|spot)\s+(?:an?|any|the)\b[\w' -]*[?.!]*$"
    rf"|^\W*does\s+{_PICTURE}\s+(?:show|contain|have|include)\b",
    re.IGNORECASE,
)
_NOT_THESE = re.compile(r"\b(?:what|which|who|where|how|why|or)\b", re.IGNORECASE)


def wants_a_look(question: str) -> bool:
    """Whether a question can only be answered by looking at a picture: it says so itself."""
    return bool(_LOOKS.search(question.strip()))


def asked_for(question: str, parser: NounExpert) -> list[str]:
    """The heads of what a yes-or-no question asks for; empty for any other question."""
    parts = re.split(r"(?<=[.?!])\s|\byes or no\b", question.strip())
    first = next((part for part in parts if len(part.split()) > 2), "")  # behind a greeting
    if not _FORMS.match(first) or _NOT_THESE.search(first):
        return []
    return list(dict.fromkeys(n.head for n in things(parser.nouns(first))))


def present(
    question: str, picture: Image, parser: NounExpert, grounder: GroundingExpert
) -> bool | None:
    """Whether all that a question asks for is in the picture; None if it asks for something else."""
    wanted = asked_for(question, parser)
    if not wanted:
        return None
    boxes = grounder.ground(picture, wanted)
    best = {w: max((b.score for b in boxes if b.label == w), default=0.0) for w in wanted}
    return all(score >= grounder.threshold for score in best.values())
