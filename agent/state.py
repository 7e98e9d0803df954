"""What builds up during a turn, and the few things every phase does with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from anybind.agent.artifacts import ArtifactStore
from anybind.agent.events import ArtifactAdded, Event, Warned
from anybind.agent.limits import Meter
from anybind.agent.reply import Artifact, NoteText, NounFound, Reply, ToolCall
from anybind.agent.store import Turn
from anybind.content import AnyPart, Box, Embedding, Provenance
from anybind.contracts import Note, Sampling

CONFIDENT = 0.3
"""A note this sure may stand for its part: the part's own embedding is then left out of the mix."""


@dataclass(frozen=True)
class Request:
    """One request as the session has checked it."""

    text: str
    parts: tuple[AnyPart, ...]
    weights: tuple[float | None, ...]
    """None where the caller gave none."""
    outputs: tuple[str, ...] = ("text",)
    ground: bool = True
    tools: bool = True
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)


@dataclass
class TurnState:
    """What builds up during a turn."""

    request: Request
    history: Sequence[Turn]
    artifacts: ArtifactStore
    meter: Meter = field(default_factory=Meter)
    kept: list[AnyPart] = field(default_factory=list[AnyPart])
    """Artifacts that are new in this turn."""
    attached: list[AnyPart] = field(default_factory=list[AnyPart])
    notes: list[Note] = field(default_factory=list[Note])
    condition: Embedding | None = None
    mixed: list[tuple[AnyPart, float]] = field(default_factory=list[tuple[AnyPart, float]])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    produced: list[str] = field(default_factory=list[str])
    drawn: list[str] = field(default_factory=list[str])
    """Names among `produced` that were made from words alone."""
    questions: list[str] = field(default_factory=list[str])
    """Pieces of the request that no tool took."""
    answer: str = ""
    nouns: tuple[NounFound, ...] = ()
    boxes: tuple[Box, ...] = ()
    warnings: list[str] = field(default_factory=list[str])

    def told(self) -> set[str]:
        """Names of the parts that a note of an expert stands for."""
        sure = [n for n in self.notes if n.replaces and n.confidence >= CONFIDENT]
        return {source for note in sure for source in note.sources}

    def reply(self) -> Reply:
        """The reply as far as it has come."""
        return Reply(
            text=self.answer,
            nouns=self.nouns,
            boxes=self.boxes,
            artifacts=tuple(
                Artifact(p.name, p.kind, p.path, p.provenance.made_by)
                for p in self.kept
                if p.path is not None
            ),
            tool_calls=tuple(self.calls),
            notes=tuple(NoteText(n.expert, n.text) for n in self.notes),
            usage=self.meter.usage(),
            warnings=tuple(self.warnings),
        )


def keep(state: TurnState, part: AnyPart) -> Iterator[Event]:
    known = set(state.artifacts.names())
    kept = state.artifacts.add(part)
    if kept.name not in known:
        state.kept.append(kept)
    yield ArtifactAdded(
        kept.name, kept.kind, str(kept.path), kept.provenance.made_by, kept.provenance.sources
    )


def warn(state: TurnState, message: str) -> Warned:
    state.warnings.append(message)
    return Warned(message)


def made_by(part: AnyPart, maker: str, sources: tuple[str, ...]) -> AnyPart:
    """A part as new, with its maker and what it was made from."""
    return replace(part, provenance=Provenance(maker, sources), name="", digest="", path=None)
