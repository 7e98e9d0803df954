"""Meshes: obj, stl, off and glb through trimesh, and points on the surface of any mesh.

Materials, textures and files that a mesh names are never followed.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anybind.errors import UserError
from anybind.media.arrays import read_lines
from anybind.media.caps import Caps
from anybind.media.formats import brief
from anybind.optional import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SURFACE_POINTS = 8192
"""Points taken from the surface of a mesh."""


def mesh_points(data: bytes, label: str, form: str, caps: Caps) -> NDArray[np.float64]:
    """Points [N, 3]: on the surface, or the vertices of a file without faces.

    Args:
        data: The file.
        label: Its name, for messages.
        form: "obj", "stl", "off" or "glb".
        caps: Limits.

    Raises:
        UserError: damaged, or over the caps.
    """
    import numpy as np

    if form == "obj":
        points = _loose(data, label, caps)
        if points is not None:
            return points
    elif form == "glb":
        from anybind.media.glb import stripped

        data = stripped(data, label, caps)
    trimesh: Any = require("trimesh", "points")
    # It logs what it tries on damaged files; without a handler that would go to the terminal.
    logging.getLogger("trimesh").addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers in damaged files; they are checked below
            loaded = trimesh.load(
                io.BytesIO(data), file_type=form, process=False, skip_materials=True
            )
            vertices, faces = _flattened(loaded)
    except Exception as error:  # trimesh's readers raise nearly anything on damaged files
        raise UserError(
            f"{label} is not a readable {form} file, or it is damaged: {brief(error)}"
        ) from error
    if len(vertices) > 3 * caps.points:
        raise UserError(f"{label} has {len(vertices)} points; the limit is {caps.points}.")
    return on_surface(vertices, faces, label) if len(faces) else np.asarray(vertices, np.float64)


def _flattened(loaded: Any) -> tuple[Any, Any]:
    """Vertices and triangles of everything in a scene, in its place."""
    import numpy as np

    if not hasattr(loaded, "graph"):
        return loaded.vertices, getattr(loaded, "faces", ())
    vertices: list[Any] = [np.zeros((0, 3))]
    faces: list[Any] = [np.zeros((0, 3), np.int64)]
    total = 0
    for name in loaded.graph.nodes_geometry:
        matrix, which = loaded.graph[name]
        part = loaded.geometry[which]
        placed = np.asarray(part.vertices) @ matrix[:3, :3].T + matrix[:3, 3]
        if hasattr(part, "faces"):
            faces.append(np.asarray(part.faces) + total)
        vertices.append(placed)
        total += len(placed)
    return np.concatenate(vertices), np.concatenate(faces)


def _loose(data: bytes, label: str, caps: Caps) -> NDArray[np.float64] | None:
    """The vertices of an obj file without faces; None if it has any."""
    import numpy as np

    rows: list[list[float]] = []
    for line in read_lines(data, label, 4 * caps.points):
        words = line.split(None, 4)
        if words[0] == "f":
            return None
        if words[0] == "v":
            try:
                rows.append([float(w) for w in words[1:4]])
            except ValueError as error:
                raise UserError(f"{label}: not a vertex: {line[:60]!r}") from error
            if len(rows[-1]) != 3:
                raise UserError(f"{label}: not a vertex: {line[:60]!r}")
    if len(rows) > caps.points:
        raise UserError(f"{label} has {len(rows)} points; the limit is {caps.points}.")
    return np.array(rows, np.float64).reshape(-1, 3)


def on_surface(
    vertices: Any, faces: Sequence[tuple[int, int, int]] | Any, label: str
) -> NDArray[np.float64]:
    """`SURFACE_POINTS` points spread evenly over triangles [F, 3]; the same at every call.

    A triangle is drawn with a chance of its area, then a point in it by barycentric coordinates
    `(1 - sqrt u, sqrt u (1 - v), sqrt u v)` (Osada et al. 2002, eq. 1).

    Raises:
        UserError: corners that do not exist or are not finite, or no area.
    """
    import numpy as np

    corners = np.asarray(vertices, np.float64)
    index = np.asarray(faces, np.int64).reshape(-1, 3)
    if len(index) and (index.min() < 0 or index.max() >= len(corners)):
        raise UserError(f"{label} is damaged: a face names a corner that is not there.")
    a, b, c = (corners[index[:, i]] for i in range(3))
    with np.errstate(all="ignore"):
        areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        upto: NDArray[np.float64] = np.cumsum(areas)
    if not len(upto) or not np.isfinite(upto[-1]) or upto[-1] <= 0:
        raise UserError(f"{label} is a mesh without a surface (no area, or corners not finite).")
    rng = np.random.default_rng(0)
    drawn: NDArray[np.float64] = rng.random(SURFACE_POINTS) * upto[-1]
    chosen = np.minimum(np.searchsorted(upto, drawn, side="right"), len(index) - 1)
    root, v = np.sqrt(rng.random((SURFACE_POINTS, 1))), rng.random((SURFACE_POINTS, 1))
    return (1 - root) * a[chosen] + root * (1 - v) * b[chosen] + root * v * c[chosen]
