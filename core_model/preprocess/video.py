"""Films for the vision tower: clips of two seconds, two frames each, three crops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from anybind.content import Footage
from anybind.core_model.preprocess.clips import clip_times
from anybind.core_model.preprocess.image import normalise
from anybind.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def video_clips(
    footage: Footage,
    *,
    clips: int = 5,
    seconds: float = 2.0,
    frames: int = 2,
    crops: int = 3,
    size: int = 224,
) -> Tensor:
    """A film as the vision encoder of ImageBind takes it.

    Args:
        footage: The film; only what the clips show is decoded.
        clips: Clips, even over the film.
        seconds: Length of a clip.
        frames: Frames of each, even over the clip, first and last included.
        crops: 1 (centre) or 3 (left, centre, right; top, centre, bottom of an upright film).
        size: Pixels a side.

    Returns:
        float32 [clips * crops, 3, frames, size, size], the crops of a clip together.

    Raises:
        UserError: damaged, or a clip in which the film shows no frame.
    """
    made: list[Tensor] = []
    for start, end in clip_times(footage.duration, seconds, clips):
        picked = footage.pick(start, end, frames)
        if not len(picked):
            raise UserError(
                f"The film shows no frame between {float(start):.2f} s and {float(end):.2f} s, "
                f"though its duration is given as {footage.duration:.2f} s; it may be damaged."
            )
        made.append(clip_crops(torch.from_numpy(picked), crops=crops, size=size))
    return torch.cat(made)


def subsample(frames: NDArray[np.uint8] | Tensor, count: int) -> Tensor:
    """`count` frames evenly of the first dimension, first and last included."""
    taken = torch.as_tensor(frames)
    steps = max(count - 1, 1)
    return taken[[i * (len(taken) - 1) // steps for i in range(count)]]


def clip_crops(frames: Tensor, *, crops: int = 3, size: int = 224) -> Tensor:
    """Crops of the frames of one clip.

    Short side to `size`, bilinear without antialiasing, the long side cut to whole pixels; 0..1,
    minus mean, over deviation; then square crops along the long side, the one in the middle
    rounded up.

    Args:
        frames: uint8 [T, height, width, 3], those to be shown (see `subsample`).
        crops: 1 or 3.
        size: Pixels a side.

    Returns:
        float32 [crops, 3, T, size, size].
    """
    if crops not in (1, 3):
        raise ValueError(f"crops are 1 or 3, not {crops}")
    pixels = frames.permute(3, 0, 1, 2).float() / 255.0
    height, width = scaled_sides(pixels.shape[-2], pixels.shape[-1], size)
    pixels = normalise(F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False))
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    places = [(top, left)]
    if crops == 3 and height > width:
        places = [(0, left), (top, left), (height - size, left)]
    elif crops == 3:
        places = [(top, 0), (top, left), (top, width - size)]
    return torch.stack([pixels[..., y : y + size, x : x + size] for y, x in places])


def scaled_sides(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width once the short side is `size`; the long side is cut to whole pixels.

    Raises:
        UserError: more than 100 times as long as wide.
    """
    if max(height, width) > 100 * min(height, width):
        raise UserError(f"A film of {width} x {height} pixels is too narrow to look at.")
    if width < height:
        return math.floor(height / width * size), size
    return size, math.floor(width / height * size)
