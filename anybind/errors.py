"""The error family of anybind, told apart by who must act.

Knows nothing of any room. Every error raised on purpose derives from `AnybindError`; its message
says what happened and what to do about it.
"""

from __future__ import annotations


class AnybindError(Exception):
    """Root of every error that anybind raises on purpose."""


class UserError(AnybindError):
    """The call or the input is wrong: the caller must change it."""


class MissingExtra(AnybindError):
    """An optional library is not installed; the message holds the install command."""


class MissingWeights(AnybindError):
    """Weights are not there or do not match their hash; the message says how to fetch them."""


class PluginError(AnybindError):
    """A plugin broke its contract; the message names its distribution and entry point."""


class ModelError(AnybindError):
    """A model could not be built or run: wrong files for the architecture, non-finite output."""


class ToolError(AnybindError):
    """A tool could not do its job; shown to the model as an observation, never ends the turn."""


class ControlFlow(AnybindError):
    """Raised by tools to steer the loop; not a failure."""


class Retry(ControlFlow):
    """The tool asks the model to call it again; the message says what to change."""


class ApprovalRequired(ControlFlow):
    """The tool will not act before a person has agreed; the message says to what."""


class LimitExceeded(AnybindError):
    """A limit of the turn was reached. `partial` holds what was done so far."""

    def __init__(self, message: str, partial: object = None) -> None:
        super().__init__(message)
        self.partial = partial

    def __reduce__(self) -> tuple[type[LimitExceeded], tuple[str, object]]:
        return type(self), (str(self), self.partial)
