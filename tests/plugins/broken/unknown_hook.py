"""A plugin with a hook that anybind does not have."""

from __future__ import annotations

from anybind.hooks import hookimpl


@hookimpl
def register_teapots() -> list[str]:
    return ["short", "stout"]
