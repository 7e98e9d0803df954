"""The eye of nano: pictures into the joint space through EfficientNet-lite.

The backbone names one of 1,000 things; the hub is a space of sentences. A picture becomes the
sharpened mixture of the class sentences (ConSE, Norouzi et al. 2014), so that what lies between
the classes lies between their embeddings. The class embeddings know WordNet's hierarchy: a
picture that is spread over twenty breeds of dog comes out as "dog". How they are made,
`anybind.core_model.training.image_hub` knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.content import AnyPart
from anybind.contracts import Build, Encoding
from anybind.core_model.encoders.efficientnet import (
    EfficientNetLite,
    load_efficientnet,
    pixels,
)
from anybind.core_model.encoders.figures import Box, cut_out, figures
from anybind.core_model.encoders.image_head import ImageHead, unpacked
from anybind.errors import ModelError, UserError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

FORMAT = "anybind-image-hub-2"
"""`format` in the metadata of the file; others are refused."""

_BATCH = 16
_MIN_SIDE = 8
MOST_FIGURES = 6
"""A drawing with more figures than this is taken as a whole: it is a pattern, or a landscape."""


@dataclass(frozen=True, slots=True)
class HubConfig:
    """How class probabilities become an embedding."""

    space: str
    power: float = 1.0
    """Probabilities are raised to this; above 1 sharpens what label smoothing has blurred."""
    top: int = 1000
    """Only this many best classes count."""
    views: tuple[str, ...] = ("centre",)
    """Which views of the picture are averaged: see `view`."""
    crop: float = 0.875
    """Share of the short side that the centre crop keeps."""
    sharpen: float = 1.0
    """What the head says is raised to this; like `power`, for its things. Many things have like
    sentences, whose small shares together outweigh the thing that it is surest of."""


class ImageHub(nn.Module):
    """Class logits -> the joint space."""

    classes: Tensor
    """Sentence embedding of every class [K, C]."""
    kinds: Tensor
    """Unit-norm embeddings of all names that classes and the kinds above them bear [N, C]."""
    kind_of: Tensor
    """Pairs (class, row of `kinds`) [M, 2]."""

    def __init__(
        self,
        config: HubConfig,
        classes: Tensor,
        names: Sequence[str] = (),
        kinds: Tensor | None = None,
        kind_of: Tensor | None = None,
        head: ImageHead | None = None,
        things: Sequence[str] = (),
    ) -> None:
        """`things` are the words of what the head knows, in its order."""
        super().__init__()
        self.config = config
        self.head = head
        self.names = tuple(names)
        self.things = tuple(things)
        self.register_buffer("classes", classes.float())
        if kinds is None or kind_of is None:  # a class is then known by its embedding alone
            kinds = F.normalize(self.classes, dim=-1)
            kind_of = torch.arange(len(classes))[:, None].expand(-1, 2)
        self.register_buffer("kinds", kinds.float())
        self.register_buffer("kind_of", kind_of.long())

    def weights(self, logits: Tensor) -> Tensor:
        """Shares of the classes [..., K] (sum 1) that logits [..., K] stand for."""
        shares = logits * self.config.power
        if self.config.top < shares.shape[-1]:
            least = shares.topk(self.config.top, dim=-1).values[..., -1:]
            shares = shares.masked_fill(shares < least, float("-inf"))
        return shares.softmax(-1)

    def forward(self, logits: Tensor) -> Tensor:
        """Raw embeddings [..., C] of logits [..., K]; the norm (0..1) tells how sure the eye is."""
        return self.weights(logits) @ self.classes

    def embed(self, features: Tensor, logits: Tensor) -> Tensor:
        """Raw embeddings [..., C] of pooled features [..., P] and their logits [..., K]: the class
        mixture, and what the head says by as much as it is to be trusted."""
        mixture = self(logits)
        if self.head is None:
            return mixture
        learned, trust = self.head.embed(features, self.config.sharpen)
        return mixture + trust * (learned - mixture)

    def scene(self, whole: Tensor, figures: Tensor) -> tuple[Tensor, Tensor]:
        """Raw embeddings [B, C] of pictures whose figures were also looked at, and how far each is
        taken for several things [B, 1].

        Where the figures are different things, their mean takes the place of the whole: a network
        that was trained on one thing in the middle sees neither of two at the sides.

        Args:
            whole: Raw embeddings of the pictures [B, C].
            figures: Of as many figures in each [B, N, C], N at least 2.
        """
        if self.head is None:
            return whole, torch.zeros_like(whole[:, :1])
        several = self.head.several(whole, figures)
        return whole + several * (figures.mean(1) - whole), several

    def likeness(self, phrases: Tensor) -> Tensor:
        """How well each class bears a phrase as its name: the best cosine over its names and
        those of the kinds above it, [P, K] for unit-norm phrases [P, C]."""
        cosine = (phrases @ self.kinds.T)[:, self.kind_of[:, 1]]
        out = torch.full((len(phrases), len(self.classes)), -1.0)
        where = self.kind_of[:, 0].expand(len(phrases), -1)
        return out.scatter_reduce(1, where, cosine, "amax")


def load_image_hub(path: Path) -> ImageHub:
    """The mapping from its safetensors file.

    Raises:
        ModelError: the file can't be read or is of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            data = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error
    if data.get("format") != FORMAT:
        raise ModelError(f"{path.name} is not an image hub ({FORMAT}).")
    try:
        settings: dict[str, Any] = json.loads(data["config"])
        settings["views"] = tuple(settings["views"])
        names = json.loads(data.get("names", "[]"))
        kinds = tensors["kinds"].float() * tensors["kind_scale"].float()[:, None]
        classes = tensors["classes"].float() * tensors["class_scale"].float()[:, None]
        return ImageHub(
            HubConfig(**settings), classes, names, kinds, tensors["kind_of"],
            unpacked(tensors), json.loads(data.get("things", "[]")),
        ).eval()  # fmt: skip
    except KeyError as error:
        raise ModelError(f"{path.name}: {error} is missing.") from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path.name}: settings or tensors don't fit: {error}") from error


