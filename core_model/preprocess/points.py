"""Point clouds for the point tower: centred, of radius 1, 8,192 points, always the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anybind.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

POINTS = 8192
"""What the released point encoders were given."""

_THINNED = 8
"""Clouds of more than this many times `n` points are thinned by chance before the farthest points
are looked for, which takes time of the order of points times `n`."""


def normalise(points: NDArray[Any]) -> NDArray[Any]:
    """Minus the mean, over the largest distance from it; the floating type is kept.

    Args:
        points: [N, 3].

    Raises:
        UserError: not a cloud: another shape, NaN or infinite, fewer than two points, or all in
            one place.
    """
    check(points)
    centred = points - points.mean(axis=0)
    radius = np.sqrt((centred**2).sum(axis=1)).max()
    if not np.isfinite(radius) or radius <= 0:
        raise UserError("The points of the cloud are all in one place, or too far apart.")
    return centred / radius


def check(points: NDArray[Any]) -> None:
    """Refuse what is no point cloud.

    Raises:
        UserError: see `normalise`.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"A point cloud is [points, 3], not {list(points.shape)}.")
    if points.dtype.kind != "f":
        raise UserError(f"A point cloud is of floats, not {points.dtype}.")
    if len(points) < 2:
        raise UserError(f"A point cloud of {len(points)} points has no shape; it needs more.")
    bad = int((~np.isfinite(points)).any(axis=1).sum())
    if bad:
        raise UserError(f"{bad} of {len(points)} points of the cloud are NaN or infinite.")
    if (points == points[0]).all():
        raise UserError(f"All {len(points)} points of the cloud lie in one place.")


def farthest_points(points: NDArray[Any], n: int, start: int = 0) -> NDArray[np.int64]:
    """Indices [n] of points far from one another: each next one is the farthest from those taken
    (Eldar et al. 1997). Ties go to the lower index, so the same cloud gives the same points.

    Args:
        points: [N, 3], N >= n.
        n: How many.
        start: Index of the first.

    Raises:
        ValueError: fewer points than asked for, or no such start.
    """
    if not 0 < n <= len(points) or not 0 <= start < len(points):
        raise ValueError(f"{n} farthest of {len(points)} points, from {start}")
    columns = [np.ascontiguousarray(points[:, i]) for i in range(3)]
    chosen = np.empty(n, np.int64)
    nearest = np.full(len(points), np.inf, points.dtype)
    at = start
    for i in range(n):
        chosen[i] = at
        # By direct subtraction: expanding the square loses the digits that decide near ties.
        apart = (columns[0] - columns[0][at]) ** 2
        apart += (columns[1] - columns[1][at]) ** 2
        apart += (columns[2] - columns[2][at]) ** 2
        np.minimum(nearest, apart, out=nearest)
        at = int(nearest.argmax())
    return chosen


def sample_points(points: NDArray[Any], n: int = POINTS) -> NDArray[Any]:
    """Exactly `n` of the points [n, 3], always the same ones.

    More than `n`: the farthest points from the first, out of 8 n drawn with a fixed seed where
    there are more than that. Fewer: all, then all again from the first until there are `n`,
    so that neighbourhoods hold some points twice.
    """
    check(points)
    if len(points) > _THINNED * n:
        drawn = np.random.default_rng(0).choice(len(points), _THINNED * n, replace=False)
        points = points[np.sort(drawn)]
    if len(points) > n:
        return points[farthest_points(points, n)]
    return points[np.arange(n) % len(points)]


def point_tensor(points: NDArray[Any], n: int = POINTS) -> Any:
    """A cloud as the point encoders take it: `n` points, centred, of radius 1.

    Returns:
        torch float32 [n, 3].

    Raises:
        UserError: see `normalise`.
    """
    import torch

    if len(points) > n:
        points = sample_points(points, n)
    # Points that are repeated to fill up must not move the centre.
    return torch.from_numpy(sample_points(normalise(points), n).astype(np.float32))
