"""Offers the generators of this room. Listing them imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from anybind.contracts import Build, Generator, GeneratorSpec
from anybind.hooks import hookimpl


def _unclip(build: Build) -> Generator:
    from transformers.utils import logging

    # On import it says that torchvision is absent and that it will do without: so it shall.
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        from anybind.generators.unclip import UnclipGenerator
    finally:
        logging.set_verbosity(level)
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
