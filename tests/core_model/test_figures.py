"""What stands apart in a drawing."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil
from PIL import ImageDraw, ImageFilter

from anybind.core_model.encoders.figures import cut_out, figures


def _soft_ground(seed: int, size: tuple[int, int]) -> pil.Image:
    """Colours that run into each other, as behind many drawings."""
    small = np.random.default_rng(seed).integers(90, 256, (3, 4, 3)).astype(np.uint8)
    return pil.fromarray(small).resize(size, pil.Resampling.BICUBIC)


def _scene(ground: pil.Image) -> pil.Image:
    draw = ImageDraw.Draw(ground)
    draw.ellipse((40, 60, 160, 180), fill=(200, 30, 40), outline=(0, 0, 0), width=3)
    draw.rectangle((300, 100, 420, 260), fill=(20, 90, 200), outline=(255, 255, 255), width=4)
    return ground


@pytest.mark.parametrize("ground", ["plain", "soft"])
def test_two_things_are_found_where_they_are(ground: str) -> None:
    size = (480, 320)
    base = pil.new("RGB", size, "#e8eef4") if ground == "plain" else _soft_ground(4, size)
    found = figures(_scene(base))
    assert len(found) == 2
    for box, wanted in zip(found, [(40, 60, 160, 180), (300, 100, 420, 260)], strict=True):
        assert max(abs(a - b) for a, b in zip(box, wanted, strict=True)) < 8


def test_parts_of_one_thing_stay_together() -> None:
    """An i has a dot, a face has eyes."""
    base = pil.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(base)
    draw.ellipse((130, 40, 170, 80), fill="black")
    draw.rectangle((130, 85, 170, 260), fill="black")
    (box,) = figures(base)
    assert box[1] < 45 and box[3] > 255


def test_nothing_is_found_on_an_empty_ground() -> None:
    assert figures(pil.new("RGB", (200, 100), "#dfeedd")) == []
    assert figures(_soft_ground(2, (400, 300))) == []


def test_a_photograph_has_no_figures_that_stand_apart() -> None:
    rng = np.random.default_rng(0)
    sharp = pil.fromarray(rng.integers(0, 256, (240, 320, 3)).astype(np.uint8))
    sharp = sharp.filter(ImageFilter.GaussianBlur(1))
    assert len(figures(sharp)) <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 900), st.integers(8, 900), st.integers(0, 10**6))
def test_boxes_lie_in_the_picture_and_go_from_left_to_right(
    width: int, height: int, seed: int
) -> None:
    r = random.Random(seed)
    picture = pil.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(r.randrange(6)):
        x, y = r.randrange(width), r.randrange(height)
        box = (x, y, x + r.randrange(1, 200), y + r.randrange(1, 200))
        draw.rectangle(box, fill=(r.randrange(200), r.randrange(200), 90))
    found = figures(picture)
    assert found == sorted(found)
    for left, top, right, bottom in found:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        cut = cut_out(picture, (left, top, right, bottom))
        assert cut.width == cut.height >= max(right - left, bottom - top) - 2


def test_what_is_cut_out_lies_on_the_ground() -> None:
    picture = _scene(pil.new("RGB", (480, 320), (250, 240, 200)))
    cut = cut_out(picture, figures(picture)[1])
    assert cut.getpixel((1, 1)) == (250, 240, 200)
    assert cut.getpixel((cut.width // 2, cut.height // 2)) == (20, 90, 200)
