"""Pictures changed at random before they are encoded: cropped, mirrored, other colours.

A picture stays as large as it was. What is done to it is decided by the settings and one number, so
that a run that is taken up again sees what it would have seen. Knows pictures and numbers only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
_Share = Annotated[float, Field(gt=0, le=1)]
_Ratio = Annotated[float, Field(gt=0)]
_Change = Annotated[float, Field(ge=0, le=1)]


class AugmentConfig(BaseModel):
    """How pictures are changed."""

    model_config = _STRICT

    crop: tuple[_Share, _Share] = (0.5, 1.0)
    """Least and largest share of the area that is kept, brought back to the picture's size."""
    ratio: tuple[_Ratio, _Ratio] = (0.8, 1.25)
    """Least and largest width to height of what is kept, relative to the picture's own."""
    flip: _Change = 0.0
    """How often it is mirrored. Off: answers may speak of left and right, and pictures hold words."""
    brightness: _Change = 0.2
    """Largest change, as a share; likewise of the next two."""
    contrast: _Change = 0.2
    saturation: _Change = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Largest turn of the colours, as a share of the whole circle."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("crop", "ratio"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name} is [least, most], not [{least:g}, {most:g}]")
        return self


class ImagesConfig(BaseModel):
    """What a stage does with pictures."""

    model_config = _STRICT

    augment: AugmentConfig | None = None
    """None: they are taken as they are."""


def augmented(picture: PILImage, config: AugmentConfig, draw: int) -> PILImage:
    """A changed copy of an RGB picture, of the same size [width, height].

    Args:
        picture: In mode RGB.
        config: What may be done.
        draw: Decides what is done; the same number does the same.
    """
    from PIL import Image, ImageEnhance

    # All numbers are drawn whatever is used of them: a setting does not change what another does.
    share, shape, across, down, mirror, *colours = np.random.default_rng(draw).random(9).tolist()
    width, height = picture.size
    area = config.crop[0] + share * (config.crop[1] - config.crop[0])
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    ratio = math.exp(low + shape * (high - low))
    wide = min(width * math.sqrt(area * ratio), width)
    tall = min(height * math.sqrt(area / ratio), height)
    if (wide, tall) != (width, height):
        left, top = across * (width - wide), down * (height - tall)
        box = (left, top, min(left + wide, width), min(top + tall, height))
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if mirror < config.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tools = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    limits = (config.brightness, config.contrast, config.saturation)
    for tool, limit, colour in zip(tools, limits, colours[:3], strict=True):
        if limit:
            picture = tool(picture).enhance(1 + limit * (2 * colour - 1))
    turn = round(256 * config.hue * (2 * colours[3] - 1)) % 256
    return _turned(picture, turn) if turn else picture


def _turned(picture: PILImage, turn: int) -> PILImage:
    """Colours turned by `turn` of 256 parts of the circle."""
    from PIL import Image

    hue, saturation, value = picture.convert("HSV").split()
    moved = hue.point([(i + turn) % 256 for i in range(256)])
    return Image.merge("HSV", (moved, saturation, value)).convert("RGB")
