"""Whether things are in a drawing, by the learned head of the eye, and where.

The classes of the eye are those of photographs. What its head takes for a drawing is looked at as a
whole and figure by figure, and a phrase is weighed by the things whose meaning is the phrase's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.encoders.figures import Box, cut_out, figures
from anybind.core_model.encoders.image_hub import MOST_FIGURES

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from anybind.core_model.encoders.image_hub import ImageEncoder

# On 370 pictures of one or two drawings of sets that the head had not seen, a thing that was there got
# more than this in 0.82, one drawn at random in 0.02, the nearest other word in 0.32; at 0.05 it would be
# 0.69, 0.01 and 0.18, a little worse for those three alike.
_HALF = 0.01
"""Share of the things at which a phrase is as likely there as not."""
_FROM, _FULL = 0.65, 0.9
"""Cosines of phrase and thing between which a thing begins to count, and counts in full."""


class Drawn(NamedTuple):
    """What a drawing holds of some phrases."""

    scores: Tensor
    """[P], 0..1; 0.5 is as likely there as not."""
    places: list[Box]
    """Of each phrase the figure that shows it best, in pixels; all of the picture if none does."""


def drawn(eye: ImageEncoder, picture: PILImage, phrases: Tensor) -> Drawn | None:
    """Look for phrases [P, C] of unit norm in a drawing; None for what is no drawing to the eye."""
    head = eye.hub.head
    if head is None:
        return None
    whole = head(eye.features([picture]))
    if float(whole.gate) <= 0.5:
        return None
    width, height = picture.size
    found = figures(picture)
    boxes: list[Box] = [(0.0, 0.0, float(width), float(height))]
    logits = [whole.logits]
    if len(found) == 1:
        boxes = found
    elif 2 <= len(found) <= MOST_FIGURES:
        logits.append(head(eye.features([cut_out(picture, box) for box in found])).logits)
        boxes += found
    shares = torch.cat(logits).softmax(-1)
    cosine = phrases @ F.normalize(head.things, dim=-1).T
    counts = ((cosine - _FROM) / (_FULL - _FROM)).clamp(0, 1)
    best, at = (counts @ shares.T).max(1)
    return Drawn(best / (best + _HALF), [boxes[int(view)] for view in at])
