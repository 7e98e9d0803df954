"""The turn: attachments, experts, condition, tools, answer, grounding, generators.

One generator function a phase, all yielding events; `turn` strings them together. Knows the
runtime and the state of one session; never the CLI, server or page.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from anybind.agent import protocol
from anybind.agent.arguments import candidates, possible, wish
from anybind.agent.artifacts import ArtifactStore
from anybind.agent.choice import Choice, steps
from anybind.agent.context import RunContext
from anybind.agent.events import (
    ArtifactAdded,
    Conditioned,
    Event,
    Grounded,
    NoteTaken,
    Observed,
    TextDelta,
    ToolCalled,
    Trace,
    Warned,
)
from anybind.agent.grounding import ground, things
from anybind.agent.limits import Limits, Meter
from anybind.agent.reply import Artifact, NoteText, NounFound, Reply, ToolCall
from anybind.agent.runtime import Runtime
from anybind.agent.store import Turn
from anybind.content import AnyPart, Box, Boxes, Embedding, Image, Text
from anybind.contracts import Delta, Finish, Message, Note, Sampling, Tool
from anybind.errors import AnybindError, ControlFlow, ToolError, UserError

_CONFIDENT = 0.3
"""A note this sure stands for its part: the part's own embedding is then left out of the mix."""


@dataclass(frozen=True)
class Request:
    """One request as the session has checked it."""

    text: str
    parts: tuple[AnyPart, ...]
    weights: tuple[float | None, ...]
    """None where the caller gave none."""
    outputs: tuple[str, ...] = ("text",)
    ground: bool = True
    tools: bool = True
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)


@dataclass
class TurnState:
    """What builds up during a turn."""

    request: Request
    history: Sequence[Turn]
    artifacts: ArtifactStore
    meter: Meter = field(default_factory=Meter)
    kept: list[AnyPart] = field(default_factory=list[AnyPart])
    """Artifacts that are new in this turn."""
    attached: list[AnyPart] = field(default_factory=list[AnyPart])
    notes: list[Note] = field(default_factory=list[Note])
    condition: Embedding | None = None
    mixed: list[tuple[AnyPart, float]] = field(default_factory=list[tuple[AnyPart, float]])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    produced: list[str] = field(default_factory=list[str])
    drawn: list[str] = field(default_factory=list[str])
    """Names among `produced` that were made from words alone."""
    questions: list[str] = field(default_factory=list[str])
    """Pieces of the request that no tool took."""
    answer: str = ""
    nouns: tuple[NounFound, ...] = ()
    boxes: tuple[Box, ...] = ()
    warnings: list[str] = field(default_factory=list[str])

    def reply(self) -> Reply:
        """The reply as far as it has come."""
        return Reply(
            text=self.answer,
            nouns=self.nouns,
            boxes=self.boxes,
            artifacts=tuple(
                Artifact(p.name, p.kind, p.path, p.provenance.made_by)
                for p in self.kept
                if p.path is not None
            ),
            tool_calls=tuple(self.calls),
            notes=tuple(NoteText(n.expert, n.text) for n in self.notes),
            usage=self.meter.usage(),
            warnings=tuple(self.warnings),
        )


def turn(runtime: Runtime, state: TurnState, limits: Limits) -> Iterator[Event]:
    """The events of one turn, without its start and end."""
    yield from _take_attachments(runtime, state)
    yield from _ask_experts(runtime, state)
    yield from _condition(runtime, state)
    if state.request.tools:
        yield from _use_tools(runtime, state, limits)
    else:
        state.questions = [state.request.text]
    if "text" in state.request.outputs:
        yield from _answer(runtime, state, limits)
        if state.request.ground:
            yield from _ground(runtime, state)
    for kind in state.request.outputs:
        if kind != "text":
            yield from _generate(runtime, state, kind)


def _keep(state: TurnState, part: AnyPart) -> Iterator[Event]:
    known = set(state.artifacts.names())
    kept = state.artifacts.add(part)
    if kept.name not in known:
        state.kept.append(kept)
    yield ArtifactAdded(
        kept.name, kept.kind, str(kept.path), kept.provenance.made_by, kept.provenance.sources
    )


# ---------------------------------------------------------------- 1. attachments, 2. experts


