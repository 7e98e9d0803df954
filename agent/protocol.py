"""The GPT4Tools text protocol: the prompt, the trace, the grammar that holds a call.

Pure text in and out. The layout of prompt and trace is that of GPT4Tools (its marker lines are
the wire format); the surrounding sentences are our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from anybind.contracts import Tool
from anybind.errors import ToolError
from anybind.tools.arguments import join_arguments, resolve_name, split_arguments

USE = "Thought: Do I need to use a tool? "
STOPS = ("\nObservation:", "\n Observation:", "\n\tObservation:")
_OBSERVATION = re.compile(r"\n\s*Observation:")
_HEADERS = re.compile(r"(?:Observation:\s*)+")
_ACTION = re.compile(r"Action:[ \t]*([^\n]*)\n[ \t]*Action Input:[ \t]*([^\n]*)")
_ANSWER = re.compile(r"(?:^|\n)[ \t]*AI:[ \t]*")

# Quotes around words; an apostrophe inside one is none.
_QUOTES = re.compile(
    r"""(?<!\w)["'`\u201c\u201d\u2018\u2019]+|["'`\u201c\u201d\u2018\u2019]+(?!\w)"""
)

_PREFIX = (
    "GPT4Tools helps with pictures and text. It sees files by their names only and must use a tool "
    "to look at them or to change them. It never makes up a file name."
)
_RULES = (
    "Keep file names exactly as they are written. When a tool has made a file, say its name in the "
    "answer."
)
_LAST = (
    "GPT4Tools needs tools to look at images; only the answer is shown to the Human. "
    "Let's think step by step."
)


@dataclass(frozen=True, slots=True)
class Action:
    """A call that the model wrote."""

    tool: str
    raw: str
    """The one line of its input, as written."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer; no tool is wanted."""

    text: str


def upload_line(name: str, description: str) -> str:
    """How a picture enters the history, as at GPT4Tools' run time."""
    return (
        f"Human: Provide an image named {name}. The description is: {description}. "
        "Understand the image using tools.\nAI: Received."
    )


def prompt(
    tools: Sequence[Tool], history: Sequence[str], request: str, scratchpad: str = ""
) -> str:
    """The whole prompt; `scratchpad` holds the trace of this turn so far."""
    listed = "\n".join(f"> {t.name}: {t.description}" for t in tools)
    names = ", ".join(t.name for t in tools)
    past = "".join(f"\n{line}" for line in history)
    return (
        f"{_PREFIX}\nTOOLS:\n------\n\nGPT4Tools has access to the following tools:\n\n{listed}\n\n"
        "To use a tool, please use the following format:\n\n"
        f"```\n{USE}Yes\nAction: the action to take, should be one of [{names}]\n"
        "Action Input: the input to the action\nObservation: the result of the action\n```\n\n"
        "When you have a response to say to the Human, or if you do not need to use a tool, "
        f"you MUST use the format:\n\n```\n{USE}No\nAI: [your response here]\n```\n\n"
        f"{_RULES}\n\nPrevious conversation:\n{past}\n\nNew input: {request}\n{_LAST}\n{scratchpad}"
    )


def parse(text: str, tools: Sequence[Tool]) -> Action | Answer:
    """What a model's text means.

    The first Action before any Observation wins over a later `AI:` (a model that goes on past the
    Observation makes it up); text that is neither is an answer as it stands.
    """
    own = _OBSERVATION.split(text, maxsplit=1)[0]
    action = _ACTION.search(own)
    answer = _ANSWER.search(own)
    if action and not (answer and answer.start() < action.start()):
        return Action(action.group(1).strip(), action.group(2).strip())
    if answer:
        return Answer(own[answer.end() :].strip())
    cleaned = re.sub(r"^\s*Thought:[^\n]*\n?", "", own).strip()
    return Answer(cleaned)


