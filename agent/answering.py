"""The end of a turn: the answer, its grounding in the picture, and what generators make."""

from __future__ import annotations

from collections.abc import Iterator

from anybind.agent import protocol
from anybind.agent.arguments import wish
from anybind.agent.events import Event, Grounded, TextDelta, Trace
from anybind.agent.grounding import ground, things
from anybind.agent.limits import Limits
from anybind.agent.reply import ToolCall
from anybind.agent.runtime import Runtime
from anybind.agent.state import CONFIDENT, TurnState, keep, made_by, warn
from anybind.content import Boxes, Image, Text
from anybind.contracts import Delta, Message


def answer(runtime: Runtime, state: TurnState, limits: Limits) -> Iterator[Event]:
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
    if runtime.bundle.persona and state.condition is None:
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
                yield warn(state, "The answer was cut at its length limit.")
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
    """As many whole earlier turns as fit, the latest first; none is cut in half.

    Turns about other content are left out where the bundle says so.
    """
    kept: list[Message] = []
    room = limits.history_tokens
    present = {part.name for part, _ in state.mixed}
    for past in reversed(state.history):
        if not past.answer:  # a turn that only made a picture says nothing to go on from
            continue
        about = {name for name, _ in past.condition}
        if runtime.bundle.history == "same-content" and about and not about & present:
            continue
        pair = [Message("user", past.request, past.context), Message("assistant", past.answer)]
        cost = sum(runtime.model.language.count_tokens(f"{m.input}{m.content}") + 8 for m in pair)
        if cost > room:
            break
        room -= cost
        kept = pair + kept
    return kept


def ground_answer(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    from anybind.drawing import draw_boxes

    parser, grounder = runtime.nouns, runtime.grounder
    pictures = [p for p, _ in state.mixed if isinstance(p, Image)]
    if not (parser and grounder and pictures and state.answer and state.questions):
        return
    picture = pictures[-1]
    found = ground(state.answer, picture, parser, grounder)
    state.nouns, state.boxes = found.nouns, found.boxes
    for noun, boxes in zip(found.nouns, found.per_noun, strict=True):
        yield Grounded(
            noun.text, noun.span, noun.score, noun.supported, tuple(b.xyxy for b in boxes)
        )
    if not found.nouns:
        return
    drawn = draw_boxes(picture.data, found.boxes, found.unsupported)
    yield from keep(state, Image.of(drawn, made_by="expert:grounding", sources=(picture.name,)))
    if found.boxes:
        yield from keep(
            state, Boxes.of(found.boxes, made_by="expert:grounding", sources=(picture.name,))
        )


def generate(runtime: Runtime, state: TurnState, kind: str) -> Iterator[Event]:
    """Make a picture (or sound, or cloud) of what the turn is about."""
    generator = runtime.generator(kind)
    model = runtime.model
    text = _wanted(runtime, state)
    condition = state.condition
    if text is not None:
        condition = model.condition([Text.of(text)])
    made = generator.generate(condition, text, seed=state.request.seed)
    sources = () if text is not None else tuple(p.name for p, _ in state.mixed)
    yield from keep(state, made_by(made, f"generator:{generator.name}", sources))


def _wanted(runtime: Runtime, state: TurnState) -> str | None:
    """The words that say what to make, or None if it is what the turn is conditioned on.

    Speech says it itself; a request without attachments says it unless it only points back
    ("draw it").
    """
    notes = [n for n in state.notes if n.confidence >= CONFIDENT]
    told = {source for n in notes for source in n.sources}
    if notes and all(part.name in told for part, _ in state.mixed):
        return " ".join(n.text.partition(":")[2].strip() for n in notes)
    if state.attached:
        return None
    text = wish(state.request.text)
    parser = runtime.nouns
    says = parser is None or bool(things(parser.nouns(text)))
    return text if says or state.condition is None else None
