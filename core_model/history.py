"""How much of a conversation fits: whole turns or nothing, the oldest go first.

Pure: messages and a way to count in, messages out. Knows no tokenizer, no session and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anybind.contracts import LanguageModel, Message
from anybind.errors import UserError

Count = Callable[[Sequence[Message]], int]
"""The length in tokens of a conversation as a prompt."""

OBSERVATION = "Observation:"
"""How the result of a tool begins; a user message that does answers the call before it."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What of a conversation fits."""

    messages: tuple[Message, ...]
    dropped: int
    """Earlier turns that were left out."""


def fit(messages: Sequence[Message], budget: int, count: Count) -> Fitted:
    """The system texts, the current turn, and as many of the latest turns before it as fit.

    A turn is a message of a user with all that follows up to the next one: answers, and calls of
    tools with their observations. It is kept whole or dropped whole. What is kept is in order and
    without a gap: no turn stays whose successor had to go.

    Args:
        messages: The conversation; the current turn comes last.
        budget: Tokens that the prompt may have.
        count: Counts the tokens of a conversation as it would be written.

    Raises:
        UserError: the current turn is too long by itself; says by how much.
    """
    system = tuple(m for m in messages if m.role == "system")
    groups = turns([m for m in messages if m.role != "system"])
    current = tuple(groups[-1]) if groups else ()
    needed = count((*system, *current)) if system or current else 0
    if needed > budget:
        raise UserError(
            f"The message is {needed - budget} tokens too long: with what belongs to it it has "
            f"{needed} tokens, and there is room for {budget}. Shorten it, or attach less text."
        )
    kept = current
    earlier = groups[:-1]
    for i, group in enumerate(reversed(earlier)):
        longer = (*group, *kept)
        if count((*system, *longer)) > budget:
            return Fitted((*system, *kept), len(earlier) - i)
        kept = longer
    return Fitted((*system, *kept), 0)


def turns(messages: Sequence[Message]) -> list[list[Message]]:
    """The messages in turns; a message before any of a user begins the first one."""
    out: list[list[Message]] = []
    for message in messages:
        if not out or (message.role == "user" and not _observes(message)):
            out.append([])
        out[-1].append(message)
    return out


def _observes(message: Message) -> bool:
    return message.content.lstrip().startswith(OBSERVATION)


def budget(language: LanguageModel, reply: int) -> int:
    """Tokens that a prompt may have if a reply of `reply` tokens is to follow.

    The whole context of the model less the reply, which gives way to half of the context at most:
    a long answer must not push out the question.
    """
    context = language.profile.context_length
    return context - min(reply, context // 2)


def counter(language: LanguageModel) -> Count:
    """Counts conversations as the model's own layout writes them, with a BOS."""
    return lambda messages: language.count_tokens(language.render(messages)) + 1
