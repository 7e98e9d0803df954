"""Phrases to boxes: the geometry, the handling of phrases, and the real eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pil

from anybind.content import Image
from anybind.contracts import Build, GroundingExpert
from anybind.errors import UserError
from anybind.experts._sight import Evidence, scaled
from anybind.experts.dense_grounding import DenseGrounding, build, plain, regions, support

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_regions_are_where_the_heat_is_in_pixels() -> None:
    heat = np.zeros((8, 10), np.float32)
    heat[2:5, 6:9] = 1.0
    heat[6, 1] = 0.8
    found = regions(heat, (500, 320))
    assert len(found) == 2
    (x0, y0, x1, y1), share = found[0]
    assert share == pytest.approx(1.0)
    # Cells are 50 x 40 pixels; interpolation may add or take less than one cell.
    assert np.allclose([x0, y0, x1, y1], [300, 80, 450, 200], atol=45)
    assert found[1][0][0] < 150
    assert found[1][0][3] > 240


def test_regions_leave_out_the_faint_and_survive_nothing() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[1:3, 1:3] = 1.0
    heat[6, 6] = 0.45  # above the edge, too faint for a box of its own
    assert len(regions(heat, (80, 80))) == 1
    flat = regions(np.full((4, 4), 1e-8, np.float32), (80, 60))
    assert flat[0][0] == (0, 0, 80, 60)


@pytest.mark.parametrize(
    ("phrase", "rest"),
    [
        ("The red Bicycle", "red bicycle"), ("a", "a"), ("two  dogs", "dogs"),
        ("her three cats", "cats"), ("12 eggs", "eggs"), ("a cat, a", "cat a"),
    ],
)  # fmt: skip
def test_plain(phrase: str, rest: str) -> None:
    assert plain(phrase) == rest


def test_support_rises_with_every_piece_of_evidence() -> None:
    def one(picture: float, place: float, contrast: float) -> float:
        evidence = Evidence(
            picture=torch.tensor([picture]), place=torch.tensor([place]),
            chance=torch.tensor([-5.0]), contrast=torch.tensor([contrast]),
            heat=torch.zeros(1, 2, 2),
        )  # fmt: skip
        return float(support(evidence, torch.tensor([True])))

    base = one(-4.0, -3.0, 1.0)
    assert one(-1.0, -3.0, 1.0) > base
    assert one(-4.0, -1.0, 1.0) > base
    assert one(-4.0, -3.0, 4.0) > base
    assert 0.0 <= one(-13.0, -13.0, -3.0) < 0.05
    assert 0.95 < one(0.0, 0.0, 6.0) <= 1.0


def test_pictures_are_scaled_to_whole_cells() -> None:
    assert scaled(pil.new("RGB", (640, 480)), 256).size == (352, 256)
    wide = scaled(pil.new("RGB", (4000, 100)), 256).size
    assert wide == (448, 256)
    assert scaled(pil.new("RGB", (9, 9)), 256).size == (256, 256)


@pytest.fixture(scope="module")
def real(nano: Any) -> DenseGrounding:
    roles = {
        "backbone": "efficientnet_lite2", "projection": "image_hub",
        "text_model": "minilm", "text_tokenizer": "minilm_tokenizer",
    }  # fmt: skip
    return build(Build(weights={role: nano.weight(key) for role, key in roles.items()}))


def _scene() -> pil.Image:
    """Chelsea the cat in the right half of a wide grey wall."""

    wall = pil.new("RGB", (900, 400), (150, 148, 140))
    wall.paste(
        pil.open(EXAMPLES / "cat.png").convert("RGB").crop((50, 0, 400, 300)).resize((467, 400)),
        (433, 0),
    )
    return wall


def test_what_is_there_is_supported_and_what_is_not_is_not(real: DenseGrounding) -> None:
    assert isinstance(real, GroundingExpert)
    phrases = ["The cat", "a dog", "a bicycle", "guitar", "an animal", "red truck"]
    boxes = real.ground(Image.of(_scene()), phrases)
    best = {p: max(b.score for b in boxes if b.label == p) for p in phrases}
    assert all(0.0 <= b.score <= 1.0 for b in boxes)
    assert best["The cat"] >= real.threshold
    assert best["an animal"] >= real.threshold
    for absent in ("a dog", "a bicycle", "guitar", "red truck"):
        assert best[absent] < real.threshold


def test_the_box_lies_on_the_thing(real: DenseGrounding) -> None:
    box = max(real.ground(Image.of(_scene()), ["cat"]), key=lambda b: b.score)
    x0, y0, x1, y1 = box.xyxy
    assert 0 <= x0 < x1 <= 900
    assert 0 <= y0 < y1 <= 400
    assert x0 > 350  # the wall is left out
    flipped = _scene().transpose(pil.Transpose.FLIP_LEFT_RIGHT)
    mirrored = max(real.ground(Image.of(flipped), ["cat"]), key=lambda b: b.score)
    assert mirrored.xyxy[2] < 550


def test_coffee_is_found_under_its_names(real: DenseGrounding) -> None:

    picture = Image.of(pil.open(EXAMPLES / "coffee.png").convert("RGB"))
    boxes = real.ground(picture, ["cup of coffee", "coffee", "a horse"])
    best = {b.label: b.score for b in boxes}
    assert best["coffee"] >= real.threshold
    assert best["a horse"] < real.threshold


def test_empty_calls(real: DenseGrounding) -> None:
    picture = Image.of(_scene())
    assert real.ground(picture, []) == []
    with pytest.raises(UserError, match="empty"):
        real.ground(picture, ["cat", "  "])
    with pytest.raises(UserError, match="too small"):
        real.ground(Image.of(pil.new("RGB", (2, 50))), ["cat"])


def test_encoders_are_shared_when_lent(real: DenseGrounding) -> None:
    lent = build(Build(parts={"image_encoder": real.eye, "text_encoder": real.texts}))
    assert lent.eye is real.eye
    assert lent.texts is real.texts


def test_without_a_text_encoder_it_says_what_is_missing(real: DenseGrounding) -> None:
    with pytest.raises(UserError, match="text_model"):
        build(Build(parts={"image_encoder": real.eye}))
