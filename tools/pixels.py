"""Pictures as arrays and back. RGB uint8 [height, width, 3]; masks bool [height, width].

Knows no tool. Imported only while a tool runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.content import Image
from anybind.optional import require

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def opencv() -> Any:
    """The cv2 module.

    Raises:
        MissingExtra: OpenCV is not installed.
    """
    return require("cv2", "tools")


def pixels_of(image: Image) -> Rgb:
    """The pixels of a picture, writable."""
    return np.array(image.data.convert("RGB"), dtype=np.uint8)


def image_of(pixels: NDArray[Any], tool: str, *sources: Image) -> Image:
    """A picture made by a tool: RGB [h, w, 3], grey [h, w] (0..255), or a mask (white is True)."""
    from PIL import Image as pil

    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    shown = pil.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).convert("RGB")
    return Image.of(shown, made_by=f"tool:{tool}", sources=[s.name for s in sources if s.name])


def shrink(pixels: Rgb, side: int) -> Rgb:
    """The picture with its long side at most `side` pixels; never enlarged."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return opencv().resize(pixels, size, interpolation=opencv().INTER_AREA)


def enlarge_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask at another size (height, width first), its outline smooth rather than in steps."""
    cv2 = opencv()
    if mask.shape == shape[:2]:
        return mask
    soft = cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    step = max(shape[0] / mask.shape[0], shape[1] / mask.shape[1])
    return cv2.GaussianBlur(soft, (0, 0), max(0.6, 0.5 * step)) > 0.5


def disc(radius: int) -> NDArray[np.uint8]:
    """A round structuring element for dilation and erosion."""
    cv2 = opencv()
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def dilate(mask: Mask, radius: int) -> Mask:
    """The mask grown by `radius` pixels on all sides."""
    return opencv().dilate(mask.astype(np.uint8), disc(radius)).astype(bool)
