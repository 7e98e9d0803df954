"""A tool, an expert and a command for anybind, through the same hooks as its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anybind.content import AnyPart, Image
from anybind.contracts import Build, ExpertSpec, Note, Tool
from anybind.errors import UserError
from anybind.hooks import hookimpl
from anybind.tooling import tool

PALETTE = {
    "black": (0, 0, 0), "grey": (128, 128, 128), "white": (255, 255, 255), "red": (200, 30, 30),
    "orange": (245, 140, 20), "yellow": (245, 225, 50), "green": (40, 150, 50),
    "blue": (40, 80, 200), "purple": (120, 40, 150), "pink": (245, 150, 180),
    "brown": (120, 75, 40),
}  # fmt: skip


# ---------------------------------------------------------------- a tool


@tool("Mirror The Image")
def mirror(image: Image) -> Image:
    """Mirror a picture: flip it horizontally, so that left and right change places.

    Args:
        image: The picture to mirror.
    """
    from PIL import ImageOps

    return Image.of(ImageOps.mirror(image.data))


@hookimpl
def register_tools() -> Iterable[Tool]:
    return [mirror]


# ---------------------------------------------------------------- an expert


def colours(image: Image, at_least: float) -> list[str]:
    """Names of the colours that fill at least this share (0..1) of a picture, largest first."""
    import numpy as np

    pixels = np.asarray(image.data.resize((64, 64)), np.float32).reshape(-1, 1, 3)
    names, centres = list(PALETTE), np.array(list(PALETTE.values()), np.float32)
    nearest = ((pixels - centres) ** 2).sum(-1).argmin(-1)
    shares = np.bincount(nearest, minlength=len(names)) / len(nearest)
    return [names[i] for i in np.argsort(-shares) if shares[i] >= at_least]


class ColourExpert:
    """Tells the model the main colours of each picture."""

    name = "colour-names"
    kinds = frozenset({"image"})

    def __init__(self, at_least: float = 0.15) -> None:
        self.at_least = at_least

    def look(self, part: AnyPart, request: str) -> Note | None:
        found = colours(part, self.at_least) if isinstance(part, Image) else []
        text = f"main colours: {', '.join(found)}"
        # The colours are said beside the picture, not in its place.
        note = Note(self.name, text, confidence=0.4, sources=(part.name,), replaces=False)
        return note if found else None

    def close(self) -> None:
        pass


def _build(build: Build) -> ColourExpert:
    return ColourExpert(**build.options)


@hookimpl
def register_experts() -> Iterable[ExpertSpec]:
    what = "The main colours of a picture; they become context."
    return [ExpertSpec("colour-names", what, _build)]


# ---------------------------------------------------------------- a command


@hookimpl
def register_commands(app: Any) -> None:
    @app.command("colours")
    def command(file: Path) -> None:
        """Name the main colours of a picture."""
        from anybind.media import open_file

        part = open_file(file)
        if not isinstance(part, Image):
            raise UserError(f"{file.name} is not a picture.")
        print(", ".join(colours(part, 0.15)))
