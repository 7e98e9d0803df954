"""The bridge to LangChain, with the real langchain-core."""

from __future__ import annotations

import pytest

from anybind.content import AnyPart, Image
from anybind.contracts import Tool
from anybind.errors import PluginError, ToolError
from anybind.tools.langchain import from_langchain, to_langchain

from .conftest import KnownContext, Scene, array

lc = pytest.importorskip("langchain_core.tools")
Tools = dict[str, Tool]


def test_results_can_be_named_in_the_next_call(
    tools: Tools, context: KnownContext, scene: Scene
) -> None:
    shelf: dict[str, AnyPart] = {"photo.png": scene.image}
    crop = to_langchain(tools["Crop the Given Object"], context, shelf)
    edge = to_langchain(tools["Edge Detection On Image"], context, shelf)
    first = crop.invoke(
        {"type": "tool_call", "id": "1", "name": crop.name,
         "args": {"image": "photo.png", "object": "disc"}}
    )  # fmt: skip
    assert first.status == "success"
    (part,) = first.artifact
    assert shelf[first.content] is part
    assert isinstance(part, Image)
    second = edge.invoke({"image": first.content})
    assert shelf[second].data.size == part.data.size
    assert array(shelf[second]).max() == 255


def test_schema_shows_strings_to_the_model(tools: Tools, context: KnownContext) -> None:
    bridged = to_langchain(tools["Replace Something From The Photo"], context)
    schema = bridged.tool_call_schema.model_json_schema()  # pyright: ignore
    assert list(schema["properties"]) == ["image", "old", "new"]
    assert {p["type"] for p in schema["properties"].values()} == {"string"}
    assert set(schema["required"]) == {"image", "old", "new"}


def test_tool_errors_are_messages_not_crashes(
    tools: Tools, context: KnownContext, scene: Scene
) -> None:
    shelf: dict[str, AnyPart] = {"photo.png": scene.image}
    detect = to_langchain(tools["Detect the Give Object"], context, shelf)
    assert "unicorn" in detect.invoke({"image": "photo.png", "object": "unicorn"})
    assert "photo.png" in detect.invoke({"image": "other.png", "object": "disc"})
    message = detect.invoke(
        {"type": "tool_call", "id": "1", "name": detect.name,
         "args": {"image": "/etc/passwd", "object": "disc"}}
    )  # fmt: skip
    assert message.status == "error"


def test_a_langchain_tool_becomes_ours() -> None:
    @lc.tool
    def repeat(text: str, times: int, sep: str = " ") -> str:
        """Repeat a text several times."""
        return sep.join([text] * times)

    ours = from_langchain(repeat)
    assert ours.name == "repeat"
    assert isinstance(ours, Tool)
    assert [p.name for p in ours.parameters] == ["text", "times"]
    assert ours.run(KnownContext(), {"text": "hi", "times": "3"}).observation == "hi hi hi"
    with pytest.raises(ToolError, match="repeat"):
        ours.run(KnownContext(), {"text": "hi", "times": "many"})
    with pytest.raises(ToolError, match="times"):
        ours.run(KnownContext(), {"text": "hi"})


def test_there_and_back(tools: Tools, context: KnownContext) -> None:
    context.answers["Why?"] = "Because."
    back = from_langchain(to_langchain(tools["Generate Image From User Input Text"], context))
    with pytest.raises(PluginError):
        from_langchain(lc.StructuredTool.from_function(str.upper, name="a,b", description="?"))
    assert "no generator" in back.run(context, {"text": "a cat"}).observation
