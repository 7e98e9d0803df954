"""Tools that change a picture: take something out, put something else in, cut the ground off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anybind.content import Image
from anybind.contracts import ToolContext, ToolResult
from anybind.errors import ToolError
from anybind.tooling import tool
from anybind.tools.finding import find

if TYPE_CHECKING:
    from anybind.tools.pixels import Mask, Rgb

_NEEDS = ("expert:grounding", "library:cv2")
_MOST = 0.8
"""Largest share of a picture that is filled in."""


@tool("Remove Something From The Photo", requires=_NEEDS)
def remove(context: ToolContext, image: Image, object: str) -> ToolResult:
    """Remove something from a photo: erase, delete, take away or get rid of a person or thing.

    Args:
        image: The photo.
        object: What to remove.
    """
    from anybind.tools.pixels import image_of, pixels_of

    pixels = pixels_of(image)
    mask = _extent(context, image, pixels, object)
    name = "Remove Something From The Photo"
    return ToolResult(
        (image_of(_filled(pixels, mask, object), name, image), image_of(mask, name, image))
    )


@tool("Replace Something From The Photo", requires=(*_NEEDS, "generator:image"))
def replace(context: ToolContext, image: Image, old: str, new: str) -> ToolResult:
    """Replace, swap or exchange one object in a photo: put another one there, turn it into one.

    Args:
        image: The photo.
        old: What to replace.
        new: What to put there.
    """
    import numpy as np

    from anybind.tools.compose import cut_out, place
    from anybind.tools.pixels import image_of, pixels_of

    pixels = pixels_of(image)
    mask = _extent(context, image, pixels, old)
    made = context.generate("image", new)
    if not isinstance(made, Image):
        raise ToolError(f"The generator made no picture of {new}, but {made.kind}.")
    thing = cut_out(pixels_of(made))
    if thing is None:
        raise ToolError(f"The drawn {new} does not stand out from its ground; try other words.")
    ys, xs = np.nonzero(mask)
    box = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
    result, touched = place(_filled(pixels, mask, old), thing, box)
    name = "Replace Something From The Photo"
    return ToolResult((image_of(result, name, image, made), image_of(mask | touched, name, image)))


@tool("Remove the background", requires=("library:cv2",))
def remove_background(image: Image) -> ToolResult:
    """Make the background plain white: keep only the main object of the photo,
    without its background.

    Args:
        image: The photo.
    """
    import numpy as np

    from anybind.tools.cutout import foreground_mask, soft_alpha
    from anybind.tools.pixels import image_of, pixels_of

    pixels = pixels_of(image)
    mask = foreground_mask(pixels)
    if mask is None:
        raise ToolError("Nothing in the picture stands out from its background.")
    alpha = soft_alpha(mask, max(1.0, min(mask.shape) / 250))[..., None]
    cut = np.rint(alpha * pixels + (1 - alpha) * 255)
    name = "Remove the background"
    return ToolResult((image_of(cut, name, image), image_of(mask, name, image)))


def _extent(context: ToolContext, image: Image, pixels: Rgb, phrase: str) -> Mask:
    """Where the best match of a phrase is, with its soft rim.

    An object whose colours are those of its ground can't be outlined: its oval is taken.
    """
    from anybind.tools.compose import grown
    from anybind.tools.cutout import object_mask, oval

    box = find(context, image, phrase)[0]
    mask = object_mask(pixels, box.xyxy)
    if mask is None:
        mask = oval(pixels.shape[:2], box.xyxy)
    mask = grown(mask)
    if mask.mean() > _MOST:
        raise ToolError(
            f'The "{phrase}" covers nearly the whole picture: there is nothing to fill it with.'
        )
    return mask


def _filled(pixels: Rgb, mask: Mask, phrase: str) -> Rgb:
    from anybind.tools.inpaint import fill

    try:
        return fill(pixels, mask)
    except ValueError as error:
        raise ToolError(f'There is too little around the "{phrase}" to fill it with.') from error


TOOLS = (remove, replace, remove_background)
