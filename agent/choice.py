"""Which tool, if any, a piece of a request asks for.

Two witnesses, added: a prior from the similarity of the request and each tool's description in
the joint space, and the decoder's own likelihood of writing that call under the GPT4Tools prompt.
Nothing here runs a tool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anybind.agent import protocol
from anybind.content import Text
from anybind.contracts import Message, MultimodalModel, Tool

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
    r"(?:[.;!?]\s+|,?\s+(?:and\s+then|then|after\s+that|afterwards|finally|next)[,\s]+|\n+)",
    re.IGNORECASE,
)
_AND = re.compile(r",?\s+and\s+(?=[a-z]+\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """Constants of the choice; a bundle may set its own (`tool_prior`)."""

    sharpness: float = 14.0
    """Multiplies cosine similarities."""
    likelihood: float = 0.05
    """Multiplies log-likelihoods (nats) of the decoder."""
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
    pieces = [p.strip(" ,.;") for p in _SPLIT.split(request)]
    return [p for p in pieces if len(p) > 1] or [request.strip()]


class Chooser:
    """Ranks the tools on offer for pieces of requests."""

    def __init__(self, model: MultimodalModel, config: PriorConfig | None = None) -> None:
        self.model = model
        self.config = config or PriorConfig()
        self._vectors: dict[str, np.ndarray] = {}

    def choose(self, piece: str, tools: Sequence[Tool], history: Sequence[str]) -> Choice:
        """The tool for a piece of a request, or none."""
        if not tools:
            return Choice(None, (("", 0.0),), ())
        c = self.config
        prior = self.prior(piece, tools)
        order = sorted(range(len(tools)), key=lambda i: -prior[1][i])[: c.shortlist]
        short = [tools[i] for i in order]
        scores = {"": c.sharpness * prior[0] + c.none_bias}
        scores |= {tools[i].name: c.sharpness * prior[1][i] for i in order}
        if c.likelihood > 0:
            for name, value in self._likelihoods(piece, short, history).items():
                scores[name] += c.likelihood * value
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        best = next((t for t in short if t.name == ranked[0][0]), None)
        return Choice(best, tuple(ranked), tuple(short))

    def prior(self, piece: str, tools: Sequence[Tool]) -> tuple[float, list[float]]:
        """Similarity of a piece with "no tool" and with each tool, in -1..1.

        Names of files say nothing about what is wanted, so they are left out.
        """
        text = re.sub(r"\S+/\S+\.\w+|\S+\.(?:png|jpe?g|wav)\b", "the image", piece)
        texts = [text, *NO_TOOL]
        for t in tools:
            texts += [t.name, t.description]
        vectors = self._embed(texts)
        query = vectors[0]
        none = max(float(query @ v) for v in vectors[1 : 1 + len(NO_TOOL)])
        rest = vectors[1 + len(NO_TOOL) :]
        each = [
            0.5 * float(query @ rest[2 * i]) + 0.5 * float(query @ rest[2 * i + 1])
            for i in range(len(tools))
        ]
        return none, each

    def _likelihoods(
        self, piece: str, tools: Sequence[Tool], history: Sequence[str]
    ) -> dict[str, float]:
        """The decoder's log-likelihood of each opening, per option, mean taken off."""
        language = self.model.language
        text = language.render([Message("user", protocol.prompt(tools, history, piece))])
        options = {"": f"{protocol.USE}No\nAI:"}
        options |= {t.name: f"{protocol.USE}Yes\nAction: {t.name}\n" for t in tools}
        values = language.score(text, list(options.values()), None)
        mean = float(np.mean(values))
        return {name: value - mean for name, value in zip(options, values, strict=True)}

    def _embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        missing = [t for t in dict.fromkeys(texts) if t not in self._vectors]
        if missing:
            made = self.model.embed_parts([Text.of(t) for t in missing])
            self._vectors.update({t: e.data for t, e in zip(missing, made, strict=True)})
        found = [self._vectors[t] for t in texts]
        if len(self._vectors) > 4096:
            self._vectors.clear()
        return found