def resolve(action: Action, tools: Sequence[Tool]) -> tuple[Tool, tuple[str, ...]]:
    """The tool and its arguments.

    Raises:
        ToolError: unknown tool or wrong arguments; worded as an observation.
    """
    tool = resolve_name(action.tool, tools)
    return tool, split_arguments(action.raw, tool)


def observation(text: str) -> str:
    """An observation as it is appended to the trace, with exactly one header."""
    return _HEADERS.sub("Observation: ", f"\nObservation: {text}\n", count=1)


def call_text(tool: Tool, args: Sequence[str]) -> str:
    """The trace of a call."""
    return f"{USE}Yes\nAction: {tool.name}\nAction Input: {join_arguments(args)}"


def call_grammar(tool: Tool, arguments: Sequence[Sequence[str] | str]) -> str:
    """The grammar of one call: known name, right number of arguments.

    Args:
        tool: The tool to call.
        arguments: For each parameter the strings that may stand there, or one str: then any run
            of whole words of that text may. Line ends go, and from all but the last commas and
            quotes around words, which would change where the line is split.

    Raises:
        ToolError: nothing is left that could stand for an argument.
    """
    lines: list[str] = []
    slots: list[str] = []
    last = len(arguments) - 1
    for i, choices in enumerate(arguments):
        given = [choices] if isinstance(choices, str) else choices
        clean = [c for c in (_writable(c, i == last) for c in given) if c]
        if not clean:
            raise ToolError(
                f"{tool.name}: nothing in the request can be its {tool.parameters[i].name}."
            )
        if isinstance(choices, str):
            # The run of words may be empty by itself; an argument may not.
            lines.append(f"ARG{i}: RUN{i} & /.*[^ ].*/")
            lines.append(
                f"RUN{i}: %regex {json.dumps({'substring_words': _QUOTES.sub('', clean[0])})}"
            )
        else:
            lines.append(f"ARG{i}: " + " | ".join(map(_quoted, dict.fromkeys(clean))))
        slots.append(f"ARG{i}")
    head = _quoted(f"{USE}Yes\nAction: {tool.name}\nAction Input: ")
    body = f" {_quoted(', ')} ".join(slots)
    return f"start: {head} {body} {_quoted(chr(10))}\n" + "\n".join(lines)


def _writable(text: str, last: bool) -> str:
    """An argument as it may stand in the line of a call; "" if nothing of it may."""
    text = "".join(c if c.isprintable() else " " for c in text)
    bare = _QUOTES.sub("", text)
    if not bare.strip():
        return ""
    return " ".join((text if last else bare.replace(",", " ")).split())


def choice_grammar(tools: Sequence[Tool]) -> str:
    """The grammar of a step that may be any of these tools or an answer, arguments left free."""
    calls = [
        f"{_quoted(f'Yes{chr(10)}Action: {t.name}{chr(10)}Action Input: ')} "
        + f" {_quoted(', ')} ".join(["WORDS"] * (len(t.parameters) - 1) + ["LINE"])
        for t in tools
    ]
    options = " | ".join(f"({c} {_quoted(chr(10))})" for c in calls)
    answer = f"({_quoted(f'No{chr(10)}AI: ')} LINE)"
    return (
        f"start: {_quoted(USE)} ({options} | {answer})\n"
        r"WORDS: /[^\n,]*[^\n, ]/" + "\n" + r"LINE: /[^\n]*[^\n ]/"
    )


def answer_grammar(longest: int = 300) -> str:
    """The grammar of a closing answer: one line."""
    return f"start: {_quoted(f'{USE}No{chr(10)}AI: ')} LINE\nLINE: /[^\\n]{{1,{longest}}}/"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def usage(tool: Tool) -> str:
    """How a tool is called, for lists."""
    return f"{tool.name}({', '.join(p.name for p in tool.parameters)})"


__all__ = [
    "STOPS", "USE", "Action", "Answer", "ToolError", "answer_grammar", "call_grammar", "call_text",
    "choice_grammar", "observation", "parse", "prompt", "resolve", "upload_line", "usage",
]  # fmt: skip
