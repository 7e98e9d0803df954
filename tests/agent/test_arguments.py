"""What may stand in the arguments of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anybind.agent.arguments import candidates, possible
from anybind.agent.artifacts import ArtifactStore
from anybind.agent.wording import change, guided_wish, wish
from anybind.content import Image, Text
from anybind.contracts import Noun, Parameter
from anybind.tooling import FunctionTool
from tests.fakes import FakeNouns, find, invert, picture, sleep


def tool_of(*parameters: tuple[str, str]) -> FunctionTool:
    listed = tuple(Parameter(n, k) for n, k in parameters)
    return FunctionTool("T", "d", listed, (), lambda: "", False)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path)
    for i in range(3):
        store.add(Image.of(picture(i)))
    return store


def ask(tool: Any, piece: str, artifacts: ArtifactStore, **options: Any) -> list[Any]:
    settings: dict[str, Any] = {"attached": [], "produced": []} | options
    return candidates(tool, piece, piece, artifacts, FakeNouns(), **settings)


def test_a_named_artifact_then_a_result_then_what_came_then_the_last(
    artifacts: ArtifactStore,
) -> None:
    a, b, c = artifacts.names()
    given = {"attached": [a], "produced": [b]}
    assert ask(invert, f"Invert {c}", artifacts, **given) == [[c]]
    assert ask(invert, "Invert the result", artifacts, **given) == [[b]]
    assert ask(invert, "Invert it", artifacts, **given) == [[a]]
    assert ask(invert, "Invert it", artifacts) == [[c]]
    # A name that the session does not have is not taken.
    assert ask(invert, "Invert image/00000000.png", artifacts, **given) == [[a]]


def test_the_thing_comes_from_the_nouns(artifacts: ArtifactStore) -> None:
    assert ask(find, "Find the cat near a dog", artifacts)[1] == ["cat", "dog"]
    # Without a noun: any words of the piece.
    assert ask(find, "Find Fido, quickly", artifacts)[1] == "Find Fido quickly"
    # The picture itself is no thing in it.
    assert ask(find, "Find the picture", artifacts)[1] == "Find the picture"


def test_two_texts_are_told_apart_by_the_link_word(artifacts: ArtifactStore) -> None:
    replace_tool = tool_of(("image", "image"), ("thing", "text"), ("other", "text"))
    got = ask(replace_tool, "Replace the cat with a dog", artifacts)
    assert got[1:] == [["cat"], ["dog"]]


def test_questions_and_wishes_are_whole(artifacts: ArtifactStore) -> None:
    (name, *_) = artifacts.names()
    vqa = tool_of(("image", "image"), ("question", "text"))
    assert ask(vqa, f"How many dogs are in {name} ?", artifacts)[1] == ["How many dogs are in  ?"]
    assert ask(vqa, name, artifacts)[1] == [name]  # never an empty argument
    draw = tool_of(("text", "text"))
    assert ask(draw, "Draw a picture of a red cat.", artifacts) == [["a red cat"]]


@pytest.mark.parametrize(
    ("piece", "wished"),
    [
        ("Draw a picture of a red cat.", "a red cat"),
        ("Please generate an image showing two dogs", "two dogs"),
        ("can you paint me a house", "a house"),
        ("a house", "a house"),
        ("draw", "draw"),
        ("Draw a cup of tea", "a cup of tea"),
    ],
)
def test_wish(piece: str, wished: str) -> None:
    assert wish(piece) == wished


def test_a_noun_parser_that_gives_empty_heads_does_no_harm(artifacts: ArtifactStore) -> None:
    class Odd:
        name = "odd"

        def nouns(self, text: str) -> list[Noun]:
            return [Noun("the", (0, 3), ""), Noun("the cat", (0, 7), "cat")]

        def close(self) -> None:
            return None

    got = candidates(find, "x", "x", artifacts, Odd(), attached=[], produced=[])
    assert got[1] == ["cat"]


def test_a_tool_is_possible_if_there_is_something_to_give_it(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert possible(sleep, store) and not possible(invert, store)
    store.add(Text.of("x"))
    assert not possible(invert, store)
    store.add(Image.of(picture()))
    assert possible(invert, store)


@pytest.mark.parametrize(
    ("request_text", "scene"),
    [
        ("Use the edges image/1a2b3c4d.png to draw a fox in the snow.", "a fox in the snow"),
        ("The pose in image/1a2b3c4d.png should be that of a dancer.", "a dancer"),
        ("Could a small wizard be made out of the regions in it?", "a small wizard"),
        (
            "Generate a red tram in the rain along the edges in the picture",
            "a red tram in the rain",
        ),
        ("The lines are in image/1a2b3c4d.png. Show a harbour with them.", "a harbour"),
    ],
)
def test_a_scene_along_a_map_is_without_the_map(request_text: str, scene: str) -> None:
    assert guided_wish(request_text) == scene


@pytest.mark.parametrize(
    ("request_text", "wanted"),
    [
        ("Could you take my photo and make it winter?", "make it winter"),
        (
            "A new look for image/1a2b3c4d.png: turn it into a mosaic, please.",
            "turn it into a mosaic",
        ),
        ("make it stormy", "make it stormy"),
    ],
)
def test_a_change_is_without_its_introduction(request_text: str, wanted: str) -> None:
    assert change(request_text) == wanted


def test_the_new_thing_may_come_first(artifacts: ArtifactStore) -> None:
    swap = tool_of(("image", "image"), ("old", "text"), ("new", "text"))
    for said in ("Put a cat in lieu of the dog", "Substitute a cat for the dog",
                 "Place a cat where the dog is", "Instead of the dog show a cat"):  # fmt: skip
        assert ask(swap, said, artifacts)[1:] == [["dog"], ["cat"]], said
