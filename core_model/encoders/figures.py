"""Where things stand apart in a drawing: what is sharp against a ground that is smooth.

Drawn things have sharp edges, the ground of a drawing has none: it is one colour, or runs softly from
one to another. So the ground is what can be reached from the border without crossing an edge, and what
it doesn't reach are the things. Photographs are sharp all over and give one figure or none; whether a
picture is a drawing, the eye's head tells (`image_head`). Knows no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anybind.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

_SIDE = 320
"""Longer side that pictures are looked at in."""
_SHARP = 2.5
"""Distance in CIELAB from the blurred picture that makes an edge: about what an eye just sees."""
_BLUR = 2.0
_GAP = 0.035
"""Parts nearer to each other than this share of the longer side are of one thing."""
_SMALLEST = 0.01
"""Share of the picture that the box of a thing takes at least."""
_SPECK = 0.0005
_MARGIN = 0.06


def figures(picture: PILImage) -> list[Box]:
    """Boxes of the things that stand apart, from left to right and top to bottom.

    Args:
        picture: RGB.
    """
    cv2: Any = require("cv2", "model")
    scale, things = _mask(picture, cv2)
    _, _, stats, _ = cv2.connectedComponentsWithStats(things, connectivity=8)
    pixels = things.size
    parts = [
        (int(x), int(y), int(x + wide), int(y + high))
        for x, y, wide, high, count in stats[1:]
        if count >= _SPECK * pixels
    ]
    boxes = [
        b for b in _joined(parts, _GAP * _SIDE)
        if (b[2] - b[0]) * (b[3] - b[1]) >= _SMALLEST * pixels
    ]  # fmt: skip
    width, height = picture.size
    out = [
        (
            b[0] / scale[0],
            b[1] / scale[1],
            min(b[2] / scale[0], width),
            min(b[3] / scale[1], height),
        )
        for b in boxes
    ]
    return sorted(out)


def cut_out(picture: PILImage, box: Box) -> PILImage:
    """What a box shows, with a little around it, in the middle of a square of the ground's colour."""
    from PIL import Image as pil

    around = _MARGIN * max(box[2] - box[0], box[3] - box[1])
    seen = picture.crop(
        (
            max(0, int(box[0] - around)), max(0, int(box[1] - around)),
            min(picture.width, int(box[2] + around)), min(picture.height, int(box[3] + around)),
        )
    )  # fmt: skip
    side = max(seen.size)
    square = pil.new("RGB", (side, side), _ground_colour(picture))
    square.paste(seen, ((side - seen.width) // 2, (side - seen.height) // 2))
    return square


def _mask(picture: PILImage, cv2: Any) -> tuple[tuple[float, float], NDArray[np.uint8]]:
    """Scale in x and y, and where the things are [H, W], 0 or 1, in the smaller picture."""
    from PIL import Image as pil

    width, height = picture.size
    shrink = _SIDE / max(width, height)
    size = max(8, round(width * shrink)), max(8, round(height * shrink))
    filtering = pil.Resampling.BOX if shrink < 1 else pil.Resampling.BICUBIC
    small = np.asarray(picture.convert("RGB").resize(size, filtering), np.float32) / 255
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    sharp = np.linalg.norm(lab - cv2.GaussianBlur(lab, (0, 0), _BLUR), axis=-1)
    _, regions = cv2.connectedComponents((sharp < _SHARP).astype(np.uint8), connectivity=4)
    border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    ground = np.isin(regions, np.unique(border[border > 0])).astype(np.uint8)
    # The blur carries an edge some pixels into the ground.
    ground = cv2.dilate(ground, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    things = cv2.morphologyEx(1 - ground, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return (size[0] / width, size[1] / height), things


def _joined(parts: list[tuple[int, int, int, int]], gap: float) -> list[tuple[int, int, int, int]]:
    """Boxes, those joined that lie nearer than `gap` to each other."""
    boxes = list(parts)
    at = 0
    while at < len(boxes):
        near = next(
            (n for n in range(at + 1, len(boxes)) if _between(boxes[at], boxes[n]) < gap), 0
        )
        if not near:
            at += 1
            continue
        a, b = boxes[at], boxes.pop(near)
        boxes[at] = min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
        at = 0  # the greater box may be near to one that was passed
    return boxes


def _between(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """The gap between two boxes, the wider of both directions; negative where they overlap."""
    return max(max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3]))


def _ground_colour(picture: PILImage) -> tuple[int, int, int]:
    """The middle colour of the upper and lower border."""
    rows = np.asarray(picture.convert("RGB"))
    edge = np.concatenate([rows[:4].reshape(-1, 3), rows[-4:].reshape(-1, 3)])
    red, green, blue = (int(v) for v in np.median(edge, axis=0))
    return red, green, blue
