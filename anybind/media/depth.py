"""Depth maps: 16-bit PNG in millimetres or as SUN RGB-D writes it, arrays and TIFF in metres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anybind.errors import UserError
from anybind.media.arrays import is_array, read_array
from anybind.media.caps import CAPS, Caps
from anybind.media.formats import brief
from anybind.media.image import check_size, open_checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUNRGBD_FAR = 8.0
"""Metres; SUN RGB-D's own toolbox cuts there."""


def decode_depth(
    data: bytes, label: str, *, sunrgbd: bool = False, caps: Caps = CAPS
) -> NDArray[np.float32]:
    """Decode a depth map to float32 [height, width] in metres; 0 where nothing was measured.

    - PNG or TIFF, 16 bits: millimetres, 0 is unmeasured. With `sunrgbd` the bits are first turned
      back, `(d >> 3) | (d << 13)`, and what is over 8 m is set to 8 m, as in SUN RGB-D's toolbox.
    - npy or TIFF of floats: metres; NaN is unmeasured too.

    Raises:
        UserError: damaged, over the caps, of another layout, negative, or without any measurement.
    """
    import numpy as np

    raw: NDArray[Any] = _array(data, label, caps) if is_array(data) else _picture(data, label, caps)
    metres: NDArray[np.float32]
    if raw.dtype.kind == "f":
        if sunrgbd:
            raise UserError(f"{label} holds floats; the encoding sunrgbd is of 16-bit pictures.")
        with np.errstate(over="ignore", invalid="ignore"):
            metres = raw.astype(np.float32)
        metres[np.isnan(metres)] = 0.0
    else:
        if sunrgbd:
            raw = (raw >> 3) | (raw << 13)
        metres = raw.astype(np.float32) / np.float32(1000.0)
        if sunrgbd:
            metres = np.minimum(metres, np.float32(_SUNRGBD_FAR))
    if not np.isfinite(metres).all() or (metres < 0).any():
        raise UserError(
            f"{label} holds depths that are negative or infinite; give metres, 0 for none."
        )
    if not metres.any():
        raise UserError(f"{label} is a depth map in which nothing was measured (all 0).")
    return metres


def _array(data: bytes, label: str, caps: Caps) -> NDArray[np.generic]:
    array = read_array(data, label, caps.pixels)
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(
            f"{label} is an array of shape {list(array.shape)}; a depth map is [height, width]."
        )
    if array.dtype.kind != "f":
        raise UserError(
            f"{label} holds whole numbers, which do not tell their unit; save metres as floats."
        )
    check_size(label, array.shape[1], array.shape[0], caps)
    return array


def _picture(data: bytes, label: str, caps: Caps) -> NDArray[np.generic]:
    """uint16 or float32 [height, width]."""
    import numpy as np

    picture = open_checked(data, label, caps, ("PNG", "TIFF"))
    try:
        pixels = np.asarray(picture)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise UserError(
            f"{label} is not a readable picture, or it is damaged: {brief(error)}"
        ) from error
    if picture.mode == "F":
        return pixels.astype(np.float32)
    if picture.mode.startswith("I") and pixels.ndim == 2:
        if pixels.min() < 0 or pixels.max() > 65_535:
            raise UserError(f"{label} has more than 16 bits a pixel; give 16-bit millimetres.")
        return pixels.astype(np.uint16)
    raise UserError(
        f"{label} is a picture of 8 bits or colours (mode {picture.mode}), which is no measured "
        "depth. Give a 16-bit PNG in millimetres, or metres as npy."
    )
