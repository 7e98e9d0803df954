"""Thermal pictures: any picture, taken as one channel of grey."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anybind.media.caps import CAPS, Caps
from anybind.media.image import FORMATS, rgb_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def decode_thermal(data: bytes, label: str, caps: Caps = CAPS) -> NDArray[np.uint8]:
    """Decode a thermal picture to uint8 [height, width].

    Eight bits of grey come through unchanged; sixteen are stretched to the range that the picture
    holds; colour becomes its luma (a false-colour palette is not undone). TIFF is taken too.

    Raises:
        UserError: damaged, or over the caps.
    """
    import numpy as np

    return np.array(rgb_of(data, label, caps, (*FORMATS, "TIFF")).convert("L"))
