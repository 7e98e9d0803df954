"""Looking for things in drawings: by the head's shares, as a whole and figure by figure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image as pil
from PIL import ImageDraw
from torch import Tensor

from anybind.core_model.encoders.image_head import HeadConfig, ImageHead
from anybind.experts._drawn import drawn

T = 4


class Eye:
    """Sees thing 0 in what is mostly red, thing 1 in what is mostly blue, and thing 2 in all else."""

    def __init__(self, trust: float) -> None:
        head = ImageHead(HeadConfig(T, T, T, T, T))
        head.things.copy_(torch.eye(T))
        with torch.no_grad():
            head.first.weight.copy_(torch.eye(T))
            head.second.weight.copy_(torch.eye(T))
            for part in (head.first, head.second):
                part.bias.zero_()
            head.trust.weight.zero_()
            head.trust.bias.fill_(trust)
        self.hub = SimpleNamespace(head=head.eval().requires_grad_(False))

    def features(self, pictures: Any, views: tuple[str, ...] = ("whole",)) -> Tensor:
        seen: list[int] = []
        for picture in pictures:
            red, _, blue = picture.resize((1, 1), pil.Resampling.BOX).getpixel((0, 0))
            seen.append(0 if red > blue + 80 else 1 if blue > red + 80 else 2)
        return 5.0 * torch.eye(T)[seen]


def _picture(size: tuple[int, int] = (200, 100)) -> pil.Image:
    picture = pil.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((20, 20, 70, 80), fill=(220, 20, 20))
    draw.rectangle((130, 10, 180, 90), fill=(20, 20, 220))
    return picture


def test_a_phrase_is_found_in_the_figure_that_shows_it() -> None:
    eye: Any = Eye(trust=9.0)
    found = drawn(eye, _picture(), torch.eye(T))
    assert found is not None
    assert (found.scores > 0.5).tolist() == [True, True, True, False]
    for place, wanted in zip(
        found.places, [(20, 20, 70, 80), (130, 10, 180, 90), (0, 0, 200, 100)], strict=False
    ):
        assert max(abs(a - b) for a, b in zip(place, wanted, strict=True)) < 5


def test_one_thing_alone_lies_where_it_is_drawn() -> None:
    eye: Any = Eye(trust=9.0)
    picture = pil.new("RGB", (200, 100), "white")
    ImageDraw.Draw(picture).rectangle((20, 20, 70, 80), fill=(40, 200, 40))
    found = drawn(eye, picture, torch.eye(T))
    assert found is not None and found.scores[2] > 0.5
    assert found.places[2][2] < 80


def test_likeness_of_meaning_counts_by_degrees() -> None:
    eye: Any = Eye(trust=9.0)
    near = torch.tensor([[0.7, 0.0, 0.0, 0.7141]])
    far = torch.tensor([[0.5, 0.0, 0.0, 0.866]])
    picture = pil.new("RGB", (100, 60), (220, 20, 20))
    scores = [drawn(eye, picture, p) for p in (torch.eye(T)[:1], near, far)]
    exact, some, none = (float(s.scores) for s in scores if s is not None)
    assert exact > some > 0.5 and none == pytest.approx(0.0, abs=0.05)


def test_photographs_are_left_to_the_classes() -> None:
    eye: Any = Eye(trust=-9.0)
    assert drawn(eye, pil.new("RGB", (100, 60)), torch.eye(T)) is None
    eye.hub.head = None
    assert drawn(eye, pil.new("RGB", (100, 60)), torch.eye(T)) is None
