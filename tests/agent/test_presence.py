"""Whether something is in the picture is decided by the grounding expert; the decoder says the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from anybind.agent import Session
from anybind.agent.answering import NOTHING_TO_SEE
from anybind.agent.events import TextDelta
from anybind.agent.presence import asked_for, present, wants_a_look
from anybind.content import AnyPart, Image
from anybind.contracts import ContextExpert, Note
from tests.fakes import FakeGrounder, FakeNouns, FakeRuntime, picture


@pytest.mark.parametrize(
    "question",
    [
        "Is there a cat in the picture?",
        "is there a cat",
        "Are the cats in this photo?",
        "Do you see a cat?",
        "Hi! Can you see a cat in the image?",
        "Does the picture show a cat?",
        "Is a cat visible?",
        "Is the cat in the photo?",
        "Tell me whether there is a cat in the picture.",
        "Can you tell me if there is a cat?",
        "Is there a cat? Answer yes or no.",
        "Is there a cat, yes or no?",
    ],
)
def test_questions_after_something(question: str) -> None:
    asked = asked_for(question, FakeNouns())
    assert len(asked) == 1 and asked[0].startswith("cat")


@pytest.mark.parametrize(
    "question",
    [
        "What is in the picture?",
        "Is it a cat or a dog?",
        "Is there a cat or a dog?",
        "What does the cat like?",
        "Is the cat grey?",
        "How many cats are there?",
        "Tell me something about the cat.",
        "Is there anything else you can tell me about how the cat lives?",
        "Describe the cat.",
        "Cats are nice.",
        "",
    ],
)
def test_other_questions_are_left_to_the_decoder(question: str) -> None:
    assert asked_for(question, FakeNouns()) == []


def test_all_that_is_asked_for_must_be_there() -> None:
    seen = Image.of(picture())
    parser, grounder = FakeNouns(), FakeGrounder()
    assert present("Is there a cat?", seen, parser, grounder) is True
    assert present("Is there a dragon?", seen, parser, grounder) is False
    assert present("Is there a cat and a dragon?", seen, parser, grounder) is False
    assert present("What is that?", seen, parser, grounder) is None


def test_the_answer_begins_with_what_was_found(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    with Session(runtime, folder=tmp_path / "s") as session:
        no = session.ask("Is there a dragon in the picture?", picture())
        assert no.text.startswith("No")
        assert runtime.language.prompts[-1].endswith("assistant: No")
        yes = session.ask("Is there a cat in the picture?", picture())
        assert yes.text.startswith("Yes,")
        events = list(session.stream("Do you see a cat?", picture()))
        told = "".join(e.text for e in events if isinstance(e, TextDelta))
        assert told == session.turns[-1].answer
        session.ask("What is in the picture?", picture())
        assert runtime.language.prompts[-1].endswith("assistant: ")


def test_without_a_picture_the_decoder_answers_alone(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    with Session(runtime, folder=tmp_path / "s") as session:
        session.ask("Is there a dragon?")
        assert runtime.language.prompts[-1].endswith("assistant: ")


@pytest.mark.parametrize(
    ("question", "looks"),
    [
        ("Is there a cat in the picture?", True),
        ("What is in this photo?", True),
        ("Describe the image.", True),
        ("Do you see a dog?", True),
        ("What do you see?", True),
        ("Does the picture show a cat?", True),
        ("Is there a way to learn this?", False),
        ("What is the picture of Dorian Gray about?", False),
        ("Do you see the point of this argument, and why?", False),
        ("What does a camera do?", False),
        ("How do I take a good picture?", False),
        ("", False),
    ],
)
def test_what_only_a_look_can_answer(question: str, looks: bool) -> None:
    assert wants_a_look(question) is looks


def test_without_a_picture_nothing_is_seen(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    with Session(runtime, folder=tmp_path / "s") as session:
        assert session.ask("Is there a cat in the picture?").text == NOTHING_TO_SEE
        assert session.ask("Is there a cat in the picture?", picture()).text != NOTHING_TO_SEE
        # The picture of the last turn is still the one that is asked about.
        assert session.ask("What is in the picture?").text != NOTHING_TO_SEE


class Reads:
    """Puts every picture into words, which then stand for it."""

    name = "fake-reader"
    kinds = frozenset({"image"})

    def look(self, part: AnyPart, request: str) -> Note:
        return Note(self.name, "recognized text: EXIT", 0.99, (part.name,))

    def close(self) -> None:
        return None


class Reading(FakeRuntime):
    def context_experts(self, kind: str) -> list[ContextExpert]:
        return [Reads()] if kind == "image" else []


def test_a_picture_that_an_expert_put_into_words_is_attached_all_the_same(tmp_path: Path) -> None:
    with Session(Reading(), folder=tmp_path / "s") as session:
        # Its note has its part in the mix: there may be no condition, but there is a picture.
        assert session.ask("What is in the picture?", picture()).text != NOTHING_TO_SEE


def test_a_picture_that_was_made_can_be_asked_about(tmp_path: Path) -> None:
    with Session(FakeRuntime(), folder=tmp_path / "s") as session:
        session.ask("Draw a hat", outputs=("image",))
        assert session.ask("What is in the picture?").text != NOTHING_TO_SEE
