"""The plugin hooks (pluggy). Built-ins and strangers come through the same door.

A package offers a module or object under the entry-point group `anybind.plugins`; its functions
marked with `hookimpl` are called once. Each hook hands over things on offer and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from anybind.contracts import EncoderSpec, ExpertSpec, GeneratorSpec, ModelSpec, Tool

PROJECT = "anybind"
ENTRY_POINT_GROUP = "anybind.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """What a plugin may offer. Implement any of these as module-level functions."""

    @hookspec
    def register_encoders(self) -> Iterable[EncoderSpec]:
        """Encoders: a modality into a joint space."""
        raise AssertionError("a specification is never called")

    @hookspec
    def register_models(self) -> Iterable[ModelSpec]:
        """Language models."""
        raise AssertionError("a specification is never called")

    @hookspec
    def register_tools(self) -> Iterable[Tool]:
        """Tools; a tool does its heavy imports when it is run."""
        raise AssertionError("a specification is never called")

    @hookspec
    def register_experts(self) -> Iterable[ExpertSpec]:
        """Experts: context, grounding, nouns."""
        raise AssertionError("a specification is never called")

    @hookspec
    def register_generators(self) -> Iterable[GeneratorSpec]:
        """Generators of images, sounds, clouds."""
        raise AssertionError("a specification is never called")

    @hookspec
    def register_converters(self) -> Iterable[tuple[str, str]]:
        """Weight converters: a name and "module:function", run in a process of its own."""
        raise AssertionError("a specification is never called")

    @hookspec
    def register_commands(self, app: Any) -> None:
        """Commands: add them to the typer application."""
