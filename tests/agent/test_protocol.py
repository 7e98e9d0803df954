"""The GPT4Tools protocol: marker lines, parse rules, and grammars whose calls always parse."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anybind.agent.protocol import (
    USE,
    Action,
    Answer,
    answer_grammar,
    call_grammar,
    call_text,
    choice_grammar,
    observation,
    parse,
    prompt,
    resolve,
    upload_line,
)
from anybind.contracts import Parameter
from anybind.errors import ToolError
from anybind.tooling import FunctionTool
from tests.fakes import TOOLS, blind, find, invert, sleep


def named(name: str, *parameters: str) -> FunctionTool:
    return FunctionTool(
        name, "Does it.", tuple(Parameter(p, "text") for p in parameters), (), lambda: "", False
    )


# ---------------------------------------------------------------- the prompt


def test_the_prompt_has_the_marker_lines() -> None:
    history = [upload_line("image/1a2b3c4d.png", "a dog")]
    text = prompt([invert, find], history, "Find the dog", "SCRATCH")
    head, _, rest = text.partition(
        "TOOLS:\n------\n\nGPT4Tools has access to the following tools:\n\n"
    )
    assert head.endswith("\n")
    assert rest.startswith(
        f"> Invert Image: {invert.description}\n> Find Thing: {find.description}\n\n"
        "To use a tool, please use the following format:\n\n```\n"
        "Thought: Do I need to use a tool? Yes\n"
        "Action: the action to take, should be one of [Invert Image, Find Thing]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n```\n\n"
        "When you have a response to say to the Human, or if you do not need to use a tool, you "
        "MUST use the format:\n\n```\nThought: Do I need to use a tool? No\n"
        "AI: [your response here]\n```\n\n"
    )
    assert text.count("\n\nPrevious conversation:\n\nHuman: Provide an image named") == 1
    assert "AI: Received.\n\nNew input: Find the dog\n" in text
    assert text.endswith("Let's think step by step.\nSCRATCH")


def test_the_upload_line() -> None:
    assert upload_line("image/1a2b3c4d.png", "a dog").startswith(
        "Human: Provide an image named image/1a2b3c4d.png. The description is: a dog."
    )


# ---------------------------------------------------------------- parsing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{USE}Yes\nAction: Sketch\nAction Input: image/a.png\n", Action("Sketch", "image/a.png")),
        # The first action wins over what is made up behind it.
        (
            f"{USE}Yes\nAction: A\nAction Input: x\nObservation: y\n{USE}No\nAI: done",
            Action("A", "x"),
        ),
        (f"{USE}Yes\nAction: A\nAction Input: x\n{USE}No\nAI: done", Action("A", "x")),
        ("Action: A\nAction Input: x\nAction: B\nAction Input: y", Action("A", "x")),
        ("Action: A\nAction Input: x\nObservation:\ny", Action("A", "x")),
        ("Action: A\nAction Input: x\n \tObservation: y", Action("A", "x")),
        ("  Action:  A b  \n  Action Input:   x, y  ", Action("A b", "x, y")),
        ("Action: A\nAction Input:", Action("A", "")),
        # No action before the observation: what follows was not ours to say.
        ("AI: hello\nObservation: x\nAction: A\nAction Input: b", Answer("hello")),
        (f"{USE}No\nAI: It is a cat.", Answer("It is a cat.")),
        ("AI: two\nlines", Answer("two\nlines")),
        ("AI: use it like this:\nAction: A\nAction Input: x", Answer("use it like this:\nAction: A\nAction Input: x")),
        # No format at all is an answer.
        ("Just a cat.", Answer("Just a cat.")),
        (f"{USE}No\nJust a cat.", Answer("Just a cat.")),
        ("Action: A", Answer("Action: A")),
        ("", Answer("")),
    ],
)  # fmt: skip
def test_parse(text: str, expected: Action | Answer) -> None:
    assert parse(text, TOOLS) == expected


_PIECES = st.sampled_from(
    [USE, "Yes", "No", "\n", "Action:", "Action Input:", "Observation:", "AI:", " ", "x", ", ", '"']
)


@given(st.one_of(st.text(), st.lists(_PIECES, max_size=20).map("".join)))
def test_parse_never_raises_and_resolve_only_tool_errors(text: str) -> None:
    parsed = parse(text, TOOLS)
    if isinstance(parsed, Action):
        assert "\n" not in parsed.tool + parsed.raw
        try:
            tool, args = resolve(parsed, TOOLS)
        except ToolError as error:
            assert str(error)
        else:
            assert len(args) == len(tool.parameters)


def test_resolve_forgives_case_and_lists_the_tools() -> None:
    assert resolve(Action("find thing", "a, b"), TOOLS) == (find, ("a", "b"))
    with pytest.raises(ToolError, match="Invert Image; Find Thing"):
        resolve(Action("Fly", "x"), TOOLS)
    with pytest.raises(ToolError, match="2 arguments"):
        resolve(Action("Find Thing", "only one"), TOOLS)


@pytest.mark.parametrize(
    "text", ["done", "Observation: done", "Observation:\nObservation: done", "Observation:  done"]
)
def test_an_observation_has_one_header(text: str) -> None:
    assert observation(text) == "\nObservation: done\n"


# ---------------------------------------------------------------- grammars


def test_the_grammar_of_a_call_writes_that_call() -> None:
    said = blind(call_grammar(find, [["image/1a2b3c4d.png"], ["dog"]]))
    assert said == call_text(find, ["image/1a2b3c4d.png", "dog"]) + "\n"
    assert parse(said, TOOLS) == Action("Find Thing", "image/1a2b3c4d.png, dog")
    assert blind(call_grammar(sleep, [])) == f"{USE}Yes\nAction: Sleep Now\nAction Input: \n"


def test_a_tool_without_arguments_resolves() -> None:
    parsed = parse(blind(call_grammar(sleep, [])), TOOLS)
    assert isinstance(parsed, Action)
    assert resolve(parsed, TOOLS) == (sleep, ())


_NAMES = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters=",[]"), min_size=1, max_size=12
)
_ARGUMENT = st.one_of(
    st.text(max_size=25),
    st.text(alphabet="ab ,\"'`“”‘’\n\t\\", max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
_SLOTS = st.lists(
    st.one_of(_ARGUMENT, st.lists(_ARGUMENT, min_size=1, max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=300, deadline=None)
@given(_NAMES, _SLOTS, st.integers(0, 10_000))
@example("T", [['"a'], ['b"'], ["c"]], 0)
@example("T", ["it's \"here\", and 'there'", ["x, y"]], 3)
@example("T", [['""', "''", "a"]], 0)
@example("T", [["a\nAction: B\nAction Input: x"], ["b"]], 0)
@example("T", [["\x7f\x00a"], "\u2028 b \x85"], 0)
def test_every_call_under_its_grammar_parses_with_the_right_arity(
    name: str, slots: list[str | list[str]], seed: int
) -> None:
    called = named(name, *(f"p{i}" for i in range(len(slots))))
    others = [named("Other Tool", "x")]
    try:
        grammar = call_grammar(called, slots)
    except ToolError:
        # Only where a slot holds nothing that could be written.
        assert any(not _bare(s) for s in slots)
        return
    said = blind(grammar, seed)
    assert said.endswith("\n") and said.count("\n") == 3
    parsed = parse(said, [called, *others])
    assert isinstance(parsed, Action)
    tool, args = resolve(parsed, [called, *others])
    assert tool is called
    assert len(args) == len(slots) and all(args)


def _bare(slot: str | list[str]) -> str:
    """What a slot holds beside quotes, commas, blanks and unprintable characters."""
    text = slot if isinstance(slot, str) else "".join(slot)
    return "".join(c for c in text if c.isprintable() and c not in " ,\"'`“”‘’")


def test_plain_arguments_stay_as_they_are() -> None:
    said = blind(call_grammar(find, [["image/1a2b3c4d.png"], ['what\'s that, "there"?']]))
    parsed = parse(said, TOOLS)
    assert isinstance(parsed, Action)
    assert resolve(parsed, TOOLS)[1] == ("image/1a2b3c4d.png", 'what\'s that, "there"?')


def test_words_of_the_request_are_whole_and_never_none() -> None:
    seen: set[str] = set()
    for seed in range(40):
        parsed = parse(blind(call_grammar(named("T", "a"), ["the big red ball"]), seed), [])
        assert isinstance(parsed, Action)
        seen.add(parsed.raw)
        assert f" {parsed.raw} " in " the big red ball "
    assert len(seen) > 3 and "" not in seen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_the_free_grammar_gives_a_call_or_an_answer(seed: int) -> None:
    tools: Sequence[FunctionTool] = (invert, find)
    said = blind(choice_grammar(tools), seed)
    parsed = parse(said, tools)
    assert isinstance(parsed, Action) == said.startswith(f"{USE}Yes")


def test_the_grammar_of_an_answer_is_one_line() -> None:
    said = blind(answer_grammar(20))
    assert said.startswith(f"{USE}No\nAI: ") and said.count("\n") == 1
