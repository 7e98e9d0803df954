"""The reply to one request: text, nouns, boxes, artifacts, tool calls, notes, usage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anybind.content import Box


@dataclass(frozen=True, slots=True)
class NounFound:
    """A noun phrase of the answer and how well the picture supports it."""

    text: str
    span: tuple[int, int]
    score: float
    supported: bool


@dataclass(frozen=True, slots=True)
class Artifact:
    """A part that the turn made or took in."""

    name: str
    kind: str
    path: Path
    made_by: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool."""

    tool: str
    args: tuple[str, ...]
    observation: str
    ok: bool


@dataclass(frozen=True, slots=True)
class NoteText:
    """One expert's note."""

    expert: str
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn cost."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt positions taken over from the KV cache."""
    reply_tokens: int = 0
    tool_calls: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one request."""

    text: str = ""
    nouns: tuple[NounFound, ...] = ()
    boxes: tuple[Box, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    notes: tuple[NoteText, ...] = ()
    usage: Usage = field(default_factory=Usage)
    warnings: tuple[str, ...] = ()
    """What was left out or cut short."""

    def to_json(self) -> dict[str, Any]:
        """The shape that `--json` and `anybind batch` write."""
        return {
            "text": self.text,
            "nouns": [
                {"text": n.text, "span": list(n.span), "score": n.score, "supported": n.supported}
                for n in self.nouns
            ],
            "boxes": [
                {"label": b.label, "xyxy": list(b.xyxy), "score": b.score} for b in self.boxes
            ],
            "artifacts": [
                {"name": a.name, "kind": a.kind, "path": str(a.path), "from": a.made_by}
                for a in self.artifacts
            ],
            "tool_calls": [
                {"tool": c.tool, "args": list(c.args), "observation": c.observation, "ok": c.ok}
                for c in self.tool_calls
            ],
            "notes": [{"expert": n.expert, "text": n.text} for n in self.notes],
            "usage": asdict(self.usage),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Reply:
        """Read what `to_json` wrote."""
        return cls(
            text=data["text"],
            nouns=tuple(
                NounFound(n["text"], (n["span"][0], n["span"][1]), n["score"], n["supported"])
                for n in data["nouns"]
            ),
            boxes=tuple(Box(b["label"], tuple(b["xyxy"]), b["score"]) for b in data["boxes"]),
            artifacts=tuple(
                Artifact(a["name"], a["kind"], Path(a["path"]), a["from"])
                for a in data["artifacts"]
            ),
            tool_calls=tuple(
                ToolCall(c["tool"], tuple(c["args"]), c["observation"], c["ok"])
                for c in data["tool_calls"]
            ),
            notes=tuple(NoteText(n["expert"], n["text"]) for n in data["notes"]),
            usage=Usage(**data["usage"]),
            warnings=tuple(data.get("warnings", ())),
        )
