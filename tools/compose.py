"""Puts a cut-out object into a picture so that it looks at home. Knows no tool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anybind.tools.cutout import XYXY, foreground_mask, soft_alpha
from anybind.tools.pixels import Mask, Rgb, dilate, disc, opencv


@dataclass(frozen=True)
class Cutout:
    """An object without its ground: `pixels` [h, w, 3] and `alpha` [h, w] in 0..1."""

    pixels: Rgb
    alpha: NDArray[np.float32]


def cut_out(pixels: Rgb) -> Cutout | None:
    """The main object of a picture, tightly cropped; None if it doesn't stand out."""
    mask = foreground_mask(pixels)
    if mask is None:
        return None
    ys, xs = np.nonzero(mask)
    window = slice(int(ys.min()), int(ys.max()) + 1), slice(int(xs.min()), int(xs.max()) + 1)
    alpha = soft_alpha(mask, max(1.0, min(mask.shape) / 150))
    return Cutout(pixels[window], alpha[window])


def place(pixels: Rgb, thing: Cutout, box: XYXY) -> tuple[Rgb, Mask]:
    """The picture with the object standing where a box is, and the pixels it touches.

    It gets the box's area, keeps its own proportions, stands on the box's lower edge and is
    moved inside the picture if it would stick out.
    """
    cv2 = opencv()
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    high, wide = thing.alpha.shape
    scale = float(np.sqrt((x1 - x0) * (y1 - y0) / (high * wide)))
    scale = min(scale, 1.25 * (x1 - x0) / wide, 1.25 * (y1 - y0) / high)
    scale = min(scale, width / wide, height / high)
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    # Resized with alpha multiplied in, or the old ground's colour would rim the object.
    alpha = np.clip(cv2.resize(thing.alpha, size, interpolation=how), 0, 1)
    solid = thing.pixels.astype(np.float32) * thing.alpha[..., None]
    colour = cv2.resize(solid, size, interpolation=how) / np.maximum(alpha, 1e-3)[..., None]
    left = int(np.clip(round((x0 + x1 - size[0]) / 2), 0, width - size[0]))
    top = int(np.clip(round(y1 - size[1]), 0, height - size[1]))
    window = slice(top, top + size[1]), slice(left, left + size[0])
    ground = pixels[window].astype(np.float32)
    colour = _at_home(np.clip(colour, 0, 255), alpha, ground)
    result = pixels.copy()
    mixed = alpha[..., None] * colour + (1 - alpha[..., None]) * ground
    result[window] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    touched = np.zeros((height, width), bool)
    touched[window] = alpha > 1 / 255
    return result, touched


def _at_home(
    colour: NDArray[np.float32], alpha: NDArray[np.float32], ground: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The object's light moved a quarter of the way to the light of the place, no more: its
    own colours are what was asked for.
    """
    weight = alpha / max(float(alpha.sum()), 1e-6)
    own = float((colour.mean(axis=2) * weight).sum())
    there = float(ground.mean())
    gain = np.clip((0.75 * own + 0.25 * there) / max(own, 1.0), 0.75, 1.2)
    return np.clip(colour * gain, 0, 255)


def grown(mask: Mask) -> Mask:
    """A mask closed over its notches and widened over the object's soft rim."""
    cv2 = opencv()
    ys, xs = np.nonzero(mask)
    span = min(int(np.ptp(ys)), int(np.ptp(xs))) + 1
    pad = max(2, round(0.1 * span))
    padded = np.pad(mask, pad).astype(np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc(pad))[pad:-pad, pad:-pad]
    return dilate(closed.astype(bool), max(4, round(0.05 * span)))
