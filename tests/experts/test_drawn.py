"""Looking for things in drawings: by the head's shares, as a whole and by halves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image as pil
from torch import Tensor

from anybind.core_model.encoders.image_head import HeadConfig, ImageHead
from anybind.experts._drawn import drawn

T = 4


class Eye:
    """Sees thing 0 in the left half, thing 1 in the right one, and thing 2 in all of it."""

    def __init__(self, trust: float) -> None:
        head = ImageHead(HeadConfig(T, T, T, T))
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
        seen = {"first": 0, "last": 1}.get(views[0], 2)
        return 5.0 * torch.eye(T)[[seen] * len(pictures)]


def test_a_phrase_is_found_in_the_half_that_shows_it() -> None:
    eye: Any = Eye(trust=9.0)
    found = drawn(eye, pil.new("RGB", (100, 60)), torch.eye(T))
    assert found is not None
    assert (found.scores > 0.5).tolist() == [True, True, True, False]
    assert found.places[0] == (0.0, 0.0, 55.0, 60.0)
    assert found.places[1] == (45.0, 0.0, 100.0, 60.0)
    assert found.places[2] == (0.0, 0.0, 100.0, 60.0)
    tall = drawn(eye, pil.new("RGB", (60, 100)), torch.eye(T))
    assert tall is not None and tall.places[1] == (0.0, 45.0, 60.0, 100.0)


def test_likeness_of_meaning_counts_by_degrees() -> None:
    eye: Any = Eye(trust=9.0)
    near = torch.tensor([[0.7, 0.0, 0.0, 0.7141]])
    far = torch.tensor([[0.5, 0.0, 0.0, 0.866]])
    picture = pil.new("RGB", (100, 60))
    scores = [drawn(eye, picture, p) for p in (torch.eye(T)[:1], near, far)]
    exact, some, none = (float(s.scores) for s in scores if s is not None)
    assert exact > some > 0.5 and none == pytest.approx(0.0, abs=0.05)


def test_photographs_are_left_to_the_classes() -> None:
    eye: Any = Eye(trust=-9.0)
    assert drawn(eye, pil.new("RGB", (100, 60)), torch.eye(T)) is None
    eye.hub.head = None
    assert drawn(eye, pil.new("RGB", (100, 60)), torch.eye(T)) is None
