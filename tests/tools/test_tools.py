"""The set as a whole: names, light import, and the tools that go through the model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as pil
from PIL import ImageFilter

from anybind.content import Image
from anybind.contracts import Tool
from anybind.errors import ToolError

from .conftest import KnownContext, Scene

Tools = dict[str, Tool]

# The exact names of GPT4Tools for what needs no large weights.
CANONICAL = {
    "Get Photo Description": 1,
    "Answer Question About The Image": 2,
    "Detect the Give Object": 2,
    "Segment the given object": 2,
    "Remove Something From The Photo": 2,
    "Replace Something From The Photo": 3,
    "Edge Detection On Image": 1,
    "Line Detection On Image": 1,
    "Sketch Detection On Image": 1,
    "Hed Detection On Image": 1,
    "Segment the Image": 1,
    "Generate Image From User Input Text": 1,
}


def test_canonical_names_and_arity(tools: Tools) -> None:
    for name, arity in CANONICAL.items():
        assert len(tools[name].parameters) == arity, name


def test_every_tool_is_described_for_a_small_model(tools: Tools) -> None:
    for tool in tools.values():
        assert 30 < len(tool.description) < 160, tool.name
        assert "\n" not in tool.description
        assert all(p.description for p in tool.parameters), tool.name


def test_importing_the_plugin_loads_no_library() -> None:
    code = (
        "import sys; from anybind.tools.plugin import register_tools; list(register_tools());"
        "heavy = {'cv2', 'torch', 'numpy', 'transformers', 'diffusers', 'langchain_core'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_description_and_question_go_to_the_model(tools: Tools, scene: Scene) -> None:
    from anybind.tools.looking import DESCRIBE

    context = KnownContext(answers={DESCRIBE: " A disc. ", "How many?": "One."})
    said = tools["Get Photo Description"].run(context, {"image": scene.image})
    assert said.observation == "A disc."
    answered = tools["Answer Question About The Image"].run(
        context, {"image": scene.image, "question": "How many?"}
    )
    assert answered.observation == "One."
    assert all(parts == (scene.image,) for _, parts in context.asked)


def test_an_empty_answer_is_an_error(tools: Tools, scene: Scene) -> None:
    with pytest.raises(ToolError):
        tools["Get Photo Description"].run(KnownContext(), {"image": scene.image})


def test_generate_passes_the_text_on(tools: Tools, scene: Scene) -> None:
    context = KnownContext(drawing=scene.image)
    result = tools["Generate Image From User Input Text"].run(context, {"text": "a red disc"})
    assert context.drawn == [("image", "a red disc")]
    assert result.parts == (scene.image,)


def test_a_wrong_kind_of_argument_is_a_tool_error(tools: Tools) -> None:
    with pytest.raises(ToolError, match="image"):
        tools["Edge Detection On Image"].run(KnownContext(), {"image": "image/0.png"})


def _photo() -> pil.Image:
    """Sharp shapes of many sizes, well lit."""
    rng = np.random.default_rng(1)
    pixels = np.full((360, 480, 3), 128, np.uint8)
    for _ in range(150):
        x, y, s = rng.integers(0, 440), rng.integers(0, 320), rng.integers(10, 60)
        pixels[y : y + s, x : x + s] = rng.integers(20, 235, 3)
    return pil.fromarray(pixels)


def test_quality_tells_the_fault(tools: Tools) -> None:
    photo = _photo()
    noise = np.random.default_rng(2).normal(0, 25, (360, 480, 3))
    faults = {
        "no fault": photo,
        "blurred": photo.filter(ImageFilter.GaussianBlur(4)),
        "too dark": photo.point(lambda v: v * 0.2),
        "too bright": photo.point(lambda v: 215 + v * 0.12),
        "noisy": pil.fromarray(np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)),
        "small": photo.resize((120, 90)),
    }
    for fault, picture in faults.items():
        text = (
            tools["Assess the Image Quality"]
            .run(KnownContext(), {"image": Image.of(picture)})
            .observation
        )
        verdict = text.partition(".")[0]
        assert fault in verdict, (fault, text)
        others = set(faults) - {fault, "small"}
        assert not any(other in verdict for other in others - {"no fault"}), (fault, text)
