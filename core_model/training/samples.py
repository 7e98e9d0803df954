"""What training is made of: a conversation, what it is about, and which of it is learned.

Knows no file format, no tokenizer and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anybind.contracts import Message


class Span(NamedTuple):
    """Characters `start` to `end` (excluded) of the content of message number `message`."""

    message: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One conversation to learn from.

    Every message of the assistant is learned, all turns, but for `muted`.
    """

    messages: tuple[Message, ...]
    """The last one is the assistant's."""
    feature: NDArray[np.float32] | None
    """What the conversation is about, a joint embedding [C]: of unit norm, or the mix of several
    as at run time. None is a conversation about nothing but its words."""
    source: str
    """Name of the source it comes from."""
    key: str
    """File and number of the record, for people."""
    muted: tuple[Span, ...] = ()
    """What the model reads in its own turn and didn't say (observations of tools): no loss there."""
    words: str = ""
    """What the feature is of: a name, or several with commas between. "" is not said."""


def spoken(content: str, message: int, muted: Sequence[Span]) -> list[tuple[int, int]]:
    """The characters of a message that are learned: what `muted` leaves, in order, as spans."""
    out: list[tuple[int, int]] = []
    at = 0
    for _, start, end in sorted(s for s in muted if s.message == message):
        if start > at:
            out.append((at, min(start, len(content))))
        at = max(at, end)
    if at < len(content):
        out.append((at, len(content)))
    return [(a, b) for a, b in out if a < b]
