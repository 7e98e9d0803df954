"""What the eye sees in a picture, cell by cell, and how far it bears out a phrase.

The backbone's classifier is linear and its features are pooled by the mean, so it can be asked of
every cell of the feature map as well as of the whole. A phrase is weighed by the classes that
bear it as a name or as the name of a kind above them. Knows logits and cosines; which phrases to
ask for and what to call the answer, `dense_grounding` knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.encoders.efficientnet import pixels

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from anybind.core_model.encoders.image_hub import ImageEncoder, ImageHub

SHORT_SIDES = (256, 416)
"""The picture is looked at twice, with these short sides in pixels: context, then detail."""

_MOST_OBLONG = 1.8
_CELL = 32
_FLOOR = 1e-6
_LOUDEST = 1e9


@dataclass(frozen=True, slots=True)
class Sight:
    """One picture as the eye sees it."""

    whole: Tensor
    """Class logits of the picture [K]."""
    cells: Tensor
    """Class logits of its cells [K, h, w], row by row from the top left."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How far a picture bears out phrases; natural logarithms."""

    picture: Tensor
    """Share of the picture's class probability that bears the phrase [P]."""
    place: Tensor
    """The same in the best part of the picture [P]."""
    chance: Tensor
    """The same if the eye saw nothing: the share of the classes that bear the phrase [P]."""
    contrast: Tensor
    """How much nearer the picture's embedding is to the phrase than to other words: standard
    deviations above their mean [P]."""
    heat: Tensor
    """Where it is [P, h, w], 0 or more: the share of the cell's class probability that bears the
    phrase, times how loudly those classes speak there. Cells of background that only overhear
    the thing beside them are as sure as its own, but less loud."""


def scaled(picture: PILImage, short: int) -> PILImage:
    """The picture with sides that are whole cells; very oblong ones are squeezed."""
    from PIL import Image as pil

    scale = short / min(picture.size)
    width, height = (
        max(_CELL, round(min(side * scale, short * _MOST_OBLONG) / _CELL) * _CELL)
        for side in picture.size
    )
    return picture.resize((width, height), pil.Resampling.BICUBIC)


@torch.inference_mode()
def look(eye: ImageEncoder, picture: PILImage) -> Sight:
    """Look at an RGB picture as a whole and cell by cell."""
    maps: list[Tensor] = []
    for short in SHORT_SIDES:
        seen = pixels(scaled(picture, short))[None]
        maps.append(eye.backbone.features(seen.contiguous(memory_format=torch.channels_last)))
    return sight(eye, eye.logits([picture])[0], maps)


@torch.inference_mode()
def sight(eye: ImageEncoder, whole: Tensor, maps: list[Tensor]) -> Sight:
    """Put logits of the whole [K] and feature maps [1, D, h, w] of rising fineness together."""
    head = eye.backbone.classifier
    size = maps[-1].shape[-2:]
    fine = F.avg_pool2d(maps[-1], 3, 1, 1, count_include_pad=False)
    coarse = F.interpolate(maps[0], size=size, mode="bilinear", align_corners=False)
    features = ((fine + coarse) / 2)[0]
    cells = torch.einsum("kd,dhw->khw", head.weight, features) + head.bias[:, None, None]
    pooled = head(maps[0].mean((2, 3)))[0]
    return Sight((whole * 2 + pooled) / 3, cells)


@torch.inference_mode()
def weigh(
    seen: Sight, hub: ImageHub, phrases: Tensor, words: Tensor, likeness: Tensor, *, firm: float,
    soft: float,
) -> Evidence:  # fmt: skip
    """Weigh phrases against what was seen.

    Args:
        seen: The picture.
        hub: The eye's mapping.
        phrases: Unit-norm embeddings of the phrases [P, C].
        words: Unit-norm embeddings of other words to compare with [B, C].
        likeness: How well each class bears each phrase as a name [P, K], a cosine.
        firm: The cosine at which a name is as likely as not the phrase's.
        soft: The range over which that turns.
    """
    bears = torch.sigmoid((likeness - firm) / soft)
    picture = bears @ seen.whole.softmax(-1)
    cells = seen.cells.flatten(1)
    flat = bears @ cells.softmax(0)
    loud = cells.exp().clamp(max=_LOUDEST)
    heat = flat * (bears @ loud).log1p()
    best = flat.topk(max(1, flat.shape[1] // 16), dim=1).values.mean(1)
    feeling = F.normalize(hub(seen.whole), dim=-1)
    near, others = phrases @ feeling, words @ feeling
    return Evidence(
        picture=picture.clamp(min=_FLOOR).log(),
        place=best.clamp(min=_FLOOR).log(),
        chance=bears.mean(1).clamp(min=_FLOOR).log(),
        contrast=(near - others.mean()) / others.std().clamp(min=1e-3),
        heat=heat.view(-1, *seen.cells.shape[1:]),
    )
