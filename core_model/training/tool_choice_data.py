"""Requests and tools for the training of the chooser, made by rule and seed.

Reads the lists of wordings beside it, fills them, wraps them in politeness and mistypes some; the
requests written by hand stay as they are.
Knows nothing of embeddings. The tools of `heldout_tools.json` are refused.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anybind.core_model.request_reader import ROLES
from anybind.core_model.training import tool_choice_words as fillers
from anybind.core_model.training.nano_data.english import articles, capital
from anybind.core_model.training.tool_choice_reader import Said
from anybind.core_model.training.toolchat import HERE, Protocol, ToolChat, held_out
from anybind.core_model.training.toolchat_making import Maker
from anybind.errors import UserError

OWN, STRANGERS, TALK = (
    HERE / f"tool_choice_{name}.txt" for name in ("requests", "strangers", "talk")
)
UNLIKE = tuple(sorted(HERE.glob("tool_choice_unlike*.txt")))
"""Requests written by hand, in several files."""
NO_TOOL = "(none)"
"""Begins the requests of `UNLIKE` that want no tool."""
_MARK = re.compile(r"\[([^][{}]+)\]|\{([^][{}]+)\}")
"""Words of the first role ("object", "text") or of "new" in brackets, those of "old" in braces."""
_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
# Beginnings of patterns that are no commands: nothing can be put before them.
_STATEMENT = re.compile(
    r"(?:i|i'd|i'm|we|the|that|this|my|it|a|an|there|nobody|no|left|what|what's|who|how|which|where|"
    r"when|why|is|are|does|do|did|has|can|could|will|would|in|at|on|so|let|only|somebody|these|"
    r"please|hi|more|higher|people|at)\b",
    re.IGNORECASE,
)
WRAPS = (
    "please {x}", "{x}, please", "{x} please", "can you {x}?", "could you {x}", "could you {x}?",
    "would you mind? {x}", "I want you to {x}", "I'd like you to {x}", "you should {x}", "hi, {x}",
    "hey {x}", "now {x}", "{x} for me", "{x} now", "is it possible to {x}?", "how about this: {x}",
    "help me {x}", "I wish you would {x}", "be so kind and {x}", "{x}, thanks", "try to {x}",
    "my boss wants me to {x}", "kindly {x}", "any chance you could {x}?", "then {x}", "also {x}",
    "I was hoping you could {x}", "would it be possible to {x}?", "{x} if you can", "let's {x}",
)  # fmt: skip
TAILS = (
    " for my blog", " before I send it", " for a poster", " quickly", " as well as you can", " today",
    " for my grandmother", " because I need it for school", " for the website", " in good quality",
)  # fmt: skip


@dataclass(slots=True)
class ToolWords:
    """A tool with several descriptions and ways to ask for it."""

    name: str
    own: bool
    """One of anybind's; else made up."""
    descriptions: list[str] = field(default_factory=list[str])
    asks: list[str] = field(default_factory=list[str])
    arguments: tuple[str, ...] = ()
    """Names of its arguments; of made-up tools nothing is known."""

    @property
    def about_pictures(self) -> bool:
        """Whether most requests for it speak of a picture or a thing in it."""
        said = sum("{img}" in a or "{obj}" in a for a in self.asks)
        return self.own or 2 * said >= len(self.asks)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, the tool that it asks for ("" for none), and the pattern it was made from."""

    text: str
    tool: str
    pattern: str
    by_hand: bool = False
    """Written as it stands, by no pattern."""
    said: Said | None = None
    """Where the words of the tool's roles are, if that is marked."""


def read_tools(protocol: Protocol) -> dict[str, ToolWords]:
    """Every tool with its words, anybind's own first.

    Raises:
        UserError: a list is wrong, or names a held-out tool.
    """
    tools: dict[str, ToolWords] = {}
    for path in (OWN, STRANGERS):
        current: ToolWords | None = None
        for number, line in enumerate(_lines(path), 1):
            if line.startswith("# "):
                current = ToolWords(line[2:].strip(), path == OWN)
                if current.name in tools or current.name in held_out():
                    raise UserError(f"{path.name}, {number}: {current.name} may not stand here.")
                tools[current.name] = current
            elif current is None:
                raise UserError(f"{path.name}, {number}: {line!r} belongs to no tool.")
            elif line.startswith("= "):
                current.descriptions.append(line[2:])
            else:
                current.asks.append(line)
    for info in protocol.tools:
        if info.name in tools:
            tools[info.name].descriptions.insert(0, info.description)
            tools[info.name].arguments = tuple(name for name, _ in info.arguments)
    return tools


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(";")]


def expand(pattern: str, r: random.Random) -> str:
    """A pattern with one wording of each choice, its slots filled."""
    text = pattern
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda m: r.choice(m[1].split("|")), text, count=1)
    text = _SLOT.sub(lambda m: fillers.filler(m[1], r), text)
    return articles(re.sub(r"\s+([?!.,;:])", r"\1", " ".join(text.split())))


