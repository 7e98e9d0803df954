"""Pictures made of drawings: one on a ground, one in a colour, several of one, two or three things.

Rendering takes `resvg_py` (MIT). Everything random comes from a given source. Knows no encoder.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from anybind.optional import require

SIDE = 300
COLOURS = {
    "red": (214, 40, 40), "green": (46, 150, 60), "blue": (40, 84, 200), "yellow": (245, 205, 40),
    "orange": (242, 130, 30), "purple": (125, 50, 160), "pink": (240, 120, 175), "brown": (120, 75, 40),
    "black": (20, 20, 20), "grey": (130, 130, 130),
}  # fmt: skip


def render(
    svg: str, side: int = SIDE, colour: tuple[int, int, int] | None = None
) -> Image.Image | None:
    """A drawing as RGBA within side x side, cut to what is drawn; None if it can't be rendered.

    Args:
        svg: The drawing.
        side: Longest side, pixels.
        colour: Of what takes the colour of its surroundings ("currentColor").
    """
    rendering: Any = require("resvg_py", "training")
    if colour is not None or "currentColor" in svg:
        svg = svg.replace("currentColor", "#{:02x}{:02x}{:02x}".format(*(colour or (30, 30, 30))))
    try:
        data = rendering.svg_to_bytes(svg_string=svg, width=side, skip_system_fonts=True)
    except ValueError:
        return None
    drawn = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    if max(drawn.size) > 8 * side:
        return None
    box = drawn.getchannel("A").point(lambda v: 255 if v > 8 else 0).getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < side // 20:
        return None
    drawn = drawn.crop(box)
    drawn.thumbnail((side, side), Image.Resampling.LANCZOS)
    return drawn


def ground(rng: random.Random, side: int = SIDE, plain: float = 0.5) -> Image.Image:
    """A ground: white, one pale colour, or a smooth random one."""
    roll = rng.random()
    if roll < plain:
        return Image.new("RGB", (side, side), (255, 255, 255))
    if roll < plain + (1 - plain) / 2:
        return Image.new("RGB", (side, side), tuple(rng.randint(190, 250) for _ in range(3)))
    source = np.random.default_rng(rng.getrandbits(32))
    low = source.normal(0, 30, (*source.integers(2, 9, 2), 3)) + source.integers(60, 256, 3)
    small = Image.fromarray(np.clip(low, 0, 255).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def place(base: Image.Image, drawn: Image.Image, box: tuple[float, float, float, float]) -> None:
    """A drawing into a box given in shares of the side (left, top, right, bottom)."""
    wide, high = (box[2] - box[0]) * base.width, (box[3] - box[1]) * base.height
    scale = min(wide / drawn.width, high / drawn.height)
    size = max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))
    small = drawn.resize(size, Image.Resampling.LANCZOS)
    at = (
        round(box[0] * base.width + (wide - size[0]) / 2),
        round(box[1] * base.height + (high - size[1]) / 2),
    )
    base.paste(small, at, small)


def alone(drawn: Image.Image, rng: random.Random, plain: float = 0.5) -> Image.Image:
    """One drawing on a ground, at some size and place, sometimes mirrored."""
    base = ground(rng, plain=plain)
    size = rng.uniform(0.5, 0.95)
    left, top = rng.uniform(0, 1 - size), rng.uniform(0, 1 - size)
    if rng.random() < 0.5:
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    place(base, drawn, (left, top, left + size, top + size))
    return base


def together(parts: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Drawings side by side from left to right, at sizes a little different; square or 3:2."""
    base = ground(rng)
    if wider := rng.random() < 0.6:
        base = base.resize((round(1.5 * base.width), base.height))
    wide = 1 / len(parts)
    for number, drawn in enumerate(parts):
        size = wide * rng.uniform(0.7, 0.98)
        high = min(0.95, size * rng.uniform(1.0, 1.6) * (1.5 if wider else 1.0))
        left = number * wide + rng.uniform(0, wide - size)
        top = rng.uniform(0.05, max(0.05, 0.95 - high))
        place(base, drawn, (left, top, left + size, top + high))
    return base


def several(drawn: Image.Image, count: int, rng: random.Random) -> Image.Image:
    """One drawing so many times, on a grid with some disorder."""
    base = ground(rng)
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    rows = -(-count // columns)
    cell_w, cell_h = 1 / columns, 1 / rows
    cells = [(c, r) for r in range(rows) for c in range(columns)]
    for column, row in sorted(rng.sample(cells, count), key=lambda cell: cell[::-1]):
        size_w, size_h = cell_w * rng.uniform(0.65, 0.95), cell_h * rng.uniform(0.65, 0.95)
        left = column * cell_w + rng.uniform(0, cell_w - size_w)
        top = row * cell_h + rng.uniform(0, cell_h - size_h)
        place(base, drawn, (left, top, left + size_w, top + size_h))
    return base
