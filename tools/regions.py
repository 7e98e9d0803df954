"""Cuts a whole picture into regions of one colour and texture, without knowing what they are.

Felzenszwalb and Huttenlocher's graph segmentation on a smoothed picture, then small and similar
neighbours are merged. Knows no tool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.tools.pixels import Mask, Rgb, opencv, shrink

Labels = NDArray[np.intp]
_OVERLAYS = ((255, 56, 72), (20, 130, 255), (40, 220, 90))
_WORK_SIDE = 256
_MOST = 32
_ALIKE = 13.0


def segment(pixels: Rgb) -> Labels:
    """Region of each pixel [height, width], numbered from 0 by falling area."""
    cv2 = opencv()
    small = shrink(pixels, _WORK_SIDE)
    smooth = cv2.pyrMeanShiftFiltering(small, 7, 15) if min(small.shape[:2]) >= 8 else small
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2Lab).astype(np.float32)
    labels = _merge_similar(lab, _graph_regions(lab))
    return _by_area(_enlarge(labels, pixels.shape))


def paint(pixels: Rgb, labels: Labels, strength: float = 0.62) -> Rgb:
    """The picture with every region in its own colour and a fine dark line between them."""
    colours = palette(int(labels.max()) + 1)
    mixed = (1 - strength) * _grey(pixels)[..., None] + strength * colours[labels]
    mixed[_borders(labels)] *= 0.25
    return np.clip(mixed, 0, 255).astype(np.uint8)


def paint_mask(pixels: Rgb, mask: Mask) -> Rgb:
    """The picture with a mask laid over it in colour, outlined, and the rest paled."""
    cv2 = opencv()
    own = pixels[mask].mean(axis=0)
    colour = max(_OVERLAYS, key=lambda c: float(np.linalg.norm(own - c)))
    out = pixels.astype(np.float32)
    out[~mask] = 0.55 * out[~mask] + 0.45 * _grey(pixels)[~mask][:, None] * 0.85
    out[mask] = 0.5 * out[mask] + 0.5 * np.array(colour, np.float32)
    shown = np.clip(out, 0, 255).astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thick = max(1, round(min(mask.shape) / 220))
    cv2.drawContours(shown, outline, -1, (20, 20, 20), thick + 2, cv2.LINE_AA)
    cv2.drawContours(shown, outline, -1, (255, 255, 255), thick, cv2.LINE_AA)
    return shown


def palette(count: int) -> NDArray[np.float32]:
    """`count` colours [count, 3], neighbours in the list far apart (golden-angle hues)."""
    cv2 = opencv()
    index = np.arange(count)
    hue = (index * 0.618034 % 1.0) * 180
    hsv = np.stack([hue, 255 - 55 * (index % 3), 255 - 45 * (index // 3 % 3)], axis=1)
    rgb = cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    return rgb.astype(np.float32)


def _grey(pixels: Rgb) -> NDArray[np.float32]:
    return opencv().cvtColor(pixels, opencv().COLOR_RGB2GRAY).astype(np.float32)


def _borders(labels: Labels) -> Mask:
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    return border


def _graph_regions(lab: NDArray[np.float32], scale: float = 220.0) -> Labels:
    """Joins pixels along weak edges first, while the edge is weaker than the regions' own."""
    height, width = lab.shape[:2]
    index: Any = np.arange(height * width, dtype=np.intp).reshape((height, width))
    firsts: list[Labels] = []
    seconds: list[Labels] = []
    weights: list[NDArray[np.float32]] = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        b = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
        firsts.append(index[a].ravel())
        seconds.append(index[b].ravel())
        weights.append(np.linalg.norm(lab[a] - lab[b], axis=2).ravel())
    weight = np.concatenate(weights)
    order = np.argsort(weight, kind="stable")
    first, second = np.concatenate(firsts)[order].tolist(), np.concatenate(seconds)[order].tolist()
    parent = list(range(height * width))
    size = [1] * len(parent)
    limit = [scale] * len(parent)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b, w in zip(first, second, weight[order].tolist(), strict=True):
        ra, rb = root(a), root(b)
        if ra != rb and w <= limit[ra] and w <= limit[rb]:
            if size[ra] < size[rb]:
                ra, rb = rb, ra
            parent[rb] = ra
            size[ra] += size[rb]
            limit[ra] = w + scale / size[ra]
    roots = np.array([root(node) for node in range(len(parent))])
    return np.unique(roots, return_inverse=True)[1].reshape(height, width)


