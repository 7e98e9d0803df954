"""The agent: the loop around the model, its sessions, and every front door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anybind.agent.limits import Limits
    from anybind.agent.reply import Reply
    from anybind.agent.runtime import Runtime
    from anybind.agent.session import Session

__all__ = ["Limits", "Reply", "Runtime", "Session"]

_HOMES = {"Limits": "limits", "Reply": "reply", "Runtime": "runtime", "Session": "session"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
