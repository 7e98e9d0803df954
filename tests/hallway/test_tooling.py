"""`@tool`: the signature is the contract."""

from __future__ import annotations

from typing import Any, cast

import pytest

from anybind.content import Audio, Image, Text
from anybind.contracts import Tool, ToolContext, ToolResult
from anybind.errors import PluginError, ToolError
from anybind.tooling import tool

CONTEXT: Any = cast("ToolContext", object())


@tool("Blend Two", requires=("library:cv2",))
def blend(context: ToolContext, first: Image, second: Audio, how: str) -> str:
    """Blend two things.

    The input is both names and a word.

    Args:
        first: The picture.
        second (Audio): The sound.
        how: In which way.
    """
    return f"{context is CONTEXT} {how}"


def test_signature_and_docstring_become_the_contract() -> None:
    assert isinstance(blend, Tool)
    assert (blend.name, blend.requires) == ("Blend Two", ("library:cv2",))
    assert blend.description == "Blend two things. The input is both names and a word."
    assert [(p.name, p.kind, p.description) for p in blend.parameters] == [
        ("first", "image", "The picture."), ("second", "audio", "The sound."),
        ("how", "text", "In which way."),
    ]  # fmt: skip
    assert blend.schema() == {
        "type": "object",
        "properties": {
            "first": {"type": "string", "description": "The picture.", "contentKind": "image"},
            "second": {"type": "string", "description": "The sound.", "contentKind": "audio"},
            "how": {"type": "string", "description": "In which way.", "contentKind": "text"},
        },
        "required": ["first", "second", "how"],
    }


def test_run_gives_the_context_and_the_checked_arguments() -> None:
    from PIL import Image as pil

    values = {"first": Image.of(pil.new("RGB", (1, 1))), "second": Audio.of(None), "how": "well"}
    assert blend.run(CONTEXT, values).observation == "True well"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"how": ""}, "how"), ({"how": None}, "how"), ({"how": 3}, "how"),
        ({"first": "image/1a2b3c4d.png"}, "first"), ({"first": Audio.of(None)}, "first"),
        ({"more": "x"}, "more"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_a_tool_error_that_names_them(
    change: dict[str, Any], named: str
) -> None:
    values = {"first": Image.of(None), "second": Audio.of(None), "how": "well"}
    with pytest.raises(ToolError, match=f"Blend Two: {named}"):
        blend.run(CONTEXT, values | change)
    del values["second"]
    with pytest.raises(ToolError, match="Blend Two: second"):
        blend.run(CONTEXT, values)


def test_what_a_tool_may_return() -> None:
    part = Text.of("x")
    result = ToolResult((part,), "seen")

    def giving(value: Any) -> Any:
        @tool("T")
        def give(what: str) -> Any:
            """Give."""
            return value

        return give.run(CONTEXT, {"what": "x"})

    assert giving(part) == ToolResult((part,))
    assert giving("words") == ToolResult((), "words")
    assert giving(result) is result
    for wrong in (None, 3, [part]):
        with pytest.raises(PluginError, match="'T'"):
            giving(wrong)


@pytest.mark.parametrize("name", ["", "  ", "a, b", "a\nb", "a]", "[a"])
def test_a_name_that_breaks_the_protocol_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match="called"):

        @tool(name)
        def f(x: str) -> str:
            """Do."""
            return x


def test_a_signature_that_can_be_no_tool_names_the_parameter() -> None:
    def bare(x) -> str:  # type: ignore[no-untyped-def]
        """Do."""
        return ""

    def number(count: int) -> str:
        """Do."""
        return ""

    def many(*things: str) -> str:
        """Do."""
        return ""

    def late(context: str, second: ToolContext) -> str:
        """Do."""
        return ""

    for function, named in ((bare, "'x'"), (number, "'count'"), (many, "'things'"), (late, "'second'")):  # fmt: skip
        with pytest.raises(PluginError, match=named):
            tool("T")(function)


def test_a_tool_needs_words_for_the_model() -> None:
    def silent(x: str) -> str:
        return x

    with pytest.raises(PluginError, match="docstring"):
        tool("T")(silent)
    assert tool("T", description="Does it.")(silent).description == "Does it."


def test_an_annotation_that_can_not_be_found_is_a_plugin_error() -> None:
    def lost(x: str) -> str:
        """Do."""
        return x

    lost.__annotations__["x"] = "NobodyKnowsThis"
    with pytest.raises(PluginError, match="NobodyKnowsThis"):
        tool("T")(lost)
