"""What every maker of conversations works with, and the form of what it makes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from anybind.contracts import Message
from anybind.core_model.training.nano_data.looks import Feature, Looks

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One conversation, before it has a number."""

    turns: tuple[Turn, ...]
    feature: Feature | None
    notes: tuple[str, ...] = ()
    """Context of each question ("" for none); empty for none at all."""
    words: str = ""
    """What the feature is of (see `TrainingSample.words`)."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """As messages."""
        out: list[Message] = []
        for number, (asked, answer) in enumerate(self.turns):
            note = self.notes[number] if self.notes else ""
            out += [Message("user", asked, input=note), Message("assistant", answer)]
        return tuple(out)


Maker = Callable[[Looks, random.Random], Draft]
"""Makes one conversation of a kind."""


def styled(question: str, rng: random.Random) -> str:
    """A question as people type it: sometimes small letters, no mark, a greeting."""
    roll = rng.random()
    if roll < 0.10:
        return question.lower().rstrip("?.")
    if roll < 0.14:
        return question.rstrip("?.")
    if roll < 0.17:
        return f"Hi! {question}"
    if roll < 0.20 and question[:1].isupper() and question.endswith("?"):
        return f"Please tell me: {question[0].lower()}{question[1:]}"
    return question
