"""Readers of JSON records that are instructions or conversations: Alpaca, LLaVA, ShareGPT,
MiniGPT-4, GPT4Tools. What each format looks like is in docs/training-data.md.
"""

from __future__ import annotations

import re
from typing import Any

from anybind.contracts import Message
from anybind.core_model.training.data.records import (
    BadRecord,
    Reading,
    Record,
    fields,
    loads,
    text,
    turns,
)
from anybind.core_model.training.samples import Span

_PLACEHOLDER = re.compile(r"[ \t]*\n?<image>\n?[ \t]*")
_NO_INPUT = "<noinput>"
_REQUEST = "New input:"
"""Behind the last one in a prompt of GPT4Tools stands the request; the format is shown before it."""
_BEGUN = re.compile(r"\n[ \t]*Thought: Do I need to use a tool\? Yes[ \t]*\n[ \t]*Action:")
# The result of a tool: behind the header, up to where the model goes on with a thought.
_OBSERVED = re.compile(
    r"(?:^|\n)[ \t]*Observation:(?P<result>.*?)(?=\n[ \t]*Thought:|\Z)", re.DOTALL
)


def alpaca(data: bytes, reading: Reading) -> Record:
    """`{"instruction", "input", "output"}`."""
    said = fields(loads(data))
    asked = text(said.get("instruction"), "instruction")
    given = text(said.get("input"), "input", empty=True)
    answer = text(said.get("output"), "output")
    given = "" if given == _NO_INPUT else given
    return Record((Message("user", asked, input=given), Message("assistant", answer)))


def llava(data: bytes, reading: Reading) -> Record:
    """`{"image", "conversations": [{"from", "value"}, ...]}`, all turns.

    The `<image>` of a question says where other models put their image tokens; here a picture takes
    none, and the mark goes.
    """
    said = fields(loads(data))
    found = turns(said.get("conversations"))
    named = said.get("image")
    pictures = [] if named is None else named if isinstance(named, list) else [named]
    attached = tuple(reading.attached(p) for p in pictures)
    messages: list[Message] = []
    for number, message in enumerate(found, 1):
        if message.role == "user" and "<image>" in message.content:
            if not attached:
                raise BadRecord(f"turn {number} has an <image>, the record names none")
            content = _PLACEHOLDER.sub(lambda m: "\n" if _inside(m) else "", message.content)
            message = Message("user", text(content, f"turn {number} without its <image>"))
        messages.append(message)
    return Record(tuple(messages), attached)


def _inside(mark: re.Match[str]) -> bool:
    """Whether words stand before and behind a mark, so that something must part them."""
    return bool(mark.string[: mark.start()].strip() and mark.string[mark.end() :].strip())


def sharegpt(data: bytes, reading: Reading) -> Record:
    """`{"conversations": [{"from", "value"}, ...]}`; words only."""
    said = fields(loads(data))
    return Record(turns(said.get("conversations", said.get("items"))))


def minigpt4(data: bytes, reading: Reading) -> Record:
    """`{"image_id", "caption"}` of `filter_cap.json`; the picture is `IMAGE_ID.jpg`."""
    said = fields(loads(data))
    number = said.get("image_id")
    if isinstance(number, bool) or not isinstance(number, str | int) or not str(number).strip():
        raise BadRecord("image_id is missing" if number is None else "image_id is no name")
    picture = reading.attached(f"{number}.jpg")
    return captioned(text(said.get("caption"), "caption"), reading, picture)


def captioned(caption: str, reading: Reading, *attached: Any) -> Record:
    """A caption as the answer to the question of its source."""
    messages = (Message("user", reading.question), Message("assistant", caption))
    return Record(messages, tuple(attached))


def gpt4tools(data: bytes, reading: Reading) -> Record:
    """`{"instruction", "input", "output"}`: the whole prompt, and the trace that goes on from it.

    In the output stand calls and what the tools gave back. The model is to write the calls, with the
    header `Observation:` behind which a tool answers, and not the answers: those are muted. Where
    the prompt ends with calls made before, they are taken over into the reply, muted: at run time
    a reply goes on from there.
    """
    said = fields(loads(data))
    asked = text(said.get("instruction"), "instruction")
    given = text(said.get("input"), "input", empty=True)
    trace = text(said.get("output"), "output")
    begun = ""
    start = _BEGUN.search(asked, max(asked.rfind(_REQUEST), 0))
    if start is not None:
        begun = asked[start.start() :].strip() + "\n"
        asked = text(asked[: start.start()], "instruction")
    muted = [Span(1, 0, len(begun))] if begun else []
    muted += [Span(1, a + len(begun), b + len(begun)) for _, a, b in observations(trace, 1)]
    messages = (Message("user", asked, input=given), Message("assistant", begun + trace))
    return Record(messages, muted=tuple(muted))


def observations(trace: str, message: int) -> tuple[Span, ...]:
    """The results of tools in a trace, each with the line end behind it."""
    out: list[Span] = []
    for found in _OBSERVED.finditer(trace):
        start, end = found.span("result")
        if trace[end : end + 1] == "\n":
            end += 1
        if end > start and trace[start:end].strip():
            out.append(Span(message, start, end))
    return tuple(out)
