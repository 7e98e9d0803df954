"""Removing, replacing and cutting out, measured on pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as pil

from anybind.content import Audio, Box, Image, Waveform
from anybind.contracts import Tool
from anybind.errors import ToolError
from anybind.tools.inpaint import fill

from .conftest import GREEN, KnownContext, Scene, array, iou, make_scene

Tools = dict[str, Tool]
BLUE = (20, 40, 220)


def blue_star() -> Image:
    """What a generator might give: a blue diamond on white, 64 x 64."""
    ys, xs = np.mgrid[:64, :64]
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[np.abs(xs - 32) + np.abs(ys - 32) < 24] = BLUE
    return Image.of(pil.fromarray(pixels))


def away_from(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(axis=-1)


def test_remove_leaves_only_ground_and_touches_nothing_else(
    tools: Tools, context: KnownContext, scene: Scene
) -> None:
    result = tools["Remove Something From The Photo"].run(
        context, {"image": scene.image, "object": "disc"}
    )
    cleared, mask = array(result.parts[0]), array(result.parts[1])[..., 0] > 127
    assert (mask & scene.mask).sum() == scene.mask.sum()
    assert mask.sum() < 2 * scene.mask.sum()
    assert (cleared[~mask] == scene.pixels[~mask]).all()
    assert away_from(cleared[scene.mask], GREEN).max() < 40


def test_remove_continues_a_pattern(tools: Tools) -> None:
    """Stripes run on behind what was removed: copied, not smeared."""
    xs = np.arange(200)
    stripes = np.where((xs // 10) % 2 == 0, 60, 190).astype(np.uint8)
    truth = np.repeat(np.tile(stripes, (160, 1))[..., None], 3, axis=2)
    ys, xs2 = np.mgrid[:160, :200]
    mask = (xs2 - 97) ** 2 + (ys - 80) ** 2 < 24**2
    pixels = truth.copy()
    pixels[mask] = (220, 40, 40)
    context = KnownContext({"ball": [Box("ball", (73, 56, 122, 105), 0.9)]})
    result = tools["Remove Something From The Photo"].run(
        context, {"image": Image.of(pil.fromarray(pixels)), "object": "ball"}
    )
    error = np.abs(array(result.parts[0]).astype(int) - truth).mean(axis=2)[mask]
    assert error.mean() < 20  # a flat grey would be 65


def test_remove_is_repeatable(tools: Tools, context: KnownContext, scene: Scene) -> None:
    run = tools["Remove Something From The Photo"].run
    first, second = (run(context, {"image": scene.image, "object": "disc"}) for _ in range(2))
    assert (array(first.parts[0]) == array(second.parts[0])).all()


@pytest.mark.parametrize("rim", [0, 6])
def test_remove_refuses_to_erase_everything(tools: Tools, scene: Scene, rim: int) -> None:
    pixels = scene.pixels.copy()
    pixels[rim : 120 - rim, rim : 160 - rim] = (200, 30, 30)
    context = KnownContext({"wall": [Box("wall", (0, 0, 160, 120), 0.9)]})
    with pytest.raises(ToolError, match="wall"):
        tools["Remove Something From The Photo"].run(
            context, {"image": Image.of(pil.fromarray(pixels)), "object": "wall"}
        )


def test_fill_outside_is_the_same_bytes_and_thin_holes_close() -> None:
    scene = make_scene()
    hole = np.zeros(scene.mask.shape, bool)
    hole[20:22, 5:150] = True
    damaged = scene.pixels.copy()
    damaged[hole] = (255, 255, 255)
    filled = fill(damaged, hole)
    assert (filled[~hole] == scene.pixels[~hole]).all()
    assert away_from(filled[hole], GREEN).max() < 40
    assert (fill(damaged, np.zeros_like(hole)) == damaged).all()


def test_replace_puts_the_new_thing_where_the_old_was(
    tools: Tools, context: KnownContext, scene: Scene
) -> None:
    context.drawing = blue_star()
    result = tools["Replace Something From The Photo"].run(
        context, {"image": scene.image, "old": "disc", "new": "a blue diamond"}
    )
    assert context.drawn == [("image", "a blue diamond")]
    pixels, mask = array(result.parts[0]), array(result.parts[1])[..., 0] > 127
    assert (pixels[~mask] == scene.pixels[~mask]).all()
    blue = (pixels[..., 2].astype(int) - pixels[..., 0]) > 100
    red = (pixels[..., 0].astype(int) - pixels[..., 1]) > 80
    white = pixels.min(axis=2) > 200
    assert red.sum() == 0
    assert white.sum() == 0  # the generated picture's ground stays out
    ys, xs = np.nonzero(blue)
    assert abs(xs.mean() - 70) < 6
    assert abs(ys.mean() - 60) < 10
    assert 0.3 < blue.sum() / scene.mask.sum() < 1.5


def test_replace_says_when_the_generator_draws_nothing_usable(
    tools: Tools, context: KnownContext, scene: Scene
) -> None:
    arguments = {"image": scene.image, "old": "disc", "new": "fog"}
    context.drawing = Image.of(pil.new("RGB", (64, 64), (128, 128, 128)))
    with pytest.raises(ToolError, match="fog"):
        tools["Replace Something From The Photo"].run(context, arguments)
    context.drawing = Audio.of(Waveform(np.zeros((1, 8), np.float32), 8000))
    with pytest.raises(ToolError, match="audio"):
        tools["Replace Something From The Photo"].run(context, arguments)


def test_background_becomes_white(tools: Tools, context: KnownContext, scene: Scene) -> None:
    result = tools["Remove the background"].run(context, {"image": scene.image})
    pixels, mask = array(result.parts[0]), array(result.parts[1])[..., 0] > 127
    assert iou(mask, scene.mask) > 0.95
    assert (pixels[~mask] == 255).all()
    core = (pixels == scene.pixels).all(axis=2)[mask].mean()
    assert core > 0.9


def test_a_blank_picture_has_no_object(tools: Tools, context: KnownContext) -> None:
    blank = Image.of(pil.new("RGB", (80, 60), (10, 200, 90)))
    with pytest.raises(ToolError, match="stands out"):
        tools["Remove the background"].run(context, {"image": blank})
