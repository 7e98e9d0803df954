"""A plugin that takes the name of a built-in tool, and offers a good one besides."""

from __future__ import annotations

from collections.abc import Iterable

from anybind.contracts import Tool
from anybind.hooks import hookimpl
from anybind.tooling import tool


@tool("Edge Detection On Image")
def taken(text: str) -> str:
    """Not the edge detector."""
    return text


@tool("Say It Again")
def good(text: str) -> str:
    """Repeat a text."""
    return text


@hookimpl
def register_tools() -> Iterable[Tool]:
    return [good, taken]
