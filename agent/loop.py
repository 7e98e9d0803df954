"""The turn: attachments, experts, condition, then tools, answer, grounding, generators.

One generator function a phase, all yielding events; `turn` strings them together. Knows the
runtime and the state of one session; never the CLI, server or page.
"""

from __future__ import annotations

from collections.abc import Iterator

from anybind.agent.answering import answer, generate, ground_answer
from anybind.agent.attachments import ask_experts, take_attachments
from anybind.agent.events import Conditioned, Event
from anybind.agent.limits import Limits
from anybind.agent.runtime import Runtime
from anybind.agent.state import TurnState
from anybind.agent.tool_steps import use_tools
from anybind.content import AnyPart
from anybind.errors import UserError


def turn(runtime: Runtime, state: TurnState, limits: Limits) -> Iterator[Event]:
    """The events of one turn, without its start and end."""
    for kind in state.request.outputs:
        if kind != "text" and kind not in runtime.generator_kinds():
            made = ", ".join(sorted(runtime.generator_kinds())) or "nothing else"
            raise UserError(f"This bundle can't reply with {kind}; besides text it makes {made}.")
    yield from take_attachments(runtime, state)
    yield from ask_experts(runtime, state)
    yield from _condition(runtime, state)
    if state.request.tools:
        yield from use_tools(runtime, state, limits)
    else:
        state.questions = [state.request.text]
    if "text" in state.request.outputs:
        yield from answer(runtime, state, limits)
        if state.request.ground:
            yield from ground_answer(runtime, state)
    for kind in state.request.outputs:
        if kind != "text":
            yield from generate(runtime, state, kind)


def _condition(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    """Mix what came with this request, or go on with what the last answer was about."""
    model = runtime.model
    weighted: list[tuple[AnyPart, float]] = []
    if state.attached:
        told = state.told()
        for part, weight in zip(state.attached, state.request.weights, strict=True):
            # What an expert has put into words is in the prompt already; mixing in the sound of a
            # voice as well would only blur the picture.
            used = weight if weight is not None else float(part.name not in told)
            if used > 0:
                weighted.append((part, used))
    elif state.history:
        for name, weight in state.history[-1].condition:
            if name in state.artifacts.names():
                weighted.append((state.artifacts.get(name), weight))
    if not weighted:
        return
    state.condition = model.condition([p for p, _ in weighted], [w for _, w in weighted])
    state.mixed = weighted
    yield Conditioned(tuple(p.kind for p, _ in weighted), tuple(w for _, w in weighted))
