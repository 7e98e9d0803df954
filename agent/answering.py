"""The end of a turn: the answer, its grounding in the picture, and what generators make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anybind.agent import protocol
from anybind.agent.events import Event, Grounded, TextDelta, Trace
from anybind.agent.grounding import ground, things
from anybind.agent.limits import Limits
from anybind.agent.presence import present, wants_a_look
from anybind.agent.reply import ToolCall
from anybind.agent.runtime import Runtime
from anybind.agent.state import TurnState, keep, made_by, warn
from anybind.agent.wording import wish
from anybind.content import Boxes, Image, Text
from anybind.contracts import Delta, Message
from anybind.core_model import history

NOTHING_TO_SEE = "No picture is attached, so there is nothing to look at. Attach one and ask again."


def answer(runtime: Runtime, state: TurnState, limits: Limits) -> Iterator[Event]:
    """Answer what no tool took; if tools took all of it, say what they did."""
    if not state.questions and not state.calls:
        state.questions = [state.request.text]
    if not state.questions:
        yield from _closing(runtime, state)
        return
    language = runtime.model.language
    question = " ".join(state.questions) if state.calls else state.request.text
    if not (state.mixed or state.calls or state.artifacts.names("image")) and wants_a_look(
        question
    ):
        # A decoder would make something up: it does not know that it was given nothing.
        state.answer = NOTHING_TO_SEE
        yield TextDelta(NOTHING_TO_SEE)
        return
    context = "\n".join(n.text for n in state.notes)
    sampling = state.request.sampling
    messages = [*_earlier(runtime, state), Message("user", question, context)]
    if runtime.bundle.persona and state.condition is None:
        messages.insert(0, Message("system", runtime.bundle.persona))
    fitted = _fitting(runtime, limits, messages, sampling.max_tokens)
    if fitted.dropped:
        some = (
            "1 earlier turn was" if fitted.dropped == 1 else f"{fitted.dropped} earlier turns were"
        )
        yield warn(state, f"{some} left out of the prompt: the conversation is too long for it.")
    begun = _verdict(runtime, state, question)
    prompt = language.render(fitted.messages, begun)
    if begun:
        state.answer = begun
        yield TextDelta(begun)
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


def _verdict(runtime: Runtime, state: TurnState, question: str) -> str:
    """How the answer to a question whether something is in the picture begins; else ""."""
    pictures = [p for p, _ in state.mixed if isinstance(p, Image)]
    if len(pictures) != 1 or len(state.mixed) != 1 or runtime.nouns is None or not runtime.grounder:
        return ""
    found = present(question, pictures[0], runtime.nouns, runtime.grounder)
    return "" if found is None else "Yes," if found else "No"


def _closing(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    """The last word after tools: what each one gave, as GPT4Tools answers do."""
    yield Trace(f"{protocol.USE}No\nAI: ", forced=True)
    text = " ".join(_sentence(call) for call in state.calls)
    state.answer = text
    yield TextDelta(text)


def _sentence(call: ToolCall) -> str:
    text = call.observation.rstrip(".")
    return f"{call.tool}: {text}." if call.ok else f"{call.tool} did not work: {text}."


def _earlier(runtime: Runtime, state: TurnState) -> list[Message]:
    """The earlier turns that the answer may be shown.

    Turns about other content are left out where the bundle says so.
    """
    out: list[Message] = []
    present = {part.name for part, _ in state.mixed}
    for past in state.history:
        if not past.answer:  # a turn that only made a picture says nothing to go on from
            continue
        about = {name for name, _ in past.condition}
        if runtime.bundle.history == "same-content" and about and not about & present:
            continue
        out += [Message("user", past.request, past.context), Message("assistant", past.answer)]
    return out


def _fitting(
    runtime: Runtime, limits: Limits, messages: Sequence[Message], reply: int
) -> history.Fitted:
    """What of the conversation the model is shown: all that its context holds, or less where the
    limits or the bundle give earlier turns less room."""
    language = runtime.model.language
    count, budget = history.counter(language), history.budget(language, reply)
    most = limits.history_tokens
    most = runtime.bundle.history_tokens if most is None else most
    if most is not None:
        alone = [m for m in messages if m.role == "system"] + list(messages[-1:])
        budget = min(budget, count(alone) + most)
    return history.fit(messages, budget, count)


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
    told = state.told()
    notes = [n for n in state.notes if told.intersection(n.sources)]
    if told and all(part.name in told for part, _ in state.mixed):
        return " ".join(n.text.partition(":")[2].strip() for n in notes)
    if state.attached:
        return None
    text = wish(state.request.text)
    parser = runtime.nouns
    says = parser is None or bool(things(parser.nouns(text)))
    return text if says or state.condition is None else None
