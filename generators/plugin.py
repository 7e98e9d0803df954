"""Offers the generators of this room. Listing them imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from anybind.contracts import Build, Generator, GeneratorSpec
from anybind.hooks import hookimpl


def _unclip(build: Build) -> Generator:
    from anybind.generators.unclip import UnclipGenerator

    return UnclipGenerator.from_build(build)


@hookimpl
def register_generators() -> Iterable[GeneratorSpec]:
    """The built-in generators."""
    return [
        GeneratorSpec(
            name="unclip",
            description="Pictures from a joint embedding and a text (diffusers latent unCLIP).",
            factory=_unclip,
            needs=("torch", "diffusers", "transformers"),
            extra="diffusion",
            weights=("pipeline",),
            footprint=200 << 20,
            output="image",
        )
    ]
