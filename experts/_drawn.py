"""Whether things are in a drawing, by the learned head of the eye; coarse places.

The classes of the eye are those of photographs. What its head takes for a drawing is looked at as a
whole and by halves, and a phrase is weighed by the things whose meaning is the phrase's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.encoders.image_hub import half_box

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from anybind.core_model.encoders.image_hub import ImageEncoder

VIEWS = ("first", "last")
# On 560 pictures of one or two drawings of a set that the head had not seen, a thing that was there got
# more than this in about 0.75, one drawn at random in 0.005, and its nearest other word in a third.
_HALF = 0.05
"""Share of the things at which a phrase is as likely there as not."""
_FROM, _FULL = 0.65, 0.9
"""Cosines of phrase and thing between which a thing begins to count, and counts in full."""

Place = tuple[float, float, float, float]


class Drawn(NamedTuple):
    """What a drawing holds of some phrases."""

    scores: Tensor
    """[P], 0..1; 0.5 is as likely there as not."""
    places: list[Place]
    """Of each phrase the view that shows it best, in pixels."""


def drawn(eye: ImageEncoder, picture: PILImage, phrases: Tensor) -> Drawn | None:
    """Look for phrases [P, C] of unit norm in a drawing; None for what is no drawing to the eye."""
    head = eye.hub.head
    if head is None:
        return None
    whole = head(eye.features([picture]))
    if float(whole.gate) <= 0.5:
        return None
    halves = [head(eye.features([picture], (view,))) for view in VIEWS]
    shares = torch.cat([whole.logits, *(half.logits for half in halves)]).softmax(-1)
    cosine = phrases @ F.normalize(head.things, dim=-1).T
    counts = ((cosine - _FROM) / (_FULL - _FROM)).clamp(0, 1)
    best, at = (counts @ shares.T).max(1)
    width, height = picture.size
    halved = [half_box(picture.size, last=view == "last") for view in VIEWS]
    boxes: list[Place] = [(0.0, 0.0, float(width), float(height))]
    boxes += [(float(a), float(b), float(c), float(d)) for a, b, c, d in halved]
    return Drawn(best / (best + _HALF), [boxes[int(view)] for view in at])
