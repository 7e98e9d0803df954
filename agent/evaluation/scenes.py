"""Scenes of two held-out drawings side by side, planned by seed and composed from the plan.

Which is left and which right is part of the plan. The same seed and records give the same pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anybind.agent.evaluation.naming import WordNet, related

SIZE = (480, 320)
SIDE = 0.8
"""Largest side of a thing, as a share of its half."""
_PLAIN = ("#ffffff", "#ffffff", "#e8eef4", "#f6ecd9", "#dfeedd", "#f2dfe4", "#cfd8dc", "#3b4252")


@dataclass(frozen=True, slots=True)
class Ground:
    """What a scene stands on: a plain colour, or a photograph blurred past recognition."""

    kind: str
    """ "plain" or "photograph"."""
    value: str
    """The colour, or the path of the photograph."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Two things and their ground; `left` and `right` are records of the pictures."""

    id: str
    left: dict[str, Any]
    right: dict[str, Any]
    ground: Ground
    jitter: tuple[float, float, float, float]
    """Size and height of each, 0..1."""


def plan_scenes(
    things: Sequence[dict[str, Any]],
    photos: Sequence[dict[str, Any]],
    count: int,
    seed: int,
    wordnet: WordNet,
) -> list[Scene]:
    """`count` scenes of two unrelated things; every second one on a photographic ground."""
    r = random.Random(f"scenes {seed}")
    made: list[Scene] = []
    while len(made) < count:
        left, right = r.sample(list(things), 2)
        if related(left["synsets"], right["synsets"], wordnet):
            continue
        if len(made) % 2 and photos:
            ground = Ground("photograph", r.choice(photos)["file"])
        else:
            ground = Ground("plain", r.choice(_PLAIN))
        jitter = (r.random(), r.random(), r.random(), r.random())
        made.append(Scene(f"scene-{len(made):03d}", left, right, ground, jitter))
    return made


def compose(scene: Scene) -> Any:
    """The scene as a PIL image, RGB, 480 x 320."""
    from PIL import Image, ImageFilter, ImageOps

    if scene.ground.kind == "plain":
        canvas = Image.new("RGB", SIZE, scene.ground.value)
    else:
        with Image.open(scene.ground.value) as photo:
            fitted = ImageOps.fit(photo.convert("RGB"), SIZE)
        canvas = fitted.filter(ImageFilter.GaussianBlur(18))
    half = SIZE[0] // 2
    for index, thing in enumerate((scene.left, scene.right)):
        big, high = scene.jitter[2 * index : 2 * index + 2]
        with Image.open(thing["cut"]) as image:
            cut = image.convert("RGBA")
        side = half * SIDE * (0.75 + 0.25 * big)
        scale = side / max(cut.size)
        wide, tall = (max(1, round(v * scale)) for v in cut.size)
        cut = cut.resize((wide, tall), Image.Resampling.LANCZOS)
        x = index * half + (half - wide) // 2
        y = round((SIZE[1] - tall) * (0.3 + 0.5 * high))
        canvas.paste(cut, (x, y), cut)
    return canvas
