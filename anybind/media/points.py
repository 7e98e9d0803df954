"""Point clouds: which reader takes which format, and what a cloud must be to be of use.

Point files keep their points; meshes are sampled on their surface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anybind.errors import UserError
from anybind.media.arrays import as_float, is_array, read_array, read_lines, read_table
from anybind.media.caps import CAPS, Caps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MESHES = {
    "model/obj": "obj",
    "model/stl": "stl",
    "model/off": "off",
    "model/gltf-binary": "glb",
}


def decode_points(
    data: bytes, label: str, media_type: str = "", caps: Caps = CAPS
) -> NDArray[np.float32]:
    """Decode a point cloud to float32 [points, 3]; colours and other columns are left out.

    ply, pcd, npy, npz, text (xyz, pts, csv) keep their points. A mesh (obj, stl, off, glb, and ply
    with faces) is sampled: `anybind.media.mesh.SURFACE_POINTS` points, even over the surface, the
    same at every reading. Files of those formats without faces keep their vertices.

    Raises:
        UserError: damaged, over the caps, or no cloud to work with: no point, one point, all
            points in one place, NaN or infinite coordinates.
    """
    return check_cloud(_read(data, label, media_type, caps), label)


def decode_array_points(
    data: bytes, label: str, media_type: str, caps: Caps = CAPS
) -> NDArray[np.float32]:
    """An npy or npz file that nobody said is a cloud: only [N, 3] leaves no doubt.

    Raises:
        UserError: another shape; says how to say what it is.
    """
    shape = read_array(data, label, caps.points * 16).shape
    if len(shape) != 2 or shape[1] != 3 or shape[0] < 2:
        raise UserError(
            f"{label} is an array of shape {list(shape)}, which does not tell what it holds. Say "
            f"so: point:{label} for points [N, 3 or more], depth:{label} for metres [height, "
            f"width], imu:{label} for readings [steps, 6]."
        )
    return decode_points(data, label, media_type, caps)


def _read(data: bytes, label: str, media_type: str, caps: Caps) -> NDArray[np.float64]:
    from anybind.media.mesh import mesh_points
    from anybind.media.pcd import read_pcd
    from anybind.media.ply import read_ply

    if is_array(data):
        return _array(data, label, caps)
    if media_type == "model/ply":
        return read_ply(data, label, caps)
    if media_type == "model/pcd":
        return read_pcd(data, label, caps)
    if media_type in _MESHES:
        return mesh_points(data, label, _MESHES[media_type], caps)
    if media_type in ("model/xyz", "model/pts", "text/plain", ""):
        return _table(data, label, caps)
    raise UserError(f"{label} is {media_type}, not a point cloud.")


def _array(data: bytes, label: str, caps: Caps) -> NDArray[np.float64]:
    array = read_array(data, label, caps.points * 16)
    if array.ndim != 2 or array.shape[1] < 3:
        raise UserError(
            f"{label} is an array of shape {list(array.shape)}; a point cloud is [points, 3 or "
            "more], x y z first."
        )
    _check_count(array.shape[0], label, caps)
    return as_float(array[:, :3])


def _table(data: bytes, label: str, caps: Caps) -> NDArray[np.float64]:
    """Rows of x y z and whatever follows; a first line with one number is the count (pts)."""
    lines = read_lines(data, label, caps.points)
    first = 1
    if lines and lines[0].isdecimal() and lines[0].isascii() and len(lines[0]) < 12:
        declared = int(lines[0])
        if declared != len(lines) - 1:
            raise UserError(
                f"{label} is damaged: it declares {declared} points and holds {len(lines) - 1}."
            )
        lines, first = lines[1:], 2
    elif lines and not _numbers(lines[0]):
        lines, first = lines[1:], 2  # a heading: "x y z ..."
    _check_count(len(lines), label, caps)
    return read_table(lines, label, 3, first)[:, :3]


def _numbers(line: str) -> bool:
    from anybind.media.arrays import fields

    try:
        return bool([float(c) for c in fields(line)])
    except ValueError:
        return any(c.isdigit() for c in line)  # damaged numbers are no heading


def _check_count(count: int, label: str, caps: Caps) -> None:
    if count > caps.points:
        raise UserError(
            f"{label} has {count} points; the limit is {caps.points}. Thin the cloud out first."
        )


def check_cloud(points: NDArray[np.generic], label: str) -> NDArray[np.float32]:
    """The cloud as float32 [points, 3], if it is one.

    Raises:
        UserError: no point, one point, all in one place, or coordinates that are not finite.
    """
    import numpy as np

    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"{label}: a point cloud is [points, 3], not {list(points.shape)}.")
    if len(points) == 0:
        raise UserError(f"{label} is a point cloud without points.")
    with np.errstate(over="ignore", invalid="ignore"):
        cloud = np.ascontiguousarray(points, dtype=np.float32)
    bad = int((~np.isfinite(cloud)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"{label}: {bad} of {len(cloud)} points have coordinates that are not finite (NaN, or "
            "too large); remove them first."
        )
    if len(cloud) == 1:
        raise UserError(f"{label} has one point only, and no shape; a cloud needs more.")
    if (cloud == cloud[0]).all():
        raise UserError(f"{label}: all {len(cloud)} points lie in one place; it has no shape.")
    return cloud
