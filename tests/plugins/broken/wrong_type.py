"""A plugin whose hook gives what it must not."""

from __future__ import annotations

from typing import Any

from anybind.hooks import hookimpl


@hookimpl
def register_tools() -> Any:
    return ["not a tool"]
