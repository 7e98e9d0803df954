"""Pictures for the vision tower: short side to size, centre crop, CLIP's mean and deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anybind.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of the channels red, green, blue, in 0..1 (Radford et al. 2021, released code)."""
STD = (0.26862954, 0.26130258, 0.27577711)


def image_tensor(picture: PILImage, size: int = 224) -> Tensor:
    """A picture as the image encoder of ImageBind takes it.

    Bicubic with antialiasing to a short side of `size` (the long side cut to whole pixels), centre
    crop, 0..1, minus mean, over deviation.

    Args:
        picture: Mode RGB.
        size: Pixels a side.

    Returns:
        float32 [3, size, size].
    """
    pixels = torch.from_numpy(np.array(cropped(picture.convert("RGB"), size)))
    return normalise(pixels.permute(2, 0, 1).float() / 255.0)


def normalise(pixels: Tensor) -> Tensor:
    """Minus mean, over deviation, for pixels in 0..1 [3, ...]."""
    shape = (3,) + (1,) * (pixels.ndim - 1)
    return (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)


def cropped(picture: PILImage, size: int) -> PILImage:
    """Short side to `size` by Pillow's bicubic, then the centre; any mode of one or more bands.

    Raises:
        UserError: so narrow that the scaled picture would be absurdly long.
    """
    from PIL.Image import Resampling

    width, height = scaled_size(*picture.size, size)
    scaled = picture.resize((width, height), Resampling.BICUBIC)
    # Half a pixel goes to the even side, as Python's `round` has it.
    left, top = round((width - size) / 2), round((height - size) / 2)
    return scaled.crop((left, top, left + size, top + size))


def scaled_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height once the short side is `size`; the long side is cut to whole pixels.

    Raises:
        UserError: more than 100 times as long as wide.
    """
    short, long = min(width, height), max(width, height)
    if short < 1 or long > 100 * short:
        raise UserError(
            f"A picture of {width} x {height} pixels is too narrow to look at; crop it first."
        )
    other = int(size * long / short)
    return (size, other) if width <= height else (other, size)