def _merge_similar(lab: NDArray[np.float32], labels: Labels) -> Labels:
    """Merge neighbours until none is tiny or alike, and at most `_MOST` are left."""
    count = int(labels.max()) + 1
    area = np.bincount(labels.ravel(), minlength=count).astype(float)
    mean = np.stack(
        [np.bincount(labels.ravel(), lab[..., c].ravel(), count) / area for c in range(3)], axis=1
    )
    near = _neighbours(lab, labels)
    parent = np.arange(count)
    alive = set(range(count))
    tiny = max(8.0, 0.002 * labels.size)

    def cost(a: int, b: int) -> float:
        """Colour distance of the two and of their common border; small ones join more easily."""
        border, length = near[a][b]
        small = min(1.0, min(area[a], area[b]) / (0.01 * labels.size))
        # Lightness counts less: one thing has light and shade.
        apart = float(np.linalg.norm((mean[a] - mean[b]) * (0.6, 1.3, 1.3)))
        return (0.4 * apart + 0.8 * border / length) * (0.35 + 0.65 * small)

    while len(alive) > 1:
        one = min(alive, key=lambda r: (area[r], r))
        if area[one] < tiny or len(alive) > 4 * _MOST:
            two = min(near[one], key=lambda r: (cost(one, r), r))
        else:
            least, one, two = min((cost(a, b), a, b) for a in alive for b in near[a] if a < b)
            if least > _ALIKE and len(alive) <= _MOST:
                break
        if area[one] > area[two]:
            one, two = two, one
        total = area[one] + area[two]
        mean[two] = (mean[one] * area[one] + mean[two] * area[two]) / total
        area[two] = total
        parent[one] = two
        alive.remove(one)
        for other, (border, length) in near.pop(one).items():
            del near[other][one]
            if other != two:
                before = near[two].get(other, (0.0, 0.0))
                near[two][other] = near[other][two] = before[0] + border, before[1] + length
    while (parent != parent[parent]).any():
        parent = parent[parent]
    return parent[labels]


def _neighbours(
    lab: NDArray[np.float32], labels: Labels
) -> dict[int, dict[int, tuple[float, float]]]:
    """For each region its neighbours, with the sum of colour steps over their border and its
    length. Steps are measured over a few pixels, so that soft outlines count and noise doesn't.
    """
    soft = opencv().GaussianBlur(lab, (0, 0), 1.0)
    near: dict[int, dict[int, tuple[float, float]]] = {int(r): {} for r in np.unique(labels)}
    for axis in (0, 1):
        last = labels.shape[axis] - 1
        at = np.arange(last, dtype=np.intp)
        ahead = np.take(soft, np.minimum(at + 2, last), axis)
        behind = np.take(soft, np.maximum(at - 1, 0), axis)
        step = np.linalg.norm((ahead - behind) * (0.6, 1.3, 1.3), axis=2)
        first = np.moveaxis(labels, axis, 0)[:-1]
        second = np.moveaxis(labels, axis, 0)[1:]
        steps = np.moveaxis(step, axis, 0)
        across = first != second
        pairs = np.sort(np.stack([first[across], second[across]], axis=1), axis=1)
        kinds, which = np.unique(pairs, axis=0, return_inverse=True)
        sums = np.bincount(which.ravel(), steps[across], len(kinds))
        for (a, b), total, length in zip(
            kinds.tolist(), sums.tolist(), np.bincount(which.ravel()).tolist(), strict=True
        ):
            before = near[a].get(b, (0.0, 0.0))
            near[a][b] = near[b][a] = before[0] + total, before[1] + length
    return near


def _enlarge(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """At full size with smooth outlines: a vote of the neighbourhood, not squares."""
    cv2 = opencv()
    if labels.shape == shape[:2]:
        return labels
    size = shape[1], shape[0]
    step = max(shape[0] / labels.shape[0], shape[1] / labels.shape[1])
    best = np.full(shape[:2], -1.0, np.float32)
    out = np.zeros(shape[:2], np.intp)
    for region in np.unique(labels):
        soft = cv2.resize((labels == region).astype(np.float32), size)
        soft = cv2.GaussianBlur(soft, (0, 0), 0.6 * step)
        more = soft > best
        best[more], out[more] = soft[more], region
    return out


def _by_area(labels: Labels) -> Labels:
    regions, flat = np.unique(labels, return_inverse=True)
    area = np.bincount(flat.ravel(), minlength=len(regions))
    rank = np.empty(len(regions), np.intp)
    rank[np.argsort(-area, kind="stable")] = np.arange(len(regions))
    return rank[flat].reshape(labels.shape)
