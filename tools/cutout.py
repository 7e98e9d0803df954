"""Tells an object from its ground inside a box: GrabCut, and a cleaned outline.

Colour models of object and ground, no learned weights. Knows no tool and no words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.tools.pixels import Mask, Rgb, enlarge_mask, opencv, shrink

XYXY = tuple[float, float, float, float]
_WORK_SIDE = 420
_ROUNDS = 6


def object_mask(pixels: Rgb, box: XYXY) -> Mask | None:
    """The object inside a box (pixels), or None if its colours don't differ from the ground's.

    The box may be coarse: the outline may leave it by a twelfth of its size.
    """
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = _inside(box, width, height)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    # The ground is learnt from the neighbourhood: far things would only blur its colours.
    reach = round(0.6 * max(x1 - x0, y1 - y0)) + 4
    left, top = max(0, x0 - reach), max(0, y0 - reach)
    right, bottom = min(width, x1 + reach), min(height, y1 + reach)
    crop = pixels[top:bottom, left:right]
    small = shrink(crop, _WORK_SIDE)
    scale = small.shape[1] / crop.shape[1], small.shape[0] / crop.shape[0]
    inner = (
        round((x0 - left) * scale[0]), round((y0 - top) * scale[1]),
        round((x1 - left) * scale[0]), round((y1 - top) * scale[1]),
    )  # fmt: skip
    trimap = _trimap(small.shape[:2], inner)
    found = _grabcut(small, trimap)
    if found is None:
        return None
    found = _clean(found)
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    if found.sum() < max(4, 0.04 * area):
        return None
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = enlarge_mask(found, crop.shape)
    return mask if mask.any() else None


def foreground_mask(pixels: Rgb) -> Mask | None:
    """The main object of a picture: what differs from the picture's rim, near the middle.

    None if nothing differs.
    """
    plain = _plain_ground(pixels)
    if plain is not None:
        return plain
    height, width = pixels.shape[:2]
    rim_x, rim_y = 0.04 * width, 0.04 * height
    return object_mask(pixels, (rim_x, rim_y, width - rim_x, height - rim_y))


def oval(shape: tuple[int, ...], box: XYXY) -> Mask:
    """The largest ellipse in a box, on a canvas of `shape` (height, width)."""
    ys, xs = np.ogrid[: shape[0], : shape[1]]
    x0, y0, x1, y1 = box
    away_x = (xs + 0.5 - (x0 + x1) / 2) / max(1.0, (x1 - x0) / 2)
    away_y = (ys + 0.5 - (y0 + y1) / 2) / max(1.0, (y1 - y0) / 2)
    return away_x**2 + away_y**2 <= 1


def soft_alpha(mask: Mask, radius: float) -> NDArray[np.float32]:
    """Coverage 0..1 with an outline `radius` pixels soft, never outside the mask."""
    cv2 = opencv()
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return np.clip(inside / max(radius, 1e-3), 0, 1).astype(np.float32)


def _inside(box: XYXY, width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return (
        int(np.clip(np.floor(x0), 0, width)), int(np.clip(np.floor(y0), 0, height)),
        int(np.clip(np.ceil(x1), 0, width)), int(np.clip(np.ceil(y1), 0, height)),
    )  # fmt: skip


def _trimap(shape: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """GrabCut's start: certain ground far outside, likely object in the box's oval."""
    cv2 = opencv()
    height, width = shape
    x0, y0, x1, y1 = box
    grown_x, grown_y = round((x1 - x0) / 12), round((y1 - y0) / 12)
    trimap = np.full(shape, cv2.GC_BGD, np.uint8)
    trimap[max(0, y0 - grown_y) : y1 + grown_y + 1, max(0, x0 - grown_x) : x1 + grown_x + 1] = (
        cv2.GC_PR_BGD
    )
    ys, xs = np.ogrid[:height, :width]
    away_x = np.abs((xs - (x0 + x1) / 2) / max(1.0, (x1 - x0) / 2))
    away_y = np.abs((ys - (y0 + y1) / 2) / max(1.0, (y1 - y0) / 2))
    # A superellipse: objects fill their boxes' middles and sides, seldom the corners.
    trimap[(away_x**3 + away_y**3) < 1.0] = cv2.GC_PR_FGD
    if (trimap == cv2.GC_BGD).mean() < 0.05:
        # The box is nearly the whole picture. Its rim is ground, save the lower one, at which
        # things and people are usually cut off.
        rim_x, rim_y = max(1, round(0.02 * width)), max(1, round(0.02 * height))
        trimap[:rim_y] = trimap[:, :rim_x] = trimap[:, -rim_x:] = cv2.GC_BGD
    return trimap


def _grabcut(pixels: Rgb, trimap: NDArray[np.uint8]) -> Mask | None:
    cv2 = opencv()
    likely = np.isin(trimap, (cv2.GC_PR_FGD, cv2.GC_FGD))
    # Its colour models need some pixels of each side.
    if likely.sum() < 10 or (~likely).sum() < 10:
        return None
    cv2.setRNGSeed(1)  # GrabCut's k-means start is random: same picture, same cut.
    models: tuple[Any, Any] = (np.zeros((1, 65)), np.zeros((1, 65)))
    smooth = cv2.bilateralFilter(pixels, 5, 25, 5)
    mask, *_ = cv2.grabCut(
        cv2.cvtColor(smooth, cv2.COLOR_RGB2Lab), trimap.copy(), None, *models, _ROUNDS,
        cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _clean(mask: Mask) -> Mask:
    """Without specks and pinholes: parts under an eighth of the largest are dropped."""
    cv2 = opencv()
    mask = cv2.medianBlur(mask.astype(np.uint8), 5).astype(bool)
    mask = _keep_large(mask, 0.125)
    return ~_keep_large(~mask, 0.0, least=0.02 * float(mask.sum()))


def _keep_large(mask: Mask, share: float, least: float = 0.0) -> Mask:
    cv2 = opencv()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count <= 1:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = np.flatnonzero(areas >= max(share * areas.max(), least)) + 1
    return np.isin(labels, keep)


def _plain_ground(pixels: Rgb) -> Mask | None:
    """What is not the ground, if the rim has nearly one colour (icons, studio shots)."""
    cv2 = opencv()
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab).astype(np.float32)
    rim = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    colour = np.median(rim, axis=0)
    away = np.linalg.norm(lab - colour, axis=2)
    on_rim = np.linalg.norm(rim - colour, axis=1)
    if np.quantile(on_rim, 0.9) > 10:
        return None
    near = (away < max(8.0, 2.5 * float(np.quantile(on_rim, 0.9)))).astype(np.uint8)
    # Only ground that hangs together with the rim: a white eye in a white picture stays.
    _, labels = cv2.connectedComponents(near)
    rims = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    ground = np.isin(labels, np.unique(rims[rims > 0]))
    mask = _clean(~ground)
    return mask if 0.005 < mask.mean() < 0.98 else None
