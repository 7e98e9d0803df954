"""The tool steps of a turn: choose, write the call under a grammar, run it, observe.

Knows the state of the turn and the runtime; a tool is foreign code, so whatever it does becomes an
observation and never ends the turn.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anybind.agent import protocol
from anybind.agent.arguments import candidates, possible
from anybind.agent.attachments import take_attachments
from anybind.agent.choice import Choice, choose_all
from anybind.agent.context import RunContext
from anybind.agent.events import Event, Observed, ToolCalled, Trace
from anybind.agent.limits import Limits
from anybind.agent.reply import ToolCall
from anybind.agent.runtime import Runtime
from anybind.agent.state import TurnState, keep, made_by, warn
from anybind.content import AnyPart, Image
from anybind.contracts import Finish, Message, Sampling, Tool
from anybind.errors import AnybindError, ControlFlow, ToolError, UserError
from anybind.tools.looking import LOOKING


def use_tools(runtime: Runtime, state: TurnState, limits: Limits) -> Iterator[Event]:
    """Each piece of the request is answered by a tool call or left for the answer."""
    tools, choices, shown = _choose(runtime, state)
    scratchpad = ""
    for piece, choice in choices:
        if choice.tool is None or _sees_it_already(choice.tool, piece, state):
            state.questions.append(piece)
            continue
        if _only_makes(choice.tool, state.request.outputs):
            continue
        if len(state.calls) >= limits.tool_calls or state.meter.seconds > limits.seconds:
            yield warn(state, f"The limit of the turn was reached; not done: {piece}")
            continue
        said = ""
        try:
            for event in _write_call(runtime, state, choice.tool, shown, piece, scratchpad):
                said += event.text
                yield event
        except ToolError as error:
            # Nothing that can be written down stands for an argument.
            yield warn(state, f"{choice.tool.name} could not be called: {error}")
            state.questions.append(piece)
            continue
        outcome = yield from _run(runtime, state, said, tools)
        scratchpad += said.rstrip() + protocol.observation(outcome)
        yield Trace(protocol.observation(outcome), forced=True)


def _choose(
    runtime: Runtime, state: TurnState
) -> tuple[list[Tool], list[tuple[str, Choice]], list[Tool]]:
    """The tools on offer, the choice for each piece of the request, the tools the prompt lists."""
    tools, lines = _offered(runtime, state), _history_lines(state)
    choices = choose_all(runtime.chooser, state.request.text, tools, lines)
    return tools, choices, _shown(choices)


def _shown(choices: Sequence[tuple[str, Choice]]) -> list[Tool]:
    """The tools that the prompt lists: the same in every step, so that its KV prefix holds.

    A small decoder reads a short list better than all tools, as GPT4Tools' own training prompts
    list two to five.
    """
    if all(choice.tool is None for _, choice in choices):
        return []
    chosen = [c.tool for _, c in choices if c.tool is not None]
    near = [tool for _, choice in choices for tool in choice.shortlist]
    return list({t.name: t for t in (*chosen, *near)}.values())[: max(5, len(chosen))]


def _offered(runtime: Runtime, state: TurnState) -> list[Tool]:
    """The tools that can be used now: available, and with an artifact for each content argument."""
    return [t for t in runtime.available_tools() if possible(t, state.artifacts)]


def _only_makes(tool: Tool, outputs: Sequence[str]) -> bool:
    """Whether a tool does nothing but make what the reply is to hold anyway."""
    made = {f"generator:{kind}" for kind in outputs}
    return bool(made & set(tool.requires)) and all(p.kind == "text" for p in tool.parameters)


def _sees_it_already(tool: Tool, piece: str, state: TurnState) -> bool:
    """Whether a tool would only ask the model about the picture that its answer is about anyway.

    The answer then does without the detour. A picture that this turn made, or another one that the
    piece names, is not in the answer's condition: the tool has to look at it.
    """
    if tool.name not in LOOKING or state.produced:
        return False
    seen = {p.name for p, _ in state.mixed if isinstance(p, Image)}
    return bool(seen) and all(n in seen for n in state.artifacts.names("image") if n in piece)


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call that a request asks for, as the model wrote it; not run."""

    piece: str
    tool: str
    """ "" if no tool is to be used for this piece."""
    args: tuple[str, ...] = ()
    trace: str = ""


def plan(runtime: Runtime, state: TurnState) -> Iterator[PlannedCall]:
    """The calls of a request, one a piece, chosen and written as in a turn but not run.

    Raises:
        ToolError: the model wrote a call that does not resolve (the grammar rules that out).
    """
    for _ in take_attachments(runtime, state):
        pass
    tools, choices, shown = _choose(runtime, state)
    scratchpad = ""
    for piece, choice in choices:
        if choice.tool is None:
            yield PlannedCall(piece, "")
            continue
        written = _write_call(runtime, state, choice.tool, shown, piece, scratchpad)
        said = "".join(trace.text for trace in written)
        parsed = protocol.parse(said, tools)
        if not isinstance(parsed, protocol.Action):
            raise ToolError(f"No action was written: {said!r}")
        tool, args = protocol.resolve(parsed, tools)
        scratchpad += said.rstrip() + protocol.observation("(not run)")
        yield PlannedCall(piece, tool.name, args, said)


