"""Renders events on a terminal as they come. Knows events only."""

from __future__ import annotations

from typing import assert_never

from rich.console import Console
from rich.text import Text as RichText

from anybind.agent.events import (
    ArtifactAdded,
    Conditioned,
    Event,
    Grounded,
    NoteTaken,
    Observed,
    TextDelta,
    ToolCalled,
    Trace,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    Warned,
)


class Renderer:
    """Prints one stream of events."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._open = ""
        """What kind of text is being continued on the current line, "" at its start."""

    def show(self, event: Event) -> None:
        """Print one event."""
        match event:
            case TextDelta():
                self._flow("answer", event.text, "bold", "anybind: ")
            case Trace():
                self._flow("trace", event.text, "cyan", "")
            case TurnStarted():
                self._line(f"you: {event.text}", "green")
            case ArtifactAdded():
                source = f" (from {', '.join(event.sources)})" if event.sources else ""
                self._line(f"  + {event.name} by {event.made_by}{source}", "dim")
            case NoteTaken():
                self._line(
                    f"  note of {event.expert} ({event.confidence:.2f}): {event.text}", "yellow"
                )
            case Conditioned():
                shares = ", ".join(
                    f"{k} {w:g}" for k, w in zip(event.kinds, event.weights, strict=True)
                )
                self._line(f"  conditioned on {shares}", "dim")
            case ToolCalled():
                self._line(f"  running {event.tool} ...", "dim")
            case Observed():
                mark = "done" if event.ok else "failed"
                self._line(f"  {mark} in {event.seconds:.1f} s", "dim" if event.ok else "red")
            case Grounded():
                where = f"{len(event.boxes)} box(es)" if event.supported else "not found"
                style = "green" if event.supported else "red"
                self._line(f"  {event.text!r}: {where}, support {event.score:.2f}", style)
            case Warned():
                self._line(f"  note: {event.message}", "yellow")
            case TurnFailed():
                self._line(f"{event.type}: {event.message}", "red")
            case TurnFinished():
                usage = event.reply.usage
                self._line(
                    f"  {usage.seconds:.1f} s, {usage.prompt_tokens} prompt tokens "
                    f"({usage.cached_tokens} from cache), {usage.reply_tokens} written",
                    "dim",
                )
            case _:
                assert_never(event)

    def _flow(self, kind: str, text: str, style: str, lead: str) -> None:
        if self._open != kind:
            self._break()
            self.console.print(RichText(lead, style), end="")
            self._open = kind
        self.console.print(RichText(text, style), end="")

    def _line(self, text: str, style: str) -> None:
        self._break()
        self.console.print(RichText(text, style))

    def _break(self) -> None:
        if self._open:
            self.console.print()
            self._open = ""
