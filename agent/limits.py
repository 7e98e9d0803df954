"""Limits of one turn, and their bookkeeping."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from anybind.agent.reply import Usage
from anybind.contracts import Finish


@dataclass(frozen=True, slots=True)
class Limits:
    """What one turn may cost. Reaching one ends the tool steps, never the answer."""

    tool_calls: int = 8
    answer_tokens: int = 96
    seconds: float = 600.0
    history_tokens: int | None = None
    """Room for earlier turns in the prompt; None is as the bundle says, or else as much as the
    context of the model holds."""


@dataclass(slots=True)
class Meter:
    """What a turn has cost so far."""

    began: float = field(default_factory=time.perf_counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    tool_calls: int = 0

    def add(self, finish: Finish) -> None:
        """Count one pass of the language model."""
        self.prompt_tokens += finish.prompt_tokens
        self.cached_tokens += finish.cached_tokens
        self.reply_tokens += finish.reply_tokens

    @property
    def seconds(self) -> float:
        """Wall-clock time since the turn began."""
        return time.perf_counter() - self.began

    def usage(self) -> Usage:
        """As a value."""
        return Usage(
            self.prompt_tokens, self.cached_tokens, self.reply_tokens, self.tool_calls,
            round(self.seconds, 3),
        )  # fmt: skip
