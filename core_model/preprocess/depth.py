"""Depth maps for the depth tower: metres to disparity, as far as it is known.

No loader for depth was released with ImageBind. Baseline, limits and the mean and deviation are
those its authors and users have named; the division by 75 is that of Omnivore's published
transform, from which the mean and deviation come (without it they fit no real depth map). What
was done with unmeasured pixels is unknown: here they are taken as infinitely far, disparity 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anybind.core_model.preprocess.image import cropped
from anybind.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEAN, STD = 0.0418, 0.0295
NEAR, FAR = 0.01, 50.0
"""Metres to which depth is clipped."""
BASELINES = {"kv1": 0.075, "kv2": 0.075, "realsense": 0.095, "xtion": 0.095}
"""Metres between the eyes of the sensors of SUN RGB-D."""
FOCAL = 518.857901
"""Pixels: the Kinect of NYUv2 at 640 x 480."""
MAX_DISPARITY = 75.0


def depth_tensor(
    metres: NDArray[np.float32],
    *,
    baseline: float = 0.075,
    focal: float = FOCAL,
    size: int = 224,
    divisor: float = MAX_DISPARITY,
) -> Tensor:
    """A depth map as the depth encoder of ImageBind takes it.

    Disparity `baseline * focal / clip(metres, 0.01, 50)`, no more than 75, over `divisor`; short
    side to `size` (bicubic), centre crop, minus mean, over deviation.

    Args:
        metres: [height, width], 0 where nothing was measured.
        baseline: Metres between projector and camera; see `BASELINES`.
        focal: Focal length in pixels of the map as it is given.
        size: Pixels a side.
        divisor: What the disparity is divided by; 1 for the bare disparity.

    Returns:
        float32 [1, size, size].

    Raises:
        UserError: not a map, or depths that are negative or not finite.
    """
    from PIL import Image as pil

    depth = np.asarray(metres, np.float32)
    if depth.ndim != 2 or depth.size == 0:
        raise UserError(f"A depth map is [height, width] in metres, not {list(depth.shape)}.")
    if not np.isfinite(depth).all() or (depth < 0).any():
        raise UserError("The depth map holds depths that are negative or not finite.")
    disparity = baseline * focal / np.clip(depth, NEAR, FAR)
    disparity = np.where(depth > 0, np.minimum(disparity, MAX_DISPARITY), 0.0) / divisor
    picture = cropped(pil.fromarray(disparity.astype(np.float32)), size)
    return (torch.from_numpy(np.array(picture))[None] - MEAN) / STD
