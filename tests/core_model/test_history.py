"""What of a conversation fits: properties of whole turns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.contracts import Message
from anybind.core_model.history import fit, turns
from anybind.errors import UserError


def count(messages: Sequence[Message]) -> int:
    """Words, and three for the markers of each message."""
    return sum(3 + len(m.content.split()) + len(m.input.split()) for m in messages)


WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=12).map(" ".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """A system text or none, turns with calls and observations, a last question."""
    out = [Message("system", "be brief")] if draw(st.booleans()) else []
    for i in range(draw(st.integers(0, 6))):
        out.append(Message("user", f"q{i} {draw(WORDS)}", draw(WORDS)))
        for k in range(draw(st.integers(0, 2))):
            out.append(Message("assistant", f"Action: t{i}.{k} {draw(WORDS)}"))
            out.append(Message("user", f"Observation: o{i}.{k} {draw(WORDS)}"))
        out.append(Message("assistant", f"a{i} {draw(WORDS)}"))
    return [*out, Message("user", f"now {draw(WORDS)}", draw(WORDS))]


@given(conversations(), st.integers(0, 160))
def test_whole_turns_in_order_within_the_budget(messages: list[Message], budget: int) -> None:
    system = [m for m in messages if m.role == "system"]
    needed = count([*system, messages[-1]])
    if needed > budget:
        with pytest.raises(UserError, match=f"{needed - budget} tokens too long"):
            fit(messages, budget, count)
        return
    fitted = fit(messages, budget, count)
    kept = list(fitted.messages)
    assert count(kept) <= budget
    # Every message is one of the conversation, as it was, the system text first ...
    groups = turns(messages[len(system) :])
    assert kept == [*system, *(m for g in groups[fitted.dropped :] for m in g)]
    assert kept[-1] is messages[-1]
    # ... calls stay with their observations ...
    for before, after in zip(kept, kept[1:], strict=False):
        if before.content.startswith("Action:"):
            assert after.content.startswith(f"Observation: o{before.content.split()[1][1:]}")
    # ... and not one turn more would have fitted.
    if fitted.dropped:
        more = [*system, *(m for g in groups[fitted.dropped - 1 :] for m in g)]
        assert count(more) > budget


@given(conversations())
def test_what_fits_is_left_alone(messages: list[Message]) -> None:
    fitted = fit(messages, count(messages), count)
    assert list(fitted.messages) == messages and fitted.dropped == 0


def test_an_observation_at_the_end_belongs_to_the_current_turn() -> None:
    messages = [
        Message("user", "one"),
        Message("assistant", "1"),
        Message("user", "two"),
        Message("assistant", "Action: look"),
        Message("user", "Observation: a cat"),
    ]
    fitted = fit(messages, count(messages[2:]), count)
    assert list(fitted.messages) == messages[2:] and fitted.dropped == 1
    with pytest.raises(UserError, match="1 tokens too long"):
        fit(messages, count(messages[2:]) - 1, count)


def test_nothing_fits_into_nothing() -> None:
    assert fit([], 0, count).messages == ()