def dress(text: str, pattern: str, r: random.Random) -> str:
    """A request as somebody might type it: polite or not, capital or not, now and then mistyped."""
    plain = text.rstrip(".!")
    command = not _STATEMENT.match(text) and not pattern.startswith(("{", "(I", "(the"))
    if command and not text.endswith("?") and r.random() < 0.5:
        plain = r.choice(WRAPS).format(x=plain)
    if command and r.random() < 0.1 and not plain.endswith(("?", "please", "thanks")):
        plain += r.choice(TAILS)
    if r.random() < 0.6:
        plain = capital(plain)
    if plain[-1] not in "?!" and r.random() < 0.4:
        plain += r.choice("..!")
    return mistyped(plain, r) if r.random() < 0.08 else plain


def mistyped(text: str, r: random.Random) -> str:
    """A text with one slip: two letters swapped, one lost or one doubled."""
    places = [i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalpha()]
    if not places:
        return text
    i = r.choice(places)
    slip = r.randrange(3)
    if slip == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + (text[i] * 2 if slip == 1 else "") + text[i + 1 :]


def requests(tools: Sequence[ToolWords], each: int, seed: int) -> list[Asked]:
    """Requests by the lists: `each` (twice as many where there are many wordings) a pattern."""
    out: list[Asked] = []
    for words in tools:
        for pattern in words.asks:
            out += _of(pattern, words.name, each, seed)
    return out


def talk(each: int, seed: int) -> list[Asked]:
    """Requests that want no tool."""
    return [a for pattern in _lines(TALK) for a in _of(pattern, "", each, seed)]


def by_hand(tools: Mapping[str, ToolWords]) -> list[Asked]:
    """Requests written one by one, in words unlike the patterns, each as it stands.

    Raises:
        UserError: a list names a tool that is in none of the others, or something is said twice.
    """
    out: dict[str, Asked] = {}
    for path in UNLIKE:
        tool: str | None = None
        has: tuple[str, ...] = ()
        for number, line in enumerate(_lines(path), 1):
            if line.startswith("# "):
                tool = line[2:].strip()
                if tool != NO_TOOL and tool not in tools:
                    raise UserError(f"{path.name}, {number}: there is no tool {tool!r}.")
                has = roles(tools[tool]) if tool != NO_TOOL else ()
                continue
            try:
                text, said = unmarked(line, has)
            except ValueError as error:
                raise UserError(f"{path.name}, {number}: {error}") from error
            if tool is None or text in out:
                raise UserError(f"{path.name}, {number}: {line!r} has no tool or is there twice.")
            out[text] = Asked(text, "" if tool == NO_TOOL else tool, text, by_hand=True, said=said)
    return list(out.values())


def roles(tool: ToolWords) -> tuple[str, ...]:
    """Which roles a request for a tool has words for, by the names of the tool's arguments."""
    return tuple(r for r in ROLES if r in tool.arguments)


def unmarked(line: str, roles: Sequence[str]) -> tuple[str, Said | None]:
    """A request without its marks, and where the words of each role are in it; (0, 0) for none.

    Raises:
        ValueError: it has marks that its tool has no role for, or one twice.
    """
    said: dict[str, tuple[int, int]] = {}
    text, at = "", 0
    for mark in _MARK.finditer(line):
        role = "old" if mark[2] else next((r for r in roles if r != "old"), "")
        words = mark[1] or mark[2]
        if role not in roles or role in said:
            raise ValueError(f"{line!r} marks {words!r}, which is no role of its tool, or twice.")
        text += line[at : mark.start()]
        said[role] = (len(text), len(text) + len(words))
        text += words
        at = mark.end()
    text += line[at:]
    return text, dict.fromkeys(roles, (0, 0)) | said if roles else None


def _of(pattern: str, tool: str, each: int, seed: int) -> list[Asked]:
    r = random.Random(f"tool choice {seed} {tool} {pattern}")
    many = each * (2 if pattern.count("|") > 8 else 1)
    made = (dress(expand(pattern, r), pattern, r) for _ in range(many))
    return [Asked(text, tool, pattern) for text in dict.fromkeys(made)]


def from_conversations(chat: ToolChat, count: int) -> list[Asked]:
    """Requests with one call, and pieces of requests with several, of made conversations."""
    out: list[Asked] = []
    for number in range(count):
        r = random.Random(f"tool choice chat {chat.seed} {number}")
        maker = Maker(chat, r, "")
        single = maker.single()
        out.append(Asked(single.request, single.steps[0].tool, "conversation"))
        tool = r.choice(list(chat.tools))
        piece = maker._ask(tool, r.choice(chat.phrases["it"]), bare=True)  # pyright: ignore[reportPrivateUsage]
        out.append(Asked(piece.text, tool, "conversation"))
    return out


def described(words: ToolWords, r: random.Random) -> tuple[str, str]:
    """A tool as some author might have written it: (name, description), words left out at random."""
    text = r.choice(words.descriptions)
    if len(words.descriptions) > 1 and r.random() < 0.35:
        text += " " + r.choice([d for d in words.descriptions if d != text])
    drop = r.choice([0.0, 0.0, 0.1, 0.2])
    text = " ".join(w for w in text.split() if r.random() >= drop) or text
    name = words.name
    if (roll := r.random()) < 0.25:
        name = "_".join(name.lower().split())
    elif roll < 0.35:
        name = " ".join(w for w in name.split() if r.random() < 0.7) or name
    elif roll < 0.42:
        name = r.choice(["Tool", "Helper", "Plugin Action", "run", "process"])
    return name, text
