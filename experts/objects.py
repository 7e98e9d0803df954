"""Says which things a drawing of several shows; what it says becomes context.

A joint embedding is one vector: a decoder reads the strongest thing of a mixture out of it and
guesses the rest. What stands apart in a drawing can be looked at alone, though, and has a name of its
own. Looks with the image encoder of the bundle; of a photograph, or of one thing alone, it has nothing
to add to the embedding and says nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from anybind.content import AnyPart
from anybind.contracts import Build, Note
from anybind.errors import ModelError, UserError
from anybind.experts._wording import listed, with_article

if TYPE_CHECKING:
    from anybind.core_model.encoders.image_hub import ImageEncoder


class ObjectExpert:
    """Names for the figures of a drawing (`anybind.contracts.ContextExpert`)."""

    name = "objects"
    kinds = frozenset({"image"})

    def __init__(self, eye: ImageEncoder) -> None:
        """Args:
            eye: An image encoder with a head that has words for what it knows.

        Raises:
            ModelError: it has none.
        """
        head = eye.hub.head
        if head is None or not eye.hub.things:
            raise ModelError("the objects expert needs an image mapping with a head and its words")
        self._eye: ImageEncoder | None = eye
        self._words = eye.hub.things
        self._rows = F.normalize(head.things.float(), dim=-1)

    @torch.inference_mode()
    def look(self, part: AnyPart, request: str) -> Note | None:
        """`recognized objects: a car and a horse`, or None where there are not several.

        Raises:
            ModelError: the expert is closed.
            UserError: the part is not a picture.
        """
        if self._eye is None:
            raise ModelError("the objects expert is closed")
        if part.kind != "image":
            raise UserError(f"the objects expert looks at pictures, not {part.kind}")
        found = self._eye.things(part.data)
        if not found:
            return None
        rows = torch.stack([p.embedding for p in found])
        best = (F.normalize(rows, dim=-1) @ self._rows.T).argmax(1)
        words = list(dict.fromkeys(self._words[int(at)] for at in best))
        sure = min(math.sqrt(float((row * row).sum())) for row in rows)
        return Note(
            expert=self.name,
            text="recognized objects: " + listed([with_article(w) for w in words]),
            confidence=min(sure, 1.0),
            sources=(part.name,) if part.name else (),
            replaces=False,
        )

    def close(self) -> None:
        """Let go of the encoder."""
        self._eye = None


def build(build: Build) -> ObjectExpert:
    """Factory: `parts` "image_encoder", shared with the model; without it the weights "backbone"
    and "projection" are loaded."""
    from anybind.core_model.encoders.efficientnet import load_efficientnet
    from anybind.core_model.encoders.image_hub import ImageEncoder, load_image_hub

    eye = build.parts["image_encoder"] if "image_encoder" in build.parts else None
    if not isinstance(eye, ImageEncoder):
        eye = ImageEncoder(
            load_efficientnet(build.weights["backbone"]),
            load_image_hub(build.weights["projection"]),
        )
    return ObjectExpert(eye)
