"""Edge, line, sketch, soft-edge and region pictures against known geometry."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as pil
from PIL import ImageDraw

from anybind.content import Image
from anybind.contracts import Tool
from anybind.tools.contours import straight_lines
from anybind.tools.regions import segment

from .conftest import KnownContext, Scene, array, make_scene

Tools = dict[str, Tool]
OUTLINES = ["Edge Detection On Image", "Sketch Detection On Image", "Hed Detection On Image"]


def grey(tools: Tools, name: str, image: Image) -> np.ndarray:
    (part,) = tools[name].run(KnownContext(), {"image": image}).parts
    assert part.data.size == image.data.size
    return array(part)[..., 0]


def distance_to_circle(shape: tuple[int, ...]) -> np.ndarray:
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    return np.abs(np.hypot(xs - 70, ys - 60) - 28)


@pytest.mark.parametrize("name", OUTLINES)
def test_outline_is_on_the_circle_and_nowhere_else(tools: Tools, scene: Scene, name: str) -> None:
    strokes = grey(tools, name, scene.image) > 127
    away = distance_to_circle(strokes.shape)
    assert strokes.any()
    assert away[strokes].max() < 6
    ys, xs = np.nonzero(strokes)
    angles = np.unique((np.degrees(np.arctan2(ys - 60, xs - 70)) // 15).astype(int))
    assert len(angles) >= 22  # of 24 sectors


def test_hed_is_soft_and_the_others_are_not(tools: Tools, scene: Scene) -> None:
    soft = grey(tools, "Hed Detection On Image", scene.image)
    assert len(np.unique(soft)) > 20
    for name in OUTLINES[:2]:
        assert set(np.unique(grey(tools, name, scene.image))) == {0, 255}


def test_hed_grades_by_strength(tools: Tools) -> None:
    pixels = np.full((120, 180, 3), 100, np.uint8)
    pixels[:, 60:120] = 130
    pixels[:, 120:] = 240
    soft = grey(tools, "Hed Detection On Image", Image.of(pil.fromarray(pixels)))
    assert 0 < soft[60, 55:65].max() < 0.7 * soft[60, 115:125].max()


def test_sketch_strokes_are_thicker_than_edges(tools: Tools, scene: Scene) -> None:
    thin = (grey(tools, OUTLINES[0], scene.image) > 127).sum()
    assert (grey(tools, OUTLINES[1], scene.image) > 127).sum() > 1.5 * thin


@pytest.mark.parametrize("name", OUTLINES)
def test_a_blank_picture_has_no_outlines(tools: Tools, name: str) -> None:
    blank = Image.of(pil.new("RGB", (90, 70), (120, 160, 80)))
    assert grey(tools, name, blank).max() == 0


def test_lines_are_found_where_they_were_drawn(tools: Tools) -> None:
    picture = pil.new("RGB", (320, 240), "white")
    ImageDraw.Draw(picture).line((30, 40, 290, 200), fill="black", width=3)
    image = Image.of(picture)
    strokes = grey(tools, "Line Detection On Image", image) > 127
    ys, xs = np.nonzero(strokes)
    along = np.array([260, 160]) / np.hypot(260, 160)
    off = np.abs((xs - 30) * along[1] - (ys - 40) * along[0])
    assert off.max() < 5
    _, lines = straight_lines(np.asarray(picture))
    assert np.hypot(lines[0, 2] - lines[0, 0], lines[0, 3] - lines[0, 1]) > 285  # of 305


def test_noise_has_next_to_no_lines(tools: Tools) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    _, lines = straight_lines(noise)
    assert np.hypot(lines[:, 2] - lines[:, 0], lines[:, 3] - lines[:, 1]).sum() < 0.5 * 283


def test_regions_follow_the_things(scene: Scene) -> None:
    labels = segment(scene.pixels)
    disc = np.bincount(labels[scene.mask]).argmax()
    ground = np.bincount(labels[~scene.mask]).argmax()
    assert disc != ground
    assert ((labels == disc) == scene.mask).mean() > 0.98
    assert ground == 0  # numbered by area


def test_segment_the_image_colours_regions_apart(tools: Tools, scene: Scene) -> None:
    (part,) = tools["Segment the Image"].run(KnownContext(), {"image": scene.image}).parts
    pixels = array(part).astype(int)
    inside = pixels[scene.mask].mean(axis=0)
    outside = pixels[~scene.mask].mean(axis=0)
    assert np.abs(inside - outside).max() > 60
    assert pixels[50:70, 60:80].std(axis=(0, 1)).max() < 12


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (17, 11)])
@pytest.mark.parametrize("name", [*OUTLINES, "Line Detection On Image", "Segment the Image"])
def test_tiny_and_thin_pictures(tools: Tools, name: str, size: tuple[int, int]) -> None:
    image = Image.of(pil.effect_noise(size, 80).convert("RGB"))
    (part,) = tools[name].run(KnownContext(), {"image": image}).parts
    assert part.data.size == size


def test_scale_does_not_change_the_findings(tools: Tools) -> None:
    big = make_scene((1920, 1440), (840, 720), 336)
    strokes = grey(tools, "Sketch Detection On Image", big.image) > 127
    ys, xs = np.nonzero(strokes)
    away = np.abs(np.hypot(xs - 840, ys - 720) - 336)
    assert strokes.any()
    assert away.max() < 40
