"""A call's line becomes arguments, and a name a tool; nothing but ToolError ever comes out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.contracts import Parameter, Tool
from anybind.errors import ToolError
from anybind.tools.arguments import join_arguments, resolve_name, split_arguments
from anybind.tools.plugin import register_tools

TOOLS = tuple(register_tools())
BY_NAME = {tool.name: tool for tool in TOOLS}


@dataclass(frozen=True)
class Arity:
    """A tool that only has parameters."""

    count: int
    name: str = "Some Tool"
    description: str = "Some tool."
    requires: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(Parameter(f"p{i}", "text") for i in range(self.count))

    def run(self, context: object, arguments: object) -> None:  # never called
        raise AssertionError


def split(raw: str, count: int) -> tuple[str, ...]:
    return split_arguments(raw, Arity(count))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("raw", "count", "expected"),
    [
        ("", 0, ()),
        ("anything, at all", 0, ()),
        ("image/cd72c8a5.png", 1, ("image/cd72c8a5.png",)),
        (' "image/cd72c8a5.png" ', 1, ("image/cd72c8a5.png",)),
        ("a red, big house", 1, ("a red, big house",)),
        ("image/cd72c8a5.png, woman", 2, ("image/cd72c8a5.png", "woman")),
        ("image/cd72c8a5.png,woman", 2, ("image/cd72c8a5.png", "woman")),
        ("a.png, what, if any, is red?", 2, ("a.png", "what, if any, is red?")),
        ("a.png, [1, 2, 3, 4]", 2, ("a.png", "[1, 2, 3, 4]")),
        ("image/81681aac.png, dog, cat", 3, ("image/81681aac.png", "dog", "cat")),
        ('"image/81681aac.png, dog, cat"', 3, ("image/81681aac.png", "dog", "cat")),
        ('"image/81681aac.png", "dog", "cat"', 3, ("image/81681aac.png", "dog", "cat")),
        ("'a.png', \"dog\", cat", 3, ("a.png", "dog", "cat")),
        ('a.png, "a big, red dog", a cat, sitting', 3,
         ("a.png", "a big, red dog", "a cat, sitting")),
        ("a.png, the dog's bowl, a cat's bowl", 3, ("a.png", "the dog's bowl", "a cat's bowl")),
        ("a.png, 'tis a dog, a cat", 3, ("a.png", "'tis a dog", "a cat")),
        ("a.png, say \"hi\"", 2, ("a.png", 'say "hi"')),
    ],
)  # fmt: skip
def test_split(raw: str, count: int, expected: tuple[str, ...]) -> None:
    assert split(raw, count) == expected


@pytest.mark.parametrize(
    ("raw", "count"),
    [("", 1), ("  ", 1), ('""', 1), ("a.png", 2), ("a.png,", 2), ("a.png, ,cat", 3), (",", 2)],
)
def test_too_few_or_empty_says_what_is_taken(raw: str, count: int) -> None:
    with pytest.raises(ToolError, match=r"Some Tool takes .*p0"):
        split(raw, count)


@given(st.text(), st.integers(0, 4))
def test_no_string_breaks_splitting(raw: str, count: int) -> None:
    try:
        parts = split(raw, count)
    except ToolError:
        return
    assert len(parts) == count
    assert all(part and part == part.strip() for part in parts)


plain = st.text(
    st.characters(exclude_characters=",\"'`“”‘’", exclude_categories=("Cs",)), min_size=1
).filter(lambda text: text == text.strip() and bool(text))
last = st.text(
    st.characters(exclude_characters="\"'`“”‘’", exclude_categories=("Cs",)), min_size=1
).filter(lambda text: text == text.strip() and bool(text))


@given(st.lists(plain, max_size=4), last)
def test_join_then_split_gives_the_parts_back(head: list[str], tail: str) -> None:
    parts = (*head, tail)
    assert split(join_arguments(parts), len(parts)) == parts


@given(st.lists(last, min_size=1, max_size=4))
def test_quoted_arguments_may_hold_commas(parts: list[str]) -> None:
    assert split(", ".join(f'"{part}"' for part in parts), len(parts)) == tuple(parts)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Detect the Give Object", "Detect the Give Object"),
        ("Detect the Given Object", "Detect the Give Object"),
        ("Detect Given Object", "Detect the Give Object"),
        ("detect object", "Detect the Give Object"),
        ("Detect_the_Give_Object", "Detect the Give Object"),
        (" segment the GIVEN object ", "Segment the given object"),
        ("Segment the Image", "Segment the Image"),
        ("edge detection on image", "Edge Detection On Image"),
        ("Edge Detection On The Image", "Edge Detection On Image"),
        ("Answer Question About Image", "Answer Question About The Image"),
    ],
)
def test_names_are_repaired(written: str, meant: str) -> None:
    assert resolve_name(written, TOOLS).name == meant


@pytest.mark.parametrize("written", ["", "Fly To The Moon", "the", "Object", "Segment"])
def test_unknown_name_lists_the_tools(written: str) -> None:
    with pytest.raises(ToolError, match="Edge Detection On Image"):
        resolve_name(written, TOOLS)


def test_a_near_miss_is_suggested_but_not_taken() -> None:
    with pytest.raises(ToolError, match="Did you mean Line Detection On Image"):
        resolve_name("Lines Detection On Images", TOOLS)


def test_an_alias_of_a_missing_tool_is_unknown() -> None:
    with pytest.raises(ToolError, match="tools are: Crop Image"):
        resolve_name("Detect Object", [BY_NAME["Crop Image"]])


@given(st.text())
def test_no_string_breaks_naming(written: str) -> None:
    try:
        tool: Tool = resolve_name(written, TOOLS)
    except ToolError:
        return
    assert tool in TOOLS
