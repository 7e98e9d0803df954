"""Tools that find a named object in a picture: boxes, masks, crops."""

from __future__ import annotations

import re

from anybind.content import Box, Boxes, Image
from anybind.contracts import ToolContext, ToolResult
from anybind.errors import ToolError
from anybind.tooling import tool

_NEEDS = ("expert:grounding", "library:cv2")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?\s*%?")


def find(context: ToolContext, image: Image, phrase: str) -> list[Box]:
    """The boxes of a phrase, best first, those that mean the same region only once.

    Raises:
        ToolError: it is not in the picture.
    """
    boxes = sorted(context.ground(image, [phrase]), key=lambda box: -box.score)
    kept: list[Box] = []
    for box in boxes:
        if area(box) > 0 and all(shared(box, other) < 0.6 for other in kept):
            kept.append(box)
    if not kept:
        raise ToolError(f'No "{phrase}" was found in the picture. Name something that is in it.')
    return kept


def area(box: Box) -> float:
    """Square pixels; 0 if the box is empty."""
    x0, y0, x1, y1 = box.xyxy
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def shared(a: Box, b: Box) -> float:
    """Common area by the smaller of the two, 0..1."""
    wide = min(a.xyxy[2], b.xyxy[2]) - max(a.xyxy[0], b.xyxy[0])
    high = min(a.xyxy[3], b.xyxy[3]) - max(a.xyxy[1], b.xyxy[1])
    least = min(area(a), area(b))
    return max(0.0, wide) * max(0.0, high) / least if least > 0 else 0.0


@tool("Detect the Give Object", requires=("expert:grounding",))
def detect(context: ToolContext, image: Image, object: str) -> ToolResult:
    """Detect, find or locate a thing, person or animal: show where it is with a box around it.

    Args:
        image: The picture to search.
        object: What to find.
    """
    from anybind.drawing import draw_boxes

    found = find(context, image, object)
    made = "tool:Detect the Give Object"
    sources = [image.name] if image.name else []
    drawn = Image.of(draw_boxes(image.data, found), made_by=made, sources=sources)
    return ToolResult((drawn, Boxes.of(tuple(found), made_by=made, sources=sources)))


@tool("Segment the given object", requires=_NEEDS)
def segment_object(context: ToolContext, image: Image, object: str) -> ToolResult:
    """Segment a given object: find its exact outline, mask it, colour it in the picture.

    Args:
        image: The picture.
        object: What to segment.
    """
    import numpy as np

    from anybind.tools.cutout import object_mask
    from anybind.tools.pixels import image_of, pixels_of
    from anybind.tools.regions import paint_mask

    pixels = pixels_of(image)
    masks = [object_mask(pixels, box.xyxy) for box in find(context, image, object)]
    parts = [mask for mask in masks if mask is not None]
    if not parts:
        raise ToolError(f'The "{object}" was found, but its outline does not stand out.')
    mask = np.logical_or.reduce(parts)
    name = "Segment the given object"
    return ToolResult(
        (image_of(paint_mask(pixels, mask), name, image), image_of(mask, name, image))
    )


@tool("Crop the Given Object", requires=("expert:grounding",))
def crop_object(context: ToolContext, image: Image, object: str) -> Image:
    """Crop a given object out of a photo: cut the picture down so that only the object is left.

    Args:
        image: The picture.
        object: What to keep.
    """
    best = find(context, image, object)[0]
    return _cropped(image, best.xyxy, "Crop the Given Object")


@tool("Crop Image")
def crop(image: Image, box: str) -> Image:
    """Crop or trim a picture to a rectangle given by numbers, [x1, y1, x2, y2].

    Args:
        image: The picture.
        box: Left, top, right, bottom in pixels, e.g. [10, 20, 200, 180], or in percent.
    """
    return _cropped(image, _rectangle(box, image.data.size), "Crop Image")


def _rectangle(text: str, size: tuple[int, int]) -> tuple[float, float, float, float]:
    found = _NUMBER.findall(text)
    if len(found) != 4:
        raise ToolError(f"Crop Image takes four numbers, [x1, y1, x2, y2]; got {text[:60]!r}.")
    values = [
        float(number.rstrip("% ")) * (size[i % 2] / 100 if "%" in number else 1)
        for i, number in enumerate(found)
    ]
    return values[0], values[1], values[2], values[3]


def _cropped(image: Image, box: tuple[float, float, float, float], tool_name: str) -> Image:
    width, height = image.data.size
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    edges = (
        max(0, round(left)), max(0, round(top)), min(width, round(right)),
        min(height, round(bottom)),
    )  # fmt: skip
    if edges[2] <= edges[0] or edges[3] <= edges[1]:
        raise ToolError(
            f"The rectangle holds no pixel of the picture, which is {width} x {height}."
        )
    cut = image.data.crop(edges)
    return Image.of(cut, made_by=f"tool:{tool_name}", sources=[image.name] if image.name else [])


TOOLS = (detect, segment_object, crop_object, crop)
