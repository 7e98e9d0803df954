"""What plugins register: components on offer, and what their factories get.

Listing a spec loads nothing; its factory imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Build:
    """What a factory gets: the files of its weights and the options of its bundle entry."""

    weights: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Role -> local file or folder, fetched and verified."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    device: str = "cpu"
    parts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Components built before, by role (a projection may need the text encoder)."""


@dataclass(frozen=True)
class Spec:
    """A component on offer. Listing it loads nothing; `factory` imports what it needs."""

    name: str
    description: str
    factory: Callable[[Build], Any]
    needs: tuple[str, ...] = ()
    """Optional libraries: import names that must be present."""
    extra: str = ""
    """The anybind extra that installs them."""
    weights: tuple[str, ...] = ()
    """Roles of the weights a bundle must name."""
    footprint: int = 0
    """Memory in bytes once loaded, roughly; 0 is unknown or negligible."""
    resource: str = "cpu"


@dataclass(frozen=True)
class EncoderSpec(Spec):
    """An encoder on offer."""

    modalities: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ModelSpec(Spec):
    """A language model on offer."""


@dataclass(frozen=True)
class ExpertSpec(Spec):
    """An expert on offer."""

    role: Literal["context", "grounding", "nouns"] = "context"


@dataclass(frozen=True)
class GeneratorSpec(Spec):
    """A generator on offer."""

    output: str = "image"