def _take_attachments(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    for part in state.request.parts:
        if part.kind not in runtime.model.modalities:
            taken = ", ".join(sorted(runtime.model.modalities))
            raise UserError(f"Bundle {runtime.bundle.name!r} can't take {part.kind}; it takes {taken}.")
        yield from _keep(state, part)
        state.attached.append(state.artifacts.add(part))


def _ask_experts(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    for part in state.attached:
        if isinstance(part, Text):
            note = Note("text", f"attached text: {part.data.strip()}", 1.0, (part.name,))
            yield from _note(state, note)
            continue
        for expert in runtime.context_experts(part.kind):
            note = expert.look(part, state.request.text)
            if note is not None:
                yield from _note(state, note)


def _note(state: TurnState, note: Note) -> Iterator[Event]:
    state.notes.append(note)
    yield NoteTaken(note.expert, note.text, note.confidence, note.sources)
    for part in note.parts:
        yield from _keep(state, part)


# ---------------------------------------------------------------- 3. condition


def _condition(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    """Mix what came with this request, or go on with what the last answer was about."""
    model = runtime.model
    weighted: list[tuple[AnyPart, float]] = []
    if state.attached:
        told = {s for n in state.notes if n.confidence >= _CONFIDENT for s in n.sources}
        for part, weight in zip(state.attached, state.request.weights, strict=True):
            # What an expert has put into words is in the prompt already; mixing in the sound of
            # a voice as well would only blur the picture.
            used = weight if weight is not None else (0.0 if part.name in told else 1.0)
            if used > 0:
                weighted.append((part, used))
    elif state.history:
        for name, weight in state.history[-1].condition:
            if name in state.artifacts.names():
                weighted.append((state.artifacts.get(name), weight))
    if not weighted:
        return
    embeddings = model.embed_parts([p for p, _ in weighted])
    kinds: frozenset[str] = getattr(model, "cache_kinds", frozenset())
    embeddings = [
        model.retrieve(e) if p.kind in kinds else e
        for (p, _), e in zip(weighted, embeddings, strict=True)
    ]
    state.mixed = weighted
    state.condition = model.mix(embeddings, [w for _, w in weighted])
    yield Conditioned(tuple(p.kind for p, _ in weighted), tuple(w for _, w in weighted))


# ---------------------------------------------------------------- 5. tools


def _use_tools(runtime: Runtime, state: TurnState, limits: Limits) -> Iterator[Event]:
    """Each piece of the request is answered by a tool call or left for the answer."""
    tools = _offered(runtime, state)
    choices = _choices(runtime, state, tools)
    shown = _shown(choices)
    scratchpad = ""
    for piece, choice in choices:
        if choice.tool is None:
            state.questions.append(piece)
            continue
        if _only_makes(choice.tool, state.request.outputs):
            continue
        if len(state.calls) >= limits.tool_calls or state.meter.seconds > limits.seconds:
            yield _warn(state, f"The limit of the turn was reached; not done: {piece}")
            continue
        said = ""
        for event in _write_call(runtime, state, choice.tool, shown, piece, scratchpad):
            said += event.text
            yield event
        outcome = yield from _run(runtime, state, said, tools)
        scratchpad += said.rstrip() + protocol.observation(outcome)
        yield Trace(protocol.observation(outcome), forced=True)


def _choices(
    runtime: Runtime, state: TurnState, tools: Sequence[Tool]
) -> list[tuple[str, Choice]]:
    past = _past(state)
    return [(p, runtime.chooser.choose(p, tools, past)) for p in steps(state.request.text)]


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
    for _ in _take_attachments(runtime, state):
        pass
    tools = _offered(runtime, state)
    choices = _choices(runtime, state, tools)
    shown = _shown(choices)
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
    language = runtime.model.language
    slots = candidates(
        tool, piece, state.request.text, state.artifacts, runtime.nouns,
        attached=[p.name for p in state.attached] or [n for n, _ in _last_condition(state)],
        produced=state.produced, drawn=state.drawn,
    )  # fmt: skip
    prompt = language.render(
        [Message("user", protocol.prompt(offered, _past(state), state.request.text))],
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
            values[parameter.name] = raw if parameter.kind == "text" else _part(state, parameter.kind, raw)
        context = RunContext(runtime, state.request.seed + len(state.calls))
        result = tool.run(context, values)
        names: list[str] = []
        sources = tuple(raw for p, raw in zip(tool.parameters, args, strict=True) if p.kind != "text")
        for part in result.parts:
            made = _made_by(part, f"tool:{name}", sources)
            yield from _keep(state, made)
            names.append(state.artifacts.add(made).name)
        state.produced += [n for n in names if not n.startswith("boxes/")]
        pictures = [n for n in names if not n.startswith("boxes/")]
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


def _made_by(part: AnyPart, maker: str, sources: tuple[str, ...]) -> AnyPart:
    from dataclasses import replace

    from anybind.content import Provenance

    return replace(part, provenance=Provenance(maker, sources), name="", digest="", path=None)


def _past(state: TurnState) -> list[str]:
    """Earlier turns and uploads as the lines of a GPT4Tools history."""
    lines = [f"Human: {t.request}\nAI: {t.answer}" for t in state.history[-2:]]
    pictures = [p for p in state.attached if isinstance(p, Image)]
    names = [p.name for p in pictures] or [n for n, _ in _last_condition(state) if n.startswith("image/")]
    lines += [protocol.upload_line(n, "a picture") for n in names]
    return lines


def _last_condition(state: TurnState) -> tuple[tuple[str, float], ...]:
    return state.history[-1].condition if state.history else ()


# ---------------------------------------------------------------- 4. answer


def _answer(runtime: Runtime, state: TurnState, limits: Limits) -> Iterator[Event]:
    """Answer what no tool took; if tools took all of it, say what they did."""
    if not state.questions and not state.calls:
        state.questions = [state.request.text]
    if not state.questions:
        yield from _closing(runtime, state)
        return
    language = runtime.model.language
    question = " ".join(state.questions) if state.calls else state.request.text
    context = "\n".join(n.text for n in state.notes)
    messages = [*_fitting(runtime, state, limits), Message("user", question, context)]
    if runtime.bundle.persona:
        messages.insert(0, Message("system", runtime.bundle.persona))
    prompt = language.render(messages)
    sampling = state.request.sampling
    for item in language.stream(prompt, state.condition, sampling):
        if isinstance(item, Delta):
            text = item.text if state.answer else item.text.lstrip()
            state.answer += text
            if text:
                yield TextDelta(text)
        else:
            state.meter.add(item)
            if item.reason in ("length", "context"):
                yield _warn(state, "The answer was cut at its length limit.")
    state.answer = state.answer.rstrip()


def _closing(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    """The last word after tools: what each one gave, as GPT4Tools answers do."""
    yield Trace(f"{protocol.USE}No\nAI: ", forced=True)
    text = " ".join(_sentence(call) for call in state.calls)
    state.answer = text
    yield TextDelta(text)


def _sentence(call: ToolCall) -> str:
    text = call.observation.rstrip(".")
    return f"{call.tool}: {text}." if call.ok else f"{call.tool} did not work: {text}."


def _fitting(runtime: Runtime, state: TurnState, limits: Limits) -> list[Message]:
    """As many whole earlier turns as fit, the latest first; none is cut in half."""
    kept: list[Message] = []
    room = limits.history_tokens
    for past in reversed(state.history):
        pair = [Message("user", past.request, past.context), Message("assistant", past.answer)]
        cost = sum(runtime.model.language.count_tokens(f"{m.input}{m.content}") + 8 for m in pair)
        if cost > room:
            break
        room -= cost
        kept = pair + kept
    return kept


# ---------------------------------------------------------------- 6. grounding, 7. generators


def _ground(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    from anybind.drawing import draw_boxes

    parser, grounder = runtime.nouns, runtime.grounder
    pictures = [p for p, _ in state.mixed if isinstance(p, Image)]
    if not (parser and grounder and pictures and state.answer and state.questions):
        return
    picture = pictures[-1]
    found = ground(state.answer, picture, parser, grounder)
    state.nouns, state.boxes = found.nouns, found.boxes
    for noun, boxes in zip(found.nouns, found.per_noun, strict=True):
        yield Grounded(noun.text, noun.span, noun.score, noun.supported, tuple(b.xyxy for b in boxes))
    if not found.nouns:
        return
    drawn = draw_boxes(picture.data, found.boxes, found.unsupported)
    yield from _keep(state, Image.of(drawn, made_by="expert:grounding", sources=(picture.name,)))
    if found.boxes:
        yield from _keep(
            state, Boxes.of(found.boxes, made_by="expert:grounding", sources=(picture.name,))
        )


def _generate(runtime: Runtime, state: TurnState, kind: str) -> Iterator[Event]:
    """Make a picture (or sound, or cloud) of what the turn is about."""
    generator = runtime.generator(kind)
    model = runtime.model
    text = _wanted(runtime, state)
    condition = state.condition
    if text is not None:
        condition = model.embed_parts([Text.of(text)])[0]
        condition = model.retrieve(condition) if _cached(model) else condition
    made = generator.generate(condition, text, seed=state.request.seed)
    sources = () if text is not None else tuple(p.name for p, _ in state.mixed)
    yield from _keep(state, _made_by(made, f"generator:{generator.name}", sources))


def _wanted(runtime: Runtime, state: TurnState) -> str | None:
    """The words that say what to make, or None if it is what the turn is conditioned on.

    Speech says it itself; a request without attachments says it unless it only points back
    ("draw it").
    """
    heard = [n.text.partition(":")[2].strip() for n in state.notes if n.confidence >= _CONFIDENT]
    if heard and not state.mixed:
        return " ".join(heard)
    if state.attached:
        return None
    text = wish(state.request.text)
    parser = runtime.nouns
    says = parser is None or bool(things(parser.nouns(text)))
    return text if says or state.condition is None else None


def _cached(model: Any) -> bool:
    return "text" in cast("frozenset[str]", getattr(model, "cache_kinds", frozenset[str]()))


def _warn(state: TurnState, message: str) -> Warned:
    state.warnings.append(message)
    return Warned(message)
