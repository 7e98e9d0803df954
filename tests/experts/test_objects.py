"""The names of several things in a drawing, as context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pil
from PIL import ImageDraw

from anybind.content import Audio, Image, Waveform
from anybind.contracts import ContextExpert
from anybind.core_model.encoders.efficientnet import EfficientNetLite, LiteConfig
from anybind.core_model.encoders.image_head import HeadConfig, ImageHead
from anybind.core_model.encoders.image_hub import HubConfig, ImageEncoder, ImageHub
from anybind.errors import ModelError, UserError
from anybind.experts.objects import ObjectExpert

WORDS = ("apple", "binoculars", "bus", "glass")
T = len(WORDS)


class Eye(ImageEncoder):
    """Knows a thing by the colour that its picture mostly has; all else is real."""

    def features(self, pictures: Any, views: Any = None) -> torch.Tensor:
        mean = [
            np.asarray(p.resize((1, 1), pil.Resampling.BOX), np.float32)[0, 0] for p in pictures
        ]
        colours = torch.tensor(np.stack(mean)) / 255
        red, green, blue = colours.unbind(1)
        shares = torch.stack([red - blue, blue - red, green - red, 0.1 + 0 * red], 1)
        out = torch.zeros(len(pictures), self.backbone.config.pooled)
        out[:, :T] = shares.clamp(min=0)
        return out


def _eye(trust: float = 9.0) -> Eye:
    torch.manual_seed(0)
    backbone = EfficientNetLite(
        LiteConfig(width=0.3, depth=0.7, resolution=32, stem=6, head=20, classes=5)
    ).eval()
    width = backbone.config.pooled
    head = ImageHead(HeadConfig(width, backbone.config.head, T, T, T))
    head.things.copy_(torch.eye(T))
    with torch.no_grad():
        for part in (head.first, head.second, head.trust, head.apart):
            part.weight.zero_()
            part.bias.zero_()
        head.first.weight[:, :T] = 20 * torch.eye(T)
        head.second.weight.copy_(torch.eye(T))
        head.trust.bias.fill_(trust)
        head.apart.weight[0, 2] = -20.0  # unlike figures are several things
        head.apart.bias.fill_(10.0)
    hub = ImageHub(HubConfig(space="test"), torch.zeros(5, T), head=head.eval(), things=WORDS)
    return Eye(backbone.requires_grad_(False), hub)


def _drawing(*colours: tuple[int, int, int]) -> Image:
    picture = pil.new("RGB", (150 * len(colours), 150), "white")
    for at, colour in enumerate(colours):
        box = (150 * at + 30, 30, 150 * at + 120, 120)
        ImageDraw.Draw(picture).rectangle(box, fill=colour)
    return Image.of(picture)


RED, GREEN, BLUE = (230, 20, 20), (20, 230, 20), (20, 20, 230)


def test_several_things_are_named_from_left_to_right() -> None:
    expert = ObjectExpert(_eye())
    assert isinstance(expert, ContextExpert)
    note = expert.look(_drawing(RED, BLUE), "What is this?")
    assert note is not None and note.text == "recognized objects: an apple and binoculars"
    assert not note.replaces and 0 < note.confidence <= 1
    three = expert.look(_drawing(GREEN, BLUE, RED), "")
    assert three is not None
    assert three.text == "recognized objects: a bus, binoculars and an apple"


def test_one_thing_and_photographs_are_left_to_the_embedding() -> None:
    assert ObjectExpert(_eye()).look(_drawing(RED), "") is None
    assert ObjectExpert(_eye(trust=-9.0)).look(_drawing(RED, BLUE), "") is None


def test_two_figures_that_are_alike_are_no_two_things() -> None:
    assert ObjectExpert(_eye()).look(_drawing(RED, RED), "") is None


def test_what_it_can_not_do_is_said() -> None:
    expert = ObjectExpert(_eye())
    with pytest.raises(UserError, match="pictures, not audio"):
        expert.look(Audio.of(Waveform(np.zeros((1, 160), np.float32), 16000)), "")
    expert.close()
    with pytest.raises(ModelError, match="closed"):
        expert.look(_drawing(RED, BLUE), "")
    bare = ImageEncoder(_eye().backbone, ImageHub(HubConfig(space="test"), torch.zeros(5, T)))
    with pytest.raises(ModelError, match="words"):
        ObjectExpert(bare)
