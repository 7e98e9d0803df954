"""Which tool, if any, a piece of a request asks for.

Two witnesses, added: a prior from the similarity of the request and each tool's description in
the joint space, and how much more likely the decoder finds that call under the GPT4Tools prompt
than under the same prompt with an empty request. A bundle weighs them (`tool_prior`). A bundle that
names a trained matcher (`tool_chooser`) has its logits in the place of the similarities.
Nothing here runs a tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from anybind.agent import protocol
from anybind.content import Text
from anybind.contracts import Message, MultimodalModel, Tool
from anybind.core_model.tool_matcher import ToolMatcher, asked, tool_texts

# What needs no tool, as examples that the prior compares a request with.
NO_TOOL = (
    "What is in the picture?",
    "What do you see?",
    "What do you hear?",
    "What was said?",
    "Hello, how are you?",
    "Thank you very much.",
    "Who are you and what can you do?",
    "Tell me a story.",
    "Write a poem.",
    "What is the capital of a country?",
    "Explain how something works.",
    "Give me some advice.",
    "Translate this sentence.",
    "How much is two plus two?",
    "Why did it happen and when?",
)

_SPLIT = re.compile(
    r"(?:[.;!?]\s+|,?\s+(?:and\s+then|then|after\s+that|afterwards|finally)[,\s]+"
    r"|,?\s+(?:and\s+)?next,\s+|\n+)",  # a bare "next" is mostly "next to"
    re.IGNORECASE,
)
# A sentence that is about what the one before has named.
_POINTS_BACK = re.compile(r"\b(?:it|its|that|this|them|they|he|she|him|her|one)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """Constants of the choice; a bundle may set its own (`tool_prior`)."""

    sharpness: float = 14.0
    """Multiplies cosine similarities."""
    likelihood: float = 0.2
    """Multiplies log-likelihood ratios (nats) of the decoder; 0 does not ask it."""
    none_bias: float = 0.0
    """Added to the score of "no tool"."""
    shortlist: int = 4
    """Tools shown to the decoder."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome for one piece of a request."""

    tool: Tool | None
    ranked: tuple[tuple[str, float], ...]
    """Names ("" for no tool) with their scores, best first."""
    shortlist: tuple[Tool, ...]


def steps(request: str) -> list[str]:
    """The pieces of a request that are done one after the other.

    Sentences and "then" split; a plain "and" does not, it mostly joins things.
    """
    pieces = [p.strip(" \t\r\n,.;") for p in _SPLIT.split(request)]
    return [p for p in pieces if len(p) > 1] or [request.strip()]


class Chooser:
    """Ranks the tools on offer for pieces of requests."""

    def __init__(
        self,
        model: MultimodalModel,
        config: PriorConfig | None = None,
        matcher: ToolMatcher | None = None,
    ) -> None:
        self.model = model
        self.config = config or PriorConfig()
        self.matcher = matcher
        self._vectors: dict[str, np.ndarray] = {}

    def choose(self, piece: str, tools: Sequence[Tool], history: Sequence[str]) -> Choice:
        """The tool for a piece of a request, or none."""
        if not tools:
            return Choice(None, (("", 0.0),), ())
        c = self.config
        prior = self.prior(piece, tools)
        sharpness = 1.0 if self.matcher else c.sharpness  # the matcher's are logits already
        order = sorted(range(len(tools)), key=lambda i: -prior[1][i])[: c.shortlist]
        short = [tools[i] for i in order]
        scores = {"": sharpness * prior[0] + c.none_bias}
        scores |= {tools[i].name: sharpness * prior[1][i] for i in order}
        if c.likelihood > 0:
            for name, value in self._likelihoods(piece, short, history).items():
                scores[name] += c.likelihood * value
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        best = next((t for t in short if t.name == ranked[0][0]), None)
        return Choice(best, tuple(ranked), tuple(short))

    def words(self, piece: str) -> Mapping[str, str]:
        """What a piece of a request is about, by role (`core_model.request_reader.ROLES`), as the trained
        matcher reads it; nothing without one.
        """
        return {} if self.matcher is None else self.matcher.reader.read(asked(piece)).words

    def prior(self, piece: str, tools: Sequence[Tool]) -> tuple[float, list[float]]:
        """How well a piece goes with "no tool" and with each tool: the matcher's logits, or without
        one similarities in -1..1.

        Names of files say nothing about what is wanted, so they are left out.
        """
        text = asked(piece)
        if self.matcher is not None:
            shown = [tool_texts(t.name, t.description) for t in tools]
            rows = iter(self._embed([text, *(one for texts in shown for one in texts)]))
            query = next(rows)
            told = [np.stack([next(rows) for _ in texts]) for texts in shown]
            return self.matcher.scores(text, query, shown, told)
        vectors = self._embed([text, *NO_TOOL, *(f"{t.name}: {t.description}" for t in tools)])
        query, rest = vectors[0], vectors[1:]
        similar = [float(query @ v) for v in rest]
        return max(similar[: len(NO_TOOL)]), similar[len(NO_TOOL) :]

    def _likelihoods(
        self, piece: str, tools: Sequence[Tool], history: Sequence[str]
    ) -> dict[str, float]:
        """How much the request raises the log-likelihood of each opening.

        Taken against an empty request: bare likelihoods mostly say which names are common words.
        Both prompts share their prefix up to the request, so the second one is nearly free.
        """
        language = self.model.language
        options = {"": f"{protocol.USE}No\nAI:"}
        options |= {t.name: f"{protocol.USE}Yes\nAction: {t.name}\n" for t in tools}
        given, empty = (
            language.score(
                language.render([Message("user", protocol.prompt(tools, history, request))]),
                list(options.values()),
                None,
            )
            for request in (piece, "...")
        )
        return {n: a - b for n, a, b in zip(options, given, empty, strict=True)}

    def _embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        missing = [t for t in dict.fromkeys(texts) if t not in self._vectors]
        if missing:
            made = self.model.embed_parts([Text.of(t) for t in missing])
            self._vectors.update({t: e.data for t, e in zip(missing, made, strict=True)})
        found = [self._vectors[t] for t in texts]
        if len(self._vectors) > 4096:
            self._vectors.clear()
        return found


class Choosing(Protocol):
    """What `choose_all` needs of a chooser."""

    def choose(self, piece: str, tools: Sequence[Tool], history: Sequence[str]) -> Choice:
        """The tool for a piece of a request, or none."""
        ...


def choose_all(
    chooser: Choosing, request: str, tools: Sequence[Tool], history: Sequence[str]
) -> list[tuple[str, Choice]]:
    """The pieces of a request with the tool that each asks for, in order.

    Two sentences may be one wish ("The lamp is ugly. It has to go."): a piece that says no more
    than the one before it, and asks for the same tool, is joined to it, and where no piece asks
    for a tool by itself the whole request is looked at.
    """
    found = [(p, chooser.choose(p, tools, history)) for p in steps(request)]
    if len(found) > 1 and all(choice.tool is None for _, choice in found):
        whole = chooser.choose(request, tools, history)
        return [(request, whole)] if whole.tool else found
    out: list[tuple[str, Choice]] = []
    for piece, choice in found:
        tool = choice.tool
        if out and tool and out[-1][1].tool is tool and _POINTS_BACK.search(piece):
            out[-1] = (f"{out[-1][0]}. {piece}", out[-1][1])
        else:
            out.append((piece, choice))
    return out
