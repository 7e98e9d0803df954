"""Conversations with tools in the GPT4Tools protocol, made by rule and seed.

Knows the layout of the prompt and the tools only from `tool_protocol.json` (written by
`scripts/tool_protocol.py`) and how people ask from `toolchat_requests.json`. Runs no tool: what a
tool would have observed is made up in the words that the tools use. The tools in
`heldout_tools.json` are never named, listed or used.

Format: GPT4Tools (Yang et al. 2023), section 3 and its runtime; the requests are our own.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from anybind.contracts import Message
from anybind.core_model.training import toolchat_words as words
from anybind.core_model.training.data.conversations import observations
from anybind.core_model.training.nano_data.english import articles, capital, sentences
from anybind.core_model.training.samples import TrainingSample
from anybind.errors import UserError

HERE = Path(__file__).parent
SHARES = {
    "single": 0.42,
    "chain": 0.22,
    "follow": 0.09,
    "none": 0.14,
    "missing": 0.06,
    "failed": 0.07,
}
"""Kinds of conversations: one call, several, a call on what an earlier turn made, none wanted,
one wanted that is not listed, and one that finds nothing."""

_FAMILY = {
    "look": ("Get Photo Description", "Answer Question About The Image"),
    "find": ("Detect the Give Object", "Segment the given object", "Segment the Image"),
    "change": (
        "Remove Something From The Photo", "Replace Something From The Photo",
        "Instruct Image Using Text", "Mirror The Image",
    ),
    "outline": (
        "Edge Detection On Image", "Sketch Detection On Image", "Hed Detection On Image",
        "Predict Depth On Image",
    ),
    "make": ("Generate Image From User Input Text",),
}  # fmt: skip
_PAIRS = {
    "Edge Detection On Image": "Generate Image Condition On Canny Image",
    "Hed Detection On Image": "Generate Image Condition On Soft Hed Boundary Image",
    "Segment the Image": "Generate Image Condition On Segmentations",
}
_MAPS = {
    "Canny": "a canny edge map", "Line": "a picture of straight lines", "Hed": "a soft hed boundary",
    "Pose": "a human pose", "Normal": "a normal map", "Segmentations": "a segmentation map",
}  # fmt: skip
_FINDERS = (
    "Detect the Give Object", "Segment the given object", "Remove Something From The Photo",
    "Replace Something From The Photo",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """What the model reads of a tool."""

    name: str
    description: str
    arguments: tuple[tuple[str, str], ...]
    """(name, kind) in calling order; kind is "text" or a content kind."""


class Protocol:
    """The layout of prompts, and every registered tool."""

    def __init__(self, file: Path = HERE / "tool_protocol.json") -> None:
        """Read the file.

        Raises:
            UserError: it can't be read or lacks something.
        """
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            self.layout: dict[str, str] = said["prompt"]
            self.use: str = said["use"]
            self._upload: str = said["upload"]
            self.tools = tuple(
                ToolInfo(
                    t["name"], t["description"],
                    tuple((a["name"], a["kind"]) for a in t["arguments"]),
                )
                for t in said["tools"]
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} does not describe the tool protocol ({error}): write it with "
                "scripts/tool_protocol.py."
            ) from error

    def prompt(self, tools: Sequence[ToolInfo], history: Sequence[str], request: str) -> str:
        """What `anybind.agent.protocol.prompt` gives."""
        part = self.layout
        listed = "\n".join(
            part["tool"].format(name=t.name, description=t.description) for t in tools
        )
        names = ", ".join(t.name for t in tools)
        past = "".join(f"\n{line}" for line in history)
        return (
            f"{part['before_tools']}{listed}{part['before_names']}{names}{part['before_history']}"
            f"{past}{part['before_request']}{request}{part['end']}"
        )

    def upload(self, name: str, description: str) -> str:
        """How a picture enters the history."""
        return self._upload.format(name=name, description=description)


@dataclass(frozen=True, slots=True)
class Step:
    """One call and what came back."""

    tool: str
    args: tuple[str, ...]
    observation: str


@dataclass(frozen=True, slots=True)
class ToolConversation:
    """A request, the calls that it takes, the answer."""

    key: str
    kind: str
    tools: tuple[ToolInfo, ...]
    history: tuple[str, ...]
    request: str
    steps: tuple[Step, ...]
    answer: str

    def trace(self, use: str) -> str:
        """What the model and the tools write."""
        calls = "".join(
            f"{use}Yes\nAction: {s.tool}\nAction Input: {', '.join(s.args)}\n"
            f"Observation: {s.observation}\n"
            for s in self.steps
        )
        return f"{calls}{use}No\nAI: {self.answer}"

    def sample(self, protocol: Protocol) -> TrainingSample:
        """As a training sample: observations are read, not learned."""
        trace = self.trace(protocol.use)
        asked = protocol.prompt(self.tools, self.history, self.request)
        messages = (Message("user", asked), Message("assistant", trace))
        return TrainingSample(messages, None, "toolchat", self.key, observations(trace, 1))

    def record(self, protocol: Protocol) -> dict[str, Any]:
        """As a record of GPT4Tools' validation files."""
        return {
            "id": self.key,
            "instruction": protocol.prompt(self.tools, self.history, self.request),
            "input": "",
            "output": self.trace(protocol.use),
            "Action": [s.tool for s in self.steps],
            "Action Input": [[", ".join(s.args)] for s in self.steps],
            "user_input": self.request,
            "finished_previously": False,
        }