def view(picture: PILImage, kind: str, side: int, crop: float) -> PILImage:
    """A square view [side, side] of a picture.

    Args:
        picture: RGB.
        kind: "centre" (the middle, as ImageNet models are tested), "whole" (all of it, squeezed
            into the square), "padded" (all of it on its mean colour); "-flip" at the end mirrors.
        side: Pixels.
        crop: Share of the short side that "centre" keeps.

    Raises:
        UserError: the picture is too small to see anything.
    """
    from PIL import Image as pil

    width, height = picture.size
    if min(width, height) < _MIN_SIDE:
        raise UserError(f"A picture of {width} x {height} pixels is too small to look at.")
    name, _, mirrored = kind.partition("-")
    if name == "centre":
        keep = min(width, height) * crop
        left, top = (width - keep) / 2, (height - keep) / 2
        box = (left, top, left + keep, top + keep)
    elif name == "whole":
        box = (0.0, 0.0, float(width), float(height))
    elif name == "padded":
        longest = max(picture.size)
        square = pil.new("RGB", (longest, longest), _mean_colour(picture))
        square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
        picture, box = square, (0.0, 0.0, float(longest), float(longest))
    else:
        raise ModelError(f"There is no view {kind!r}: centre, whole or padded, with -flip or not.")
    seen = picture.resize((side, side), pil.Resampling.BICUBIC, box=box)
    return seen.transpose(pil.Transpose.FLIP_LEFT_RIGHT) if mirrored else seen


def _mean_colour(picture: PILImage) -> tuple[int, int, int]:
    mean = np.asarray(picture.resize((16, 16)), dtype=np.float32).reshape(-1, 3).mean(0)
    return int(mean[0]), int(mean[1]), int(mean[2])


class Part(NamedTuple):
    """One of several things in a drawing."""

    box: Box
    embedding: Tensor
    """Raw embedding [C]."""


