"""Outlines of pictures: edges, straight lines, sketch strokes, soft boundaries.

All functions take RGB and give grey uint8 [height, width] of the same size, white on black, as
generators conditioned on outlines expect it. Knows no tool.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anybind.tools.pixels import Mask, Rgb, opencv, shrink

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]
_LINE_SIDE = 1024
_SOFT_SIDE = 1536


def edges(pixels: Rgb) -> Grey:
    """Thin edges (Canny). The thresholds follow the picture's own gradients."""
    cv2 = opencv()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(grey, (0, 0), max(1.0, max(grey.shape) / 900))
    gx, gy = cv2.Sobel(grey, cv2.CV_16S, 1, 0), cv2.Sobel(grey, cv2.CV_16S, 0, 1)
    strength = np.hypot(gx.astype(np.float32), gy.astype(np.float32))
    # Flat pictures keep their faint edges, busy ones lose texture; noise never counts.
    high = float(np.clip(np.quantile(strength, 0.92), 30, 220))
    return cv2.Canny(gx, gy, 0.45 * high, high, L2gradient=True)


def straight_lines(pixels: Rgb) -> tuple[Grey, NDArray[np.float32]]:
    """Straight lines drawn, and their ends [lines, 4] (x1, y1, x2, y2) in pixels, longest first.

    Pieces of one line are joined; what is shorter than a twenty-fifth of the diagonal is left out.
    """
    cv2 = opencv()
    height, width = pixels.shape[:2]
    small = shrink(pixels, _LINE_SIDE)
    grey = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (0, 0), 0.8)
    found = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(grey)[0]
    lines = np.zeros((0, 4), np.float32) if found is None else found.reshape(-1, 4)
    diagonal = float(np.hypot(*grey.shape))
    lines = _join(lines[_lengths(lines) > 0.012 * diagonal], diagonal)
    lines = lines[_lengths(lines) > 0.04 * diagonal]
    lines = lines[np.argsort(-_lengths(lines), kind="stable")]
    lines = lines * np.float32(width / small.shape[1])
    canvas = np.zeros((height, width), np.uint8)
    thick = max(1, round(min(height, width) / 320))
    for x1, y1, x2, y2 in lines:
        ends = (round(float(x1)), round(float(y1))), (round(float(x2)), round(float(y2)))
        cv2.line(canvas, *ends, 255, thick, cv2.LINE_AA)
    return canvas, lines


def sketch(pixels: Rgb) -> Grey:
    """Thick scribble-like strokes along the main outlines."""
    cv2 = opencv()
    height, width = pixels.shape[:2]
    soft = soft_edges(shrink(pixels, _SOFT_SIDE)).astype(np.float32) / 255
    short = min(soft.shape)
    ridge = cv2.GaussianBlur(soft, (0, 0), max(0.7, short / 450))
    # A stroke is where the soft edge stands out of its neighbourhood and is strong itself.
    around = cv2.GaussianBlur(ridge, (0, 0), max(3.0, short / 40))
    level = float(np.quantile(ridge, 0.88))
    strong = (ridge > around * 1.7) & (ridge > max(0.3, 1.2 * level))
    weak = (ridge > around * 1.4) & (ridge > max(0.12, 0.6 * level))
    strokes = _without_short(_linked(strong, weak), 0.08 * short)
    bold = strokes.astype(np.float32) * 255
    # Round and smooth, as a felt pen would.
    smooth = cv2.GaussianBlur(bold, (0, 0), max(0.8, short / 260))
    if smooth.shape != (height, width):
        smooth = cv2.resize(smooth, (width, height))
    return np.where(smooth > 90, np.uint8(255), np.uint8(0))