def _write_call(
    runtime: Runtime,
    state: TurnState,
    tool: Tool,
    offered: Sequence[Tool],
    piece: str,
    scratchpad: str,
) -> Iterator[Trace]:
    """The model writes the call, held by a grammar that knows the tool and its arguments."""
    language, chooser = runtime.model.language, runtime.chooser
    slots = candidates(
        tool, piece, state.request.text, state.artifacts, runtime.nouns,
        attached=[p.name for p in state.attached] or [n for n, _ in _last_condition(state)],
        produced=state.produced, drawn=state.drawn,
        told={**chooser.words(state.request.text), **chooser.words(piece)},
    )  # fmt: skip
    prompt = language.render(
        [Message("user", protocol.prompt(offered, _history_lines(state), state.request.text))],
        reply_prefix=scratchpad,
    )
    # Requests name the object right after the verb, and a small decoder's likelihood over bare
    # nouns prefers common words to asked ones: of several candidates the first is taken.
    slots = [s[:1] if isinstance(s, list) else s for s in slots]
    sampling = Sampling(max_tokens=200, grammar=protocol.call_grammar(tool, slots))
    for item in language.stream(prompt, None, sampling):
        if isinstance(item, Finish):
            state.meter.add(item)
        else:
            yield Trace(item.text, item.forced)


def _run(
    runtime: Runtime, state: TurnState, said: str, tools: Sequence[Tool]
) -> Generator[Event, None, str]:
    """Parse what the model wrote, run the tool; every error becomes an observation."""
    began = time.perf_counter()
    parsed = protocol.parse(said, tools)
    state.meter.tool_calls += 1
    name, args, ok = "", (), False
    try:
        if not isinstance(parsed, protocol.Action):
            raise ToolError("No action was written.")
        name = parsed.tool
        tool, args = protocol.resolve(parsed, tools)
        name = tool.name
        yield ToolCalled(name, args)
        values: dict[str, Any] = {}
        for parameter, raw in zip(tool.parameters, args, strict=True):
            values[parameter.name] = (
                raw if parameter.kind == "text" else _part(state, parameter.kind, raw)
            )
        context = RunContext(runtime, state.request.seed + len(state.calls))
        result = tool.run(context, values)
        names: list[str] = []
        sources = tuple(
            raw for p, raw in zip(tool.parameters, args, strict=True) if p.kind != "text"
        )
        for part in result.parts:
            made = made_by(part, f"tool:{name}", sources)
            yield from keep(state, made)
            names.append(state.artifacts.add(made).name)
        pictures = [n for n in names if not n.startswith("boxes/")]
        state.produced += pictures[:1]  # what follows, such as a mask, is beside the result
        if all(p.kind == "text" for p in tool.parameters):
            state.drawn += pictures
        saved = f"Result saved as {pictures[0]}" if pictures else ""
        text = "; ".join(filter(None, [result.observation, saved])) or "Done"
        ok = True
    except (ToolError, ControlFlow, UserError) as error:
        text = str(error)
    except AnybindError as error:
        text = f"{name} can't be used now: {error}"
    except Exception as error:  # a tool is foreign code; its failure must not end the turn
        text = f"{name} failed: {type(error).__name__}: {error}"
    text = " ".join(text.split())
    state.calls.append(ToolCall(name, args, text, ok))
    yield Observed(name, text, ok, round(time.perf_counter() - began, 3))
    return text


def _part(state: TurnState, kind: str, name: str) -> AnyPart:
    part = state.artifacts.get(name)
    if part.kind != kind:
        there = ", ".join(state.artifacts.names(kind)) or "none"
        raise ToolError(f"{name} is {part.kind}, not {kind}; {kind} artifacts: {there}")
    return part


def _history_lines(state: TurnState) -> list[str]:
    """Earlier turns and uploads as the lines of a GPT4Tools history."""
    lines = [f"Human: {t.request}\nAI: {t.answer}" for t in state.history[-2:] if t.answer]
    pictures = [p for p in state.attached if isinstance(p, Image)]
    names = [p.name for p in pictures] or [
        n for n, _ in _last_condition(state) if n.startswith("image/")
    ]
    lines += [protocol.upload_line(n, "a picture") for n in names]
    return lines


def _last_condition(state: TurnState) -> tuple[tuple[str, float], ...]:
    return state.history[-1].condition if state.history else ()
