"""Fills holes in pictures from what is around them. No learned weights.

Thin holes are smoothed over (Telea). Others are filled patch by patch from the surroundings,
strong edges first (Criminisi, Perez, Toyama 2004), at a working scale; the pixels are then taken
from the full resolution and their seams are levelled by solving a Poisson equation over the
hole. Knows no tool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.tools.pixels import Mask, Rgb, opencv

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]

_HALF = 6
"""Patches of 13 pixels a side at working scale."""
_LEVELS = ((90, 700.0), (160, 2500.0), (280, 8000.0))
"""Longest side and hole area in pixels, coarse to fine: the coarse fill guides the finer."""
_GUESSED, _GUIDED = 0.3, 0.2
"""Weights in matching of a pixel that is guessed (a smooth fill: keeps foreign colours out) or
that the coarser level has filled; known pixels weigh 1."""
_THIN = 3.0
_MOST_PIXELS = 2e6
_KEEP = 0.003
"""Pull of each pixel to the colour that was copied, so that no seam bleeds far."""


def fill(pixels: Rgb, hole: Mask) -> Rgb:
    """The picture with the hole filled; pixels outside the hole are the same bytes.

    Raises:
        ValueError: the hole leaves too little of the picture to learn from.
    """
    if not hole.any():
        return pixels.copy()
    cv2 = opencv()
    left, top, right, bottom = _surroundings(hole)
    crop, gap = pixels[top:bottom, left:right], hole[top:bottom, left:right]
    if (~gap).sum() < 64 or gap.mean() > 0.9:
        raise ValueError("the hole leaves too little of the picture")
    depth = float(cv2.distanceTransform(np.pad(gap, 1).astype(np.uint8), cv2.DIST_L2, 5).max())
    filled = _bounded(crop, gap) if depth > _THIN else None
    if filled is None:
        filled = cv2.inpaint(crop, gap.astype(np.uint8), 4, cv2.INPAINT_TELEA)
    result = pixels.copy()
    result[top:bottom, left:right][gap] = filled[gap]
    return result


def _surroundings(hole: Mask) -> tuple[int, int, int, int]:
    """The window to learn from: the hole's box and about half its size again on all sides."""
    ys, xs = np.nonzero(hole)
    high, wide = int(np.ptp(ys)), int(np.ptp(xs))
    reach_y, reach_x = max(40, (2 * high + wide) // 4), max(40, (2 * wide + high) // 4)
    return (
        max(0, int(xs.min()) - reach_x), max(0, int(ys.min()) - reach_y),
        min(hole.shape[1], int(xs.max()) + reach_x + 1),
        min(hole.shape[0], int(ys.max()) + reach_y + 1),
    )  # fmt: skip


def _bounded(crop: Rgb, gap: Mask) -> Rgb | None:
    """`_synthesise`, at a lower resolution if the window is very large."""
    cv2 = opencv()
    height, width = gap.shape
    scale = float(np.sqrt(_MOST_PIXELS / (height * width)))
    if scale >= 1:
        return _synthesise(crop, gap)
    size = round(width * scale), round(height * scale)
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    small_gap = cv2.resize(gap.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    filled = _synthesise(small, small_gap)
    return None if filled is None else cv2.resize(filled, (width, height))


def _synthesise(crop: Rgb, gap: Mask) -> Rgb | None:
    """Filled by patches; None if no patch of the surroundings is whole."""
    cv2 = opencv()
    height, width = gap.shape
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2Lab).astype(np.float32)
    origin: Ints | None = None
    guide: Floats | None = None
    size = width, height
    for side, area in _LEVELS:
        scale = min(1.0, side / max(gap.shape), float(np.sqrt(area / gap.sum())))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(lab, size, interpolation=cv2.INTER_AREA)
        hole = cv2.resize(gap.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        if guide is None:
            rgb = cv2.cvtColor(np.clip(small, 0, 255).astype(np.uint8), cv2.COLOR_Lab2RGB)
            smooth = cv2.inpaint(rgb, hole.astype(np.uint8), 3, cv2.INPAINT_NS)
            known = cv2.cvtColor(smooth, cv2.COLOR_RGB2Lab).astype(np.float32)
        else:
            known = cv2.resize(guide, size, interpolation=cv2.INTER_CUBIC)
        small[hole] = known[hole]
        found = _copy_map(small, hole, _GUESSED if guide is None else _GUIDED)
        if found is not None:
            origin, guide = found, small[found[..., 0], found[..., 1]]
    if origin is None:
        return None
    ys, xs = np.nonzero(gap)
    step_y, step_x = height / size[1], width / size[0]
    at_y = np.minimum((ys / step_y).astype(np.intp), size[1] - 1)
    at_x = np.minimum((xs / step_x).astype(np.intp), size[0] - 1)
    shift = origin[at_y, at_x] - np.stack([at_y, at_x], axis=1)
    from_y = np.clip(ys + np.rint(shift[:, 0] * step_y).astype(np.intp), 0, height - 1)
    from_x = np.clip(xs + np.rint(shift[:, 1] * step_x).astype(np.intp), 0, width - 1)
    source = np.indices(gap.shape)
    source[0][gap], source[1][gap] = from_y, from_x
    return _level_seams(crop, gap, source)


def _copy_map(image: Floats, hole: Mask, weight: float) -> Ints | None:
    """For each hole pixel the known pixel to copy: [h, w, 2], row and column."""
    cv2 = opencv()
    height, width = hole.shape
    image = image.copy()
    missing = hole.copy()
    side = 2 * _HALF + 1
    square = np.ones((side, side), np.uint8)
    # Centres of patches that lie in the picture and are whole.
    whole = cv2.dilate(hole.astype(np.uint8), square) == 0
    whole[:_HALF] = whole[-_HALF:] = whole[:, :_HALF] = whole[:, -_HALF:] = False
    if whole.sum() < 50:
        return None
    barred = ~whole[_HALF:-_HALF, _HALF:-_HALF]
    if min(height, width) <= side:
        return None
    origin: Ints = np.moveaxis(np.indices(hole.shape), 0, 2).copy()
    confidence = (~hole).astype(np.float32)
    rows, cols = np.ogrid[_HALF : height - _HALF, _HALF : width - _HALF]
    while missing.any():
        y, x, trust = _next(image, missing, confidence)
        # The patch, moved inside the picture where it would stick out.
        y, x = int(np.clip(y, _HALF, height - _HALF - 1)), int(np.clip(x, _HALF, width - _HALF - 1))
        window = slice(y - _HALF, y + _HALF + 1), slice(x - _HALF, x + _HALF + 1)
        known = np.where(missing[window], weight, 1.0).astype(np.float32)
        cost = cv2.matchTemplate(
            image, image[window], cv2.TM_SQDIFF,
            mask=np.repeat(known[..., None], 3, axis=2),
        ) / max(float(known.sum()), 1.0)  # fmt: skip
        # Of equal matches the nearer: lighting and perspective change slowly.
        cost += 100.0 * np.hypot(rows - y, cols - x) / max(height, width)
        cost[barred] = np.inf
        best = int(np.argmin(cost))
        sy, sx = best // cost.shape[1], best % cost.shape[1]
        new = missing[window]
        source = image[sy : sy + side, sx : sx + side]
        image[window][new] = source[new]
        origin[window][new] = origin[sy : sy + side, sx : sx + side][new]
        confidence[window][new] = trust
        missing[window] = False
    return origin


def _next(image: Floats, missing: Mask, confidence: Floats) -> tuple[int, int, float]:
    """The pixel of the hole's front to go on at: much known around it, and edges running in."""
    cv2 = opencv()
    known = ~missing
    inner = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) == 0
    front = inner & missing
    side = 2 * _HALF + 1
    trust = cv2.blur(confidence, (side, side), borderType=cv2.BORDER_CONSTANT)
    light = cv2.GaussianBlur(image[..., 0] * known, (0, 0), 1.0)
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 1.0)
    light = light / np.maximum(weight, 0.05)
    gx, gy = cv2.Scharr(light, cv2.CV_32F, 1, 0), cv2.Scharr(light, cv2.CV_32F, 0, 1)
    # Gradients count only where all pixels under the filter are known.
    solid = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    strength = np.hypot(gx, gy) * solid
    soft = cv2.GaussianBlur(missing.astype(np.float32), (0, 0), 2.0)
    nx, ny = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    norm = np.maximum(np.hypot(nx, ny), 1e-6)
    # An isophote is the gradient turned by a right angle.
    running_in = np.abs(-gy * nx + gx * ny) / norm * (strength > 0)
    data = cv2.dilate(running_in, np.ones((5, 5), np.uint8)) / (16 * 255)
    priority = np.where(front, trust * (data + 0.02), -1.0)
    y, x = np.unravel_index(int(np.argmax(priority)), priority.shape)
    return int(y), int(x), float(trust[y, x])


