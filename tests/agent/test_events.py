"""Events and replies as JSON, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.agent import events as ev
from anybind.agent.reply import Artifact, NoteText, NounFound, Reply, ToolCall, Usage
from anybind.content import Box
from anybind.errors import UserError

TEXT = st.text(max_size=20)
NAMES = st.lists(TEXT, max_size=3).map(tuple)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 10**6)
XYXY = st.tuples(NUMBER, NUMBER, NUMBER, NUMBER)
SPAN = st.tuples(COUNT, COUNT)
PATHS = st.text("abc/._-", min_size=1, max_size=12).map(Path)


def many(strategy: Any) -> Any:
    return st.lists(strategy, max_size=3).map(tuple)


REPLY = st.builds(
    Reply,
    text=TEXT,
    nouns=many(st.builds(NounFound, TEXT, SPAN, NUMBER, st.booleans())),
    boxes=many(st.builds(Box, TEXT, XYXY, NUMBER)),
    artifacts=many(st.builds(Artifact, TEXT, TEXT, PATHS, TEXT)),
    tool_calls=many(st.builds(ToolCall, TEXT, NAMES, TEXT, st.booleans())),
    notes=many(st.builds(NoteText, TEXT, TEXT)),
    usage=st.builds(Usage, COUNT, COUNT, COUNT, COUNT, NUMBER),
    warnings=NAMES,
)
EVENT = st.one_of(
    st.builds(ev.TurnStarted, COUNT, TEXT),
    st.builds(ev.ArtifactAdded, TEXT, TEXT, TEXT, TEXT, NAMES),
    st.builds(ev.NoteTaken, TEXT, TEXT, NUMBER, NAMES),
    st.builds(ev.Conditioned, NAMES, many(NUMBER)),
    st.builds(ev.Trace, TEXT, st.booleans()),
    st.builds(ev.ToolCalled, TEXT, NAMES),
    st.builds(ev.Observed, TEXT, TEXT, st.booleans(), NUMBER),
    st.builds(ev.TextDelta, TEXT),
    st.builds(ev.Grounded, TEXT, SPAN, NUMBER, st.booleans(), many(XYXY)),
    st.builds(ev.Warned, TEXT),
    st.builds(ev.TurnFinished, REPLY),
    st.builds(ev.TurnFailed, TEXT, TEXT),
)


@given(EVENT)
def test_an_event_comes_back_from_json(event: Any) -> None:
    assert ev.from_json(json.loads(json.dumps(ev.to_json(event)))) == event


@given(REPLY)
def test_a_reply_comes_back_from_json(reply: Reply) -> None:
    assert Reply.from_json(json.loads(json.dumps(reply.to_json()))) == reply


def test_the_shape_of_a_reply() -> None:
    data = Reply(
        text="a cat", nouns=(NounFound("a cat", (0, 5), 0.8, True),),
        boxes=(Box("cat", (1.0, 2.0, 3.0, 4.0), 0.8),),
        artifacts=(Artifact("image/1a2b3c4d.png", "image", Path("/x/y.png"), "tool:T"),),
        tool_calls=(ToolCall("T", ("a",), "done", True),), notes=(NoteText("e", "n"),),
    ).to_json()  # fmt: skip
    assert data["nouns"] == [{"text": "a cat", "span": [0, 5], "score": 0.8, "supported": True}]
    assert data["boxes"] == [{"label": "cat", "xyxy": [1.0, 2.0, 3.0, 4.0], "score": 0.8}]
    assert data["artifacts"] == [
        {"name": "image/1a2b3c4d.png", "kind": "image", "path": "/x/y.png", "from": "tool:T"}
    ]
    assert data["tool_calls"] == [{"tool": "T", "args": ["a"], "observation": "done", "ok": True}]
    assert data["notes"] == [{"expert": "e", "text": "n"}]
    assert {"text", "usage", "warnings"} <= set(data)


@pytest.mark.parametrize("data", [{}, {"event": "Nothing"}, {"event": None}])
def test_no_event_is_a_user_error(data: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ev.from_json(data)