@cache
def held_out() -> frozenset[str]:
    """Tools that no training conversation may name."""
    said = json.loads((HERE / "heldout_tools.json").read_text(encoding="utf-8"))
    return frozenset(said["tools"])


class ToolChat:
    """Conversations by number: the same seed and number always give the same one."""

    def __init__(
        self,
        protocol: Protocol,
        *,
        seed: int = 0,
        replies: Mapping[str, str] | None = None,
        without: frozenset[str] | None = None,
    ) -> None:
        """
        Args:
            protocol: Layout and tools.
            seed: Of everything.
            replies: Plain requests with answers, for conversations that need no tool.
            without: Tools left out; by default the held-out ones.

        Raises:
            UserError: a tool has no requests.
        """
        barred = held_out() if without is None else without
        self.protocol, self.seed = protocol, seed
        self.replies = sorted((replies or {}).items())
        said = json.loads((HERE / "toolchat_requests.json").read_text(encoding="utf-8"))
        self.requests: dict[str, dict[str, list[str]]] = said.pop("tools")
        self.phrases: dict[str, list[str]] = said
        self.tools = {t.name: t for t in protocol.tools if t.name not in barred}
        missing = sorted(set(self.tools) - set(self.requests))
        if missing:
            raise UserError(
                f"toolchat_requests.json has no requests for {', '.join(missing)}: write them there, "
                "or name the tool in heldout_tools.json."
            )

    def __iter__(self) -> Iterator[ToolConversation]:
        """Endlessly, from number 0."""
        number = 0
        while True:
            yield self[number]
            number += 1

    def __getitem__(self, number: int) -> ToolConversation:
        """One conversation."""
        from anybind.core_model.training.toolchat_making import Maker

        rng = random.Random(f"toolchat:{self.seed}:{number}")
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        return getattr(Maker(self, rng, f"toolchat/{kind}/{number}"), kind)()

    def family(self, name: str) -> frozenset[str]:
        """Tools that a request for this one could be mistaken for."""
        if name.startswith("Generate Image"):
            near = [t for t in self.tools if t.startswith("Generate Image")]
        else:
            near = [n for members in _FAMILY.values() if name in members for n in members]
        return frozenset(near) & frozenset(self.tools)

    def chains(self, first: str) -> list[str]:
        """Tools that make sense after this one."""
        if first in _FAMILY["look"]:
            out = [*_FAMILY["change"], *_FAMILY["outline"], *_FAMILY["find"]]
        elif first in _FAMILY["change"] or first in _FAMILY["make"]:
            out = [*_FAMILY["change"], *_FAMILY["outline"], *_FAMILY["find"], *_FAMILY["look"]]
        else:
            out = [_PAIRS[first]] if first in _PAIRS else []
            out.append("Mirror The Image")
        return [t for t in out if t in self.tools and t != first]

    def finders(self) -> list[str]:
        """Tools that may not find what they are asked for."""
        return [t for t in _FINDERS if t in self.tools]


def makes_picture(tool: str) -> bool:
    """Whether its result is a picture, not words."""
    return tool not in _FAMILY["look"]


def input_map(tool: str) -> str:
    """What kind of map a tool takes, in words; "" for an ordinary picture."""
    if not tool.startswith("Generate Image Condition"):
        return ""
    return next(said for key, said in _MAPS.items() if key in tool)


def fill(pattern: str, slots: Mapping[str, str]) -> str:
    """A pattern with its slots filled, articles and capitals put right."""
    return sentences(articles(re.sub(r"\{(\w+)\}", lambda m: slots[m[1]], pattern)))


def wrapped(pattern: str, do: str) -> str:
    """A command in its wrapper."""
    return sentences(pattern.replace("{Do}", capital(do)).replace("{do}", do))


def as_written(argument: str, request: str) -> str:
    """An argument with the capitals that it has in the request."""
    at = request.lower().find(argument.lower())
    return request[at : at + len(argument)] if at >= 0 else argument


__all__ = [
    "SHARES", "Protocol", "Step", "ToolChat", "ToolConversation", "ToolInfo", "as_written", "fill",
    "held_out", "input_map", "makes_picture", "words", "wrapped",
]  # fmt: skip
