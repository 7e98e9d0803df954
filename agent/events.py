"""The events of a turn. A turn is one stream of these with exactly one end.

Pure values: CLI, server and page render them, the store keeps them, a kept stream replays.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast

from anybind.agent.reply import Reply
from anybind.errors import UserError


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A request was accepted."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class ArtifactAdded:
    """The session keeps a part under a name."""

    name: str
    kind: str
    path: str
    made_by: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoteTaken:
    """An expert looked at a part and adds context."""

    expert: str
    text: str
    confidence: float
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conditioned:
    """What the decoder is conditioned on: the modalities mixed and their weights."""

    kinds: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A piece of the GPT4Tools trace as the model writes it (Thought / Action / Action Input)."""

    text: str
    forced: bool = False
    """Implied by the grammar, not chosen by the model."""


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A tool is about to run."""

    tool: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What came back from a tool."""

    tool: str
    text: str
    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Grounded:
    """A noun phrase of the answer was looked for in the picture."""

    text: str
    span: tuple[int, int]
    score: float
    supported: bool
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something was left out or cut short; the turn goes on."""

    message: str


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The end of a turn that worked."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """The end of a turn that did not; the session is as it was before."""

    type: str
    message: str


Event = (
    TurnStarted | ArtifactAdded | NoteTaken | Conditioned | Trace | ToolCalled | Observed
    | TextDelta | Grounded | Warned | TurnFinished | TurnFailed
)  # fmt: skip
End = TurnFinished | TurnFailed

_TYPES: dict[str, type[Any]] = {
    t.__name__: t
    for t in (
        TurnStarted, ArtifactAdded, NoteTaken, Conditioned, Trace, ToolCalled, Observed,
        TextDelta, Grounded, Warned, TurnFinished, TurnFailed,
    )
}  # fmt: skip

EventName = Literal["TurnStarted", "TurnFinished", "TurnFailed"]


def to_json(event: Event) -> dict[str, Any]:
    """A plain dictionary; `event` names the type."""
    if isinstance(event, TurnFinished):
        return {"event": "TurnFinished", "reply": event.reply.to_json()}
    return {"event": type(event).__name__, **asdict(event)}


def from_json(data: dict[str, Any]) -> Event:
    """The event that `to_json` wrote.

    Raises:
        UserError: it is none.
    """
    cls = _TYPES.get(str(data.get("event")))
    if cls is None:
        raise UserError(f"No event is called {data.get('event')!r}.")
    if cls is TurnFinished:
        return TurnFinished(Reply.from_json(data["reply"]))
    known = {f.name for f in fields(cls)}
    event: Event = cls(**{k: _tuples(v) for k, v in data.items() if k in known})
    return event


def _tuples(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(_tuples(v) for v in cast("list[Any]", value))
