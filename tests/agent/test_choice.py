"""Splitting requests, and weighing tools against no tool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.agent.choice import NO_TOOL, Chooser, PriorConfig, choose_all, steps
from anybind.content import Embedding
from tests.fakes import TOOLS, find, invert


@pytest.mark.parametrize(
    ("request_text", "pieces"),
    [
        ("Detect the cat, then remove it.", ["Detect the cat", "remove it"]),
        ("Detect the cat. Remove it!", ["Detect the cat", "Remove it!"]),
        ("Detect the cat and then remove it", ["Detect the cat", "remove it"]),
        ("Make a sketch, after that, invert it", ["Make a sketch", "invert it"]),
        ("Make a sketch; finally invert it", ["Make a sketch", "finally invert it"]),
        ("Find the dog\r\nFind the cat", ["Find the dog", "Find the cat"]),
        ("Find the cat, next, remove it", ["Find the cat", "remove it"]),
        # What only looks like a step.
        ("Remove the ball next to the dog", ["Remove the ball next to the dog"]),
        ("Find the cat and the dog", ["Find the cat and the dog"]),
        ("Invert image/1a2b3c4d.png please", ["Invert image/1a2b3c4d.png please"]),
        ("What is 3.5 times 2?", ["What is 3.5 times 2?"]),
        ("?", ["?"]),
    ],
)
def test_steps(request_text: str, pieces: list[str]) -> None:
    assert steps(request_text) == pieces


@given(st.text(min_size=1).map(str.strip).filter(bool))  # as sessions hand requests over
def test_steps_never_lose_the_request(text: str) -> None:
    pieces = steps(text)
    assert pieces and all(p.strip(" \t\r\n") == p and p for p in pieces)
    assert all(p in text for p in pieces)


class OneHot:
    """A model whose similarities are written by hand: texts share an axis or do not."""

    def __init__(self, axes: dict[str, int], likelihoods: dict[str, float] | None = None) -> None:
        self.axes = axes
        self.likelihoods = likelihoods or {}
        self.embedded: list[str] = []
        self.language: Any = self
        self.shown: list[str] = []

    def embed_parts(self, parts: Any) -> list[Embedding]:
        out: list[Embedding] = []
        for part in parts:
            self.embedded.append(part.data)
            row = np.zeros(8, np.float32)
            row[next((a for text, a in self.axes.items() if text in part.data), 7)] = 1.0
            out.append(replace(Embedding.of(row), space="s"))
        return out

    def render(self, messages: Any, reply_prefix: str = "") -> str:
        return str(messages[-1].content)

    def score(self, prompt: str, continuations: Any, condition: Any) -> list[float]:
        self.shown.append(prompt)
        known = self.likelihoods if "New input: do it" in prompt else {}
        return [next((v for k, v in known.items() if k in c), -10.0) for c in continuations]


def test_the_nearest_description_wins_if_nearer_than_no_tool() -> None:
    model: Any = OneHot({"do it": 1, find.name: 1, find.description: 1})
    chooser = Chooser(model, PriorConfig(likelihood=0.0))
    choice = chooser.choose("do it", TOOLS, [])
    assert choice.tool is find
    assert choice.ranked[0][0] == find.name
    model = OneHot({"hello": 2, NO_TOOL[4]: 2})
    assert Chooser(model, PriorConfig(likelihood=0.0)).choose("hello", TOOLS, []).tool is None


def test_the_decoder_decides_between_equals() -> None:
    axes = {"do it": 1, find.name: 1, find.description: 1, invert.name: 1, invert.description: 1}
    for wanted in (find, invert):
        model: Any = OneHot(axes, {wanted.name: -1.0})
        chooser = Chooser(model, PriorConfig(likelihood=0.5))
        assert chooser.choose("do it", TOOLS, ["Human: earlier"]).tool is wanted
        assert any("New input: do it" in p and "Human: earlier" in p for p in model.shown)


def test_without_tools_there_is_none_and_nothing_is_computed() -> None:
    model: Any = OneHot({})
    assert Chooser(model).choose("do it", [], []).tool is None
    assert model.embedded == []


def test_names_of_files_say_nothing_and_texts_are_embedded_once() -> None:
    model: Any = OneHot({})
    chooser = Chooser(model, PriorConfig(likelihood=0.0))
    chooser.choose("Invert image/1a2b3c4d.png", TOOLS, [])
    assert "Invert the image" in model.embedded
    before = len(model.embedded)
    chooser.choose("Invert image/99999999.png", TOOLS, [])
    assert len(model.embedded) == before


def test_the_shortlist_is_what_it_says() -> None:
    model: Any = OneHot({})
    choice = Chooser(model, PriorConfig(likelihood=0.0, shortlist=2)).choose("x", TOOLS, [])
    assert len(choice.shortlist) == 2 and len(choice.ranked) == 3


def test_two_sentences_of_one_wish_are_one_piece() -> None:
    axes = {"lamp": 1, "it has": 1, find.name: 1, find.description: 1, "Hello": 2, NO_TOOL[4]: 2}
    model: Any = OneHot(axes)
    chooser = Chooser(model, PriorConfig(likelihood=0.0))
    made = choose_all(chooser, "The lamp is lost. Now it has to be found.", TOOLS, [])
    assert [(p, c.tool) for p, c in made] == [
        ("The lamp is lost. Now it has to be found", find),
    ]  # fmt: skip
    # What greets is a piece of its own, and a second thing is a second call.
    made = choose_all(chooser, "Hello! The lamp, then the other lamp", TOOLS, [])
    assert [c.tool for _, c in made] == [None, find, find]


def test_where_no_piece_asks_for_a_tool_the_whole_may() -> None:
    model: Any = OneHot({"lamp. Gone": 1, find.name: 1, find.description: 1, NO_TOOL[0]: 7})
    chooser = Chooser(model, PriorConfig(likelihood=0.0, none_bias=0.5))
    made = choose_all(chooser, "My lamp. Gone", TOOLS, [])
    assert [(p, c.tool) for p, c in made] == [("My lamp. Gone", find)]


def test_a_matcher_takes_the_place_of_the_similarities() -> None:
    class Wants:
        space = "s"

        def scores(
            self, text: str, request: Any, told: Any, tools: Any
        ) -> tuple[float, list[float]]:
            assert [len(t) for t in told] == [len(t) for t in tools]
            assert text == "x" and request.shape == (8,) and all(t.shape[1] == 8 for t in tools)
            return 1.0, [3.0 if i == 1 else 0.0 for i in range(len(tools))]

    model: Any = OneHot({})
    wants: Any = Wants()
    choice = Chooser(model, PriorConfig(likelihood=0.0), wants).choose("x", TOOLS, [])
    assert choice.tool is TOOLS[1] and choice.ranked[0] == (TOOLS[1].name, 3.0)
    before = len(model.embedded)
    again = Chooser(model, PriorConfig(likelihood=0.0), wants)
    again.choose("x", TOOLS, [])
    seen = len(model.embedded)
    again.choose("x", TOOLS, [])
    assert len(model.embedded) == seen > before  # descriptions are embedded once
