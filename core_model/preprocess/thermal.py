"""Thermal pictures for the thermal tower: grey in 0..1, and nothing more.

No loader was released with ImageBind. That there is no mean and deviation is what its users found
best (LLVIP, 62.4 % without against 55.2 % with those of pictures).
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


def thermal_tensor(grey: NDArray[np.uint8], size: int = 224) -> Tensor:
    """A thermal picture as the thermal encoder of ImageBind takes it.

    Short side to `size` (bicubic), centre crop, 0..1.

    Args:
        grey: uint8 [height, width].
        size: Pixels a side.

    Returns:
        float32 [1, size, size].

    Raises:
        UserError: not a grey picture of 8 bits.
    """
    from PIL import Image as pil

    if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
        raise UserError(
            f"A thermal picture is uint8 [height, width], not {grey.dtype} {list(grey.shape)}."
        )
    return torch.from_numpy(np.array(cropped(pil.fromarray(grey), size)))[None].float() / 255.0