def _level_seams(crop: Rgb, gap: Mask, source: Ints) -> Rgb:
    """The copied pixels with their seams gone.

    Solves for the hole whose gradients are those of the copies (none across a seam) and whose
    rim meets the picture: a Poisson equation, by conjugate gradients.
    """
    copied = crop[source[0], source[1]].astype(np.float32)
    shift = source - np.indices(gap.shape)
    links: list[tuple[tuple[slice, slice], tuple[slice, slice], Floats, Floats]] = []
    full, head, tail = slice(None), slice(None, -1), slice(1, None)
    for first, second in (((head, full), (tail, full)), ((full, head), (full, tail))):
        same = (shift[(full, *first)] == shift[(full, *second)]).all(axis=0)
        touches = (gap[first] | gap[second]).astype(np.float32)
        # Across a seam the copies' own step is worthless, at the rim as well; a weak pull to
        # "no step" joins the two sides.
        step = (copied[second] - copied[first]) * same[..., None]
        links.append((first, second, touches * np.where(same, 1.0, 0.5).astype(np.float32), step))
    inner = gap[..., None].astype(np.float32)

    def laplacian(values: NDArray[Any], steps: bool) -> NDArray[Any]:
        out = np.zeros_like(values)
        for first, second, weight, step in links:
            flow = weight[..., None] * (values[second] - values[first] - (step if steps else 0))
            out[first] -= flow
            out[second] += flow
        return (out + _KEEP * (values - copied * steps)) * inner

    residual = -laplacian(copied, True)
    change = np.zeros_like(copied)
    direction, energy = residual.copy(), float((residual**2).sum())
    first_energy = energy
    for _ in range(150):
        if energy <= 1e-5 * max(first_energy, 1e-9):
            break
        turned = laplacian(direction, False)
        rate = energy / max(float((direction * turned).sum()), 1e-12)
        change += rate * direction
        residual -= rate * turned
        previous, energy = energy, float((residual**2).sum())
        direction = residual + (energy / previous) * direction
    return np.clip(np.rint(copied + change), 0, 255).astype(np.uint8)