def soft_edges(pixels: Rgb) -> Grey:
    """Boundaries with their strength, smooth and not thinned (as holistic edge maps are).

    Colour differences at several scales; even texture is played down.
    """
    cv2 = opencv()
    height, width = pixels.shape[:2]
    lab = cv2.cvtColor(shrink(pixels, _SOFT_SIDE), cv2.COLOR_RGB2Lab).astype(np.float32)
    short = min(lab.shape[:2])
    unit = max(0.7, short / 400)
    total = np.zeros(lab.shape[:2], np.float32)
    for sigma, weight in ((1.0, 0.3), (2.2, 0.4), (4.5, 0.3)):
        blurred = cv2.GaussianBlur(lab, (0, 0), sigma * unit)
        strength = _colour_gradient(blurred) * sigma * unit
        # Texture is strong everywhere around, an outline only here.
        around = cv2.GaussianBlur(strength, (0, 0), 14 * unit)
        total += weight * strength * strength / (strength + 0.9 * around + 1.5)
    total = _suppress_sides(total, unit)
    top = max(float(np.quantile(total, 0.995)), 2.0)
    shown = np.clip(total / top, 0, 1) ** 0.8
    grey = (255 * shown).astype(np.uint8)
    return grey if grey.shape == (height, width) else cv2.resize(grey, (width, height))


def _colour_gradient(lab: Floats) -> Floats:
    """Largest rate of change over directions of a colour picture (Di Zenzo), per pixel."""
    cv2 = opencv()
    # Sobel weighs 8; replicated borders make no false edge at the rim.
    gx = cv2.Sobel(lab, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE) / 8
    gy = cv2.Sobel(lab, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE) / 8
    xx, yy, xy = (gx * gx).sum(2), (gy * gy).sum(2), (gx * gy).sum(2)
    return np.sqrt(0.5 * (xx + yy + np.sqrt((xx - yy) ** 2 + 4 * xy * xy)))


def _suppress_sides(strength: Floats, unit: float) -> Floats:
    """Lines instead of bands: what is weaker than the crest nearby fades."""
    cv2 = opencv()
    side = 2 * max(1, round(1.6 * unit)) + 1
    crest = cv2.dilate(strength, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    share = strength / np.maximum(crest, 1e-6)
    return cv2.GaussianBlur(strength * share**3, (0, 0), 0.6 * unit)


def _linked(strong: Mask, weak: Mask) -> Mask:
    """Weak pixels that hang together with strong ones (hysteresis)."""
    cv2 = opencv()
    _, labels = cv2.connectedComponents((strong | weak).astype(np.uint8), connectivity=8)
    keep = np.unique(labels[strong])
    return np.isin(labels, keep[keep > 0])


def _without_short(mask: Mask, least: float) -> Mask:
    cv2 = opencv()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    span = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    keep = np.flatnonzero(span >= least)
    return np.isin(labels, keep[keep > 0])


def _lengths(lines: Floats) -> Floats:
    return np.hypot(lines[:, 2] - lines[:, 0], lines[:, 3] - lines[:, 1])


def _join(lines: Floats, diagonal: float) -> Floats:
    """Merge pieces that lie on one line with a small gap, longest first."""
    pool: list[Floats] = list(lines[np.argsort(-_lengths(lines), kind="stable")])
    joined: list[Floats] = []
    while pool:
        line = pool.pop(0)
        grown = True
        while grown and pool:
            grown = False
            rest = np.stack(pool)
            origin, length = line[:2], max(float(np.hypot(*(line[2:] - line[:2]))), 1e-6)
            along = (line[2:] - line[:2]) / length
            ends = rest.reshape(-1, 2, 2) - origin
            t = ends @ along
            off = np.abs(ends @ np.array([-along[1], along[0]], np.float32)).max(axis=1)
            gap = np.maximum(t.min(axis=1) - length, -t.max(axis=1))
            lean = off / np.maximum(np.ptp(t, axis=1), 1e-6)
            fits = (off < 0.003 * diagonal) & (gap < 0.015 * diagonal) & (lean < 0.09)
            if fits.any():
                reach = np.concatenate([[0.0, length], t[fits].ravel()])
                line = np.concatenate([origin + reach.min() * along, origin + reach.max() * along])
                line = line.astype(np.float32)
                pool = [piece for piece, taken in zip(pool, fits, strict=True) if not taken]
                grown = True
        joined.append(line)
    return np.stack(joined) if joined else np.zeros((0, 4), np.float32)
