"""What this room has on offer. Importing it loads no library beyond anybind's own."""

from __future__ import annotations

from collections.abc import Iterable

from anybind.contracts import Tool
from anybind.hooks import hookimpl
from anybind.tools import editing, finding, looking, making, outlining, pretrained


@hookimpl
def register_tools() -> Iterable[Tool]:
    """The tools of GPT4Tools (and a few of its relatives) that work for real."""
    return (
        *looking.TOOLS,
        *finding.TOOLS,
        *editing.TOOLS,
        *outlining.TOOLS,
        *making.TOOLS,
        *pretrained.TOOLS,
    )
