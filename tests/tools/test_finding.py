"""Detection, segmentation and crops against pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from anybind.content import Box, Boxes
from anybind.contracts import Tool
from anybind.errors import ToolError

from .conftest import KnownContext, Scene, array, iou, make_scene

Tools = dict[str, Tool]


def test_detect_draws_the_box_and_keeps_it(
    tools: Tools, context: KnownContext, scene: Scene
) -> None:
    result = tools["Detect the Give Object"].run(context, {"image": scene.image, "object": "disc"})
    drawn, boxes = result.parts
    assert isinstance(boxes, Boxes)
    assert boxes.data == (Box("disc", scene.box, 0.9),)
    changed = (array(drawn) != scene.pixels).any(axis=2)
    x0, y0, x1, y1 = (round(v) for v in scene.box)
    assert changed[y0:y1, x0].all()
    assert changed[y1 - 1, x0:x1].all()
    inner = changed[y0 + 30 : y1 - 8, x0 + 8 : x1 - 8]
    assert not inner.any()
    assert drawn.provenance.made_by == "tool:Detect the Give Object"


def test_detect_drops_boxes_of_the_same_region(
    tools: Tools, context: KnownContext, scene: Scene
) -> None:
    x0, y0, x1, y1 = scene.box
    inner = Box("disc", (x0 + 4, y0 + 4, x1, y1), 0.4)
    far = Box("disc", (120, 5, 150, 30), 0.5)
    context.boxes["disc"] = [inner, *context.boxes["disc"], far]
    result = tools["Detect the Give Object"].run(context, {"image": scene.image, "object": "disc"})
    assert [box.score for box in result.parts[1].data] == [0.9, 0.5]


@pytest.mark.parametrize(
    "name",
    ["Detect the Give Object", "Segment the given object", "Crop the Given Object",
     "Remove Something From The Photo"],
)  # fmt: skip
def test_what_is_not_there_is_an_error_that_names_it(
    tools: Tools, context: KnownContext, scene: Scene, name: str
) -> None:
    with pytest.raises(ToolError, match="unicorn"):
        tools[name].run(context, {"image": scene.image, "object": "unicorn"})


@pytest.mark.parametrize("grow", [-5, 0, 9])
def test_segment_finds_the_outline_also_from_a_coarse_box(
    tools: Tools, scene: Scene, grow: int
) -> None:
    x0, y0, x1, y1 = scene.box
    box = Box("disc", (x0 - grow, y0 - grow, x1 + grow, y1 + grow), 0.9)
    result = tools["Segment the given object"].run(
        KnownContext({"disc": [box]}), {"image": scene.image, "object": "disc"}
    )
    overlay, mask = result.parts
    assert overlay.data.size == scene.image.data.size
    assert iou(array(mask)[..., 0] > 127, scene.mask) > 0.9
    middle = array(overlay)[60, 70].astype(int)
    assert np.abs(middle - scene.pixels[60, 70]).sum() > 60


def test_segment_takes_all_found(tools: Tools, scene: Scene) -> None:
    second = make_scene(centre=(128, 88), radius=18)
    pixels = np.where(second.mask[..., None], second.pixels, scene.pixels)
    from PIL import Image as pil

    from anybind.content import Image

    context = KnownContext({"disc": [Box("disc", scene.box, 0.9), Box("disc", second.box, 0.8)]})
    result = tools["Segment the given object"].run(
        context, {"image": Image.of(pil.fromarray(pixels)), "object": "disc"}
    )
    assert iou(array(result.parts[1])[..., 0] > 127, scene.mask | second.mask) > 0.9


def test_segment_says_when_nothing_stands_out(tools: Tools) -> None:
    from PIL import Image as pil

    from anybind.content import Image

    flat = Image.of(pil.new("RGB", (80, 60), (90, 90, 90)))
    context = KnownContext({"fog": [Box("fog", (10, 10, 11, 11), 0.9)]})
    with pytest.raises(ToolError, match="fog"):
        tools["Segment the given object"].run(context, {"image": flat, "object": "fog"})


def test_crop_object(tools: Tools, context: KnownContext, scene: Scene) -> None:
    (cut,) = (
        tools["Crop the Given Object"].run(context, {"image": scene.image, "object": "disc"}).parts
    )
    x0, y0, x1, y1 = (round(v) for v in scene.box)
    assert (array(cut) == scene.pixels[y0:y1, x0:x1]).all()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("[10, 20, 60, 90]", (10, 20, 60, 90)),
        ("10 20 60 90", (10, 20, 60, 90)),
        ("[60, 90, 10, 20]", (10, 20, 60, 90)),
        ("25%, 50%, 75%, 100%", (40, 60, 120, 120)),
        ("-5, 100, 900, 900", (0, 100, 160, 120)),
    ],
)
def test_crop(
    tools: Tools, context: KnownContext, scene: Scene, box: str, expected: tuple[int, ...]
) -> None:
    (cut,) = tools["Crop Image"].run(context, {"image": scene.image, "box": box}).parts
    x0, y0, x1, y1 = expected
    assert (array(cut) == scene.pixels[y0:y1, x0:x1]).all()


@pytest.mark.parametrize("box", ["the middle", "1, 2, 3", "1 2 3 4 5", "500, 500, 600, 600"])
def test_crop_refuses_what_is_no_rectangle_of_the_picture(
    tools: Tools, context: KnownContext, scene: Scene, box: str
) -> None:
    with pytest.raises(ToolError):
        tools["Crop Image"].run(context, {"image": scene.image, "box": box})
