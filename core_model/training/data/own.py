"""Reader of our own format: one JSON object a line, a conversation and what it is about.

{"messages": [{"role": "user", "content": "What is it?"},
{"role": "assistant", "content": "A cat."}],
"attachments": ["cat.jpg", {"path": "depth:room.png", "weight": 0.5}], "words": "cat, room"}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from anybind.contracts import Message
from anybind.core_model.training.data.records import (
    Attachment,
    BadRecord,
    Reading,
    Record,
    conversation,
    fields,
    loads,
    text,
    unit,
)
from anybind.core_model.training.samples import Span

_KNOWN = {"messages", "attachments", "feature", "words", "id", "source"}
_IN_MESSAGE = {"role", "content", "input", "learn", "mute"}
_WIDEST = 65_536


def own(data: bytes, reading: Reading) -> Record:
    """One line."""
    return own_record(fields(loads(data)), reading)


def own_record(said: Mapping[str, Any], reading: Reading) -> Record:
    """One object.

    Raises:
        BadRecord: it isn't as the format says. Keys that are unknown are refused: a misspelt one
            would change what is learned without a word.
    """
    if unknown := sorted(set(said) - _KNOWN):
        raise BadRecord(f"unknown key {unknown[0][:40]!r}; known: {', '.join(sorted(_KNOWN))}")
    listed = said.get("messages")
    if not isinstance(listed, list):
        raise BadRecord("messages is missing or no list")
    messages: list[Message] = []
    muted: list[Span] = []
    for number, entry in enumerate(listed):
        message, silent = _message(fields(entry), number)
        messages.append(message)
        muted += silent
    found = conversation(messages)
    attached = _attachments(said.get("attachments"), reading)
    row = said.get("feature")
    if row is not None and attached:
        raise BadRecord("it has attachments and a feature; one of them")
    feature = None if row is None else _row(row)
    words = text(said.get("words"), "words", empty=True)
    return Record(found, attached, feature, tuple(muted), words)


def _message(said: Mapping[str, Any], number: int) -> tuple[Message, list[Span]]:
    where = f"message {number + 1}"
    if unknown := sorted(set(said) - _IN_MESSAGE):
        raise BadRecord(f"{where} has the unknown key {unknown[0][:40]!r}")
    role = said.get("role")
    if role not in ("system", "user", "assistant"):
        raise BadRecord(f"{where} has the role {str(role)[:40]!r}: system, user or assistant")
    raw = said.get("content")
    text(raw, where)
    content = raw  # as written: the end of a prompt decides where its answer begins
    extra = text(said.get("input"), f"{where}: input", empty=True)
    learn, mute = said.get("learn", True), said.get("mute", [])
    if role != "assistant" and (mute or learn is not True):
        raise BadRecord(f"{where}: only what an assistant says is learned or muted")
    if extra and role != "user":
        raise BadRecord(f"{where}: only a user's message has an input")
    if not isinstance(learn, bool) or not isinstance(mute, list):
        raise BadRecord(f"{where}: learn is true or false, mute a list of [start, end]")
    spans: list[Span] = []
    for span in mute:
        if not (isinstance(span, list) and len(span) == 2 and all(type(v) is int for v in span)):
            raise BadRecord(f"{where}: mute holds {str(span)[:40]}, not [start, end]")
        start, end = span
        if not 0 <= start < end <= len(raw):
            raise BadRecord(
                f"{where}: mute [{start}, {end}] lies outside its {len(raw)} characters"
            )
        spans.append(Span(number, start, end))
    if not learn:
        spans = [Span(number, 0, len(content))]
    return Message(role, content, input=extra), spans


def _attachments(listed: Any, reading: Reading) -> tuple[Attachment, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise BadRecord("attachments is no list")
    out: list[Attachment] = []
    for entry in listed:
        name, weight = entry, 1.0
        if isinstance(entry, dict):
            name, weight = entry.get("path"), entry.get("weight", 1.0)
            if set(entry) - {"path", "weight"}:
                raise BadRecord("an attachment has a path and a weight, nothing else")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight <= 0:
            raise BadRecord(f"a weight is {str(weight)[:40]}, not a number above 0")
        out.append(reading.attached(name, float(weight)))
    return tuple(out)


def _row(value: Any) -> Any:
    if not isinstance(value, list) or not 0 < len(value) <= _WIDEST:
        raise BadRecord("feature is no list of numbers")
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        raise BadRecord("feature is no list of numbers")
    try:
        return unit(np.array(value, np.float32), "feature")
    except OverflowError as error:
        raise BadRecord("feature holds a number that is too large") from error
