"""Small synthetic pictures whose truth is known, and a context that answers from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as pil

from anybind.content import AnyPart, Box, Image
from anybind.contracts import Tool
from anybind.errors import ToolError
from anybind.tools.plugin import register_tools

RED, GREEN = (200, 30, 30), (40, 140, 60)


@dataclass
class Scene:
    """A red disc on a green, slightly uneven ground."""

    image: Image
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    box: tuple[float, float, float, float]


def make_scene(
    size: tuple[int, int] = (160, 120), centre: tuple[int, int] = (70, 60), radius: int = 28
) -> Scene:
    width, height = size
    ys, xs = np.mgrid[:height, :width]
    mask = (xs - centre[0]) ** 2 + (ys - centre[1]) ** 2 <= radius**2
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = GREEN
    pixels[mask] = RED
    noise = np.random.default_rng(3).integers(-6, 7, pixels.shape)
    pixels = np.clip(pixels.astype(int) + noise, 0, 255).astype(np.uint8)
    x, y = centre
    box = (float(x - radius), float(y - radius), float(x + radius + 1), float(y + radius + 1))
    return Scene(Image.of(pil.fromarray(pixels)), pixels, mask, box)


@dataclass
class KnownContext:
    """Knows where things are, what the answer is and what a generator would draw."""

    boxes: dict[str, list[Box]] = field(default_factory=dict[str, list[Box]])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    drawing: AnyPart | None = None
    folders: dict[str, Path] = field(default_factory=dict[str, Path])
    seed: int = 0
    model: Any = None
    asked: list[tuple[str, tuple[AnyPart, ...]]] = field(
        default_factory=list[tuple[str, tuple[AnyPart, ...]]]
    )
    drawn: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])

    def answer(self, question: str, *parts: AnyPart) -> str:
        self.asked.append((question, parts))
        return self.answers.get(question, "")

    def ground(self, image: Image, phrases: Sequence[str]) -> list[Box]:
        return [box for phrase in phrases for box in self.boxes.get(phrase, [])]

    def generate(self, kind: str, text: str | None, parts: Sequence[AnyPart] = ()) -> AnyPart:
        self.drawn.append((kind, text))
        if self.drawing is None:
            raise ToolError(f"There is no generator for {kind}.")
        return self.drawing

    def weights(self, role: str) -> Path:
        if role not in self.folders:
            raise ToolError(f"The bundle names no weights for {role}.")
        return self.folders[role]


@pytest.fixture
def scene() -> Scene:
    return make_scene()


@pytest.fixture
def context(scene: Scene) -> KnownContext:
    return KnownContext(boxes={"disc": [Box("disc", scene.box, 0.9)]})


@pytest.fixture(scope="session")
def tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in register_tools()}


def array(part: AnyPart) -> NDArray[np.uint8]:
    """The pixels of a picture."""
    assert isinstance(part, Image)
    assert part.data.mode == "RGB"
    return np.asarray(part.data)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / (a | b).sum())