class ImageEncoder:
    """Pictures into the joint space (`anybind.contracts.Encoder`)."""

    def __init__(self, backbone: EfficientNetLite, hub: ImageHub) -> None:
        if hub.classes.shape[0] != backbone.config.classes:
            raise ModelError(
                f"The hub maps {hub.classes.shape[0]} classes, the backbone "
                f"knows {backbone.config.classes}."
            )
        self.backbone = backbone
        self.hub = hub

    @property
    def modalities(self) -> frozenset[str]:
        """Pictures only."""
        return frozenset({"image"})

    @property
    def space(self) -> str:
        """The joint space."""
        return self.hub.config.space

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return int(self.hub.classes.shape[1])

    def logits(self, pictures: Sequence[PILImage]) -> Tensor:
        """Class logits [B, K] of RGB pictures, averaged over the views."""
        return self.backbone.classify(self.features(pictures))

    @torch.inference_mode()
    def features(self, pictures: Sequence[PILImage], views: Sequence[str] | None = None) -> Tensor:
        """Pooled features [B, P] of RGB pictures, averaged over the views (None: the hub's).

        The classifier is linear, so the logits of the mean are the mean of the logits.
        """
        config, side = self.hub.config, self.backbone.config.resolution
        kinds = config.views if views is None else views
        out: list[Tensor] = []
        batch: list[Tensor] = []
        for picture in pictures:
            for kind in kinds:
                batch.append(pixels(view(picture, kind, side, config.crop)))
                if len(batch) == _BATCH:
                    out.append(self._forward(batch))
                    batch = []
        if batch:
            out.append(self._forward(batch))
        if not out:
            return torch.empty(0, self.backbone.config.pooled)
        return torch.cat(out).view(len(pictures), len(kinds), -1).mean(1)

    def _forward(self, batch: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(batch)).contiguous(memory_format=torch.channels_last)
        return self.backbone.pooled(stacked)

    @torch.inference_mode()
    def embed(self, pictures: Sequence[PILImage]) -> Tensor:
        """Raw embeddings [B, C] of RGB pictures.

        What the head takes for drawings is looked at figure by figure as well; of photographs, whose
        things have no ground to stand apart on, the whole is all there is.
        """
        features = self.features(pictures)
        out = self.hub.embed(features, self.backbone.classify(features))
        if self.hub.head is None or not len(pictures):
            return out
        drawn = self.hub.head(features).gate[:, 0] > 0.5
        for at in drawn.nonzero()[:, 0].tolist():
            parts = self._parts(pictures[at])
            if parts is not None:
                out[at] = self.hub.scene(out[at][None], parts[1][None])[0][0]
        return out

    @torch.inference_mode()
    def things(self, picture: PILImage) -> list[Part]:
        """What stands apart in a drawing, from left to right; empty for a photograph, for what
        shows one thing, and without a head."""
        features = self.features([picture])
        head = self.hub.head
        if head is None or float(head(features).gate) <= 0.5:
            return []
        parts = self._parts(picture)
        if parts is None:
            return []
        boxes, embedded = parts
        whole = self.hub.embed(features, self.backbone.classify(features))
        if float(self.hub.scene(whole, embedded[None])[1]) <= 0.5:
            return []
        return [Part(box, row) for box, row in zip(boxes, embedded, strict=True)]

    def _parts(self, picture: PILImage) -> tuple[list[Box], Tensor] | None:
        """Boxes of two or more figures and their raw embeddings [N, C]; None if there are none."""
        boxes = figures(picture)
        if not 2 <= len(boxes) <= MOST_FIGURES:
            return None
        features = self.features([cut_out(picture, box) for box in boxes])
        return boxes, self.hub.embed(features, self.backbone.classify(features))

    def encode(self, parts: Sequence[AnyPart]) -> Encoding:
        """Encode image parts in one batch; the norm of `raw` (0..1) tells how sure the eye is.

        Raises:
            UserError: a part is not an image, or one is too small.
        """
        for part in parts:
            if part.kind != "image":
                raise UserError(f"The image encoder takes images, not {part.kind}.")
        raw = self.embed([part.data for part in parts])
        unit = F.normalize(raw, dim=-1)
        return Encoding(
            unit=np.ascontiguousarray(unit.numpy(), dtype=np.float32),
            raw=np.ascontiguousarray(raw.numpy(), dtype=np.float32),
        )

    def close(self) -> None:
        """Nothing to give back beyond the object itself."""


def build(build: Build) -> ImageEncoder:
    """Factory: weights "backbone" (converted EfficientNet-lite) and "projection" (the hub)."""
    return ImageEncoder(
        load_efficientnet(build.weights["backbone"]), load_image_hub(build.weights["projection"])
    )
