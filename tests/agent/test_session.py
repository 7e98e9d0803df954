"""Sessions: turns, failures, dropping, resuming, being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import anybind
from anybind.agent import Limits, Session
from anybind.agent.events import (
    Observed,
    TextDelta,
    ToolCalled,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from anybind.content import AnyPart, Embedding, Image
from anybind.contracts import Note
from anybind.core_model import mixing
from anybind.errors import UserError
from tests.fakes import FakeRuntime, Heard, echo, picture

ROOT = Path(__file__).resolve().parents[2]


def state(session: Session) -> Any:
    """All of a session that a failed turn must leave alone."""
    files = sorted(p for p in session.folder.rglob("*") if p.parent != session.folder)
    return session.turns, session.artifacts.names(), [p for p in files if p.is_file()]


@pytest.fixture
def session(tmp_path: Path) -> Any:
    with Session(FakeRuntime(), folder=tmp_path / "s") as s:
        yield s


def wav(path: Path) -> Path:
    soundfile.write(path, np.zeros((800, 1), np.float32), 8000)
    return path


# ---------------------------------------------------------------- one turn


def test_a_turn_is_one_stream_with_one_end(session: Session) -> None:
    events = list(session.stream("What is in the picture?", picture()))
    assert isinstance(events[0], TurnStarted) and isinstance(events[-1], TurnFinished)
    assert sum(isinstance(e, (TurnFinished, TurnFailed)) for e in events) == 1
    reply = events[-1].reply
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == reply.text
    assert reply.text == echo("user:  What is in the picture?")


def test_nouns_are_grounded_and_unsupported_ones_marked(session: Session) -> None:
    reply = session.ask("What is in the picture?", picture())
    assert [(n.text, n.supported) for n in reply.nouns] == [("cat", True), ("bus", False)]
    assert all(reply.text[n.span[0] : n.span[1]] == n.text for n in reply.nouns)
    assert [(b.label, b.xyxy) for b in reply.boxes] == [("cat", (1.0, 2.0, 5.0, 6.0))]
    assert any(a.made_by == "expert:grounding" and a.kind == "image" for a in reply.artifacts)
    plain = session.ask("And now?", picture(), ground=False)
    assert not plain.nouns and not plain.boxes


def test_tools_run_and_their_errors_are_observations(session: Session) -> None:
    reply = session.ask("Invert it. Break it. Refuse it. Find the cat.", picture())
    assert [(c.tool, c.ok) for c in reply.tool_calls] == [
        ("Invert Image", True), ("Break Image", False), ("Refuse Image", False),
        ("Find Thing", True),
    ]  # fmt: skip
    assert "ZeroDivisionError" in reply.tool_calls[1].observation
    assert reply.tool_calls[2].observation == "the picture is too dark"
    assert reply.tool_calls[3].args[1] == "cat"
    made = [a for a in reply.artifacts if a.made_by == "tool:Invert Image"]
    assert len(made) == 1 and made[0].path.is_file()
    assert made[0].name in reply.tool_calls[0].observation
    assert reply.usage.tool_calls == 4


def test_tools_can_be_left_out(session: Session) -> None:
    assert not session.ask("Invert it.", picture(), tools=False).tool_calls


def test_the_limit_of_calls_ends_the_calls_not_the_turn(tmp_path: Path) -> None:
    with Session(FakeRuntime(), folder=tmp_path, limits=Limits(tool_calls=1)) as s:
        reply = s.ask("Invert it. Find the cat.", picture())
    assert len(reply.tool_calls) == 1
    assert any("limit" in w for w in reply.warnings)


def test_what_was_said_reaches_the_prompt_and_the_sound_leaves_the_mix(
    session: Session, tmp_path: Path
) -> None:
    reply = session.ask("What was said?", wav(tmp_path / "a.wav"), picture())
    assert [n.text for n in reply.notes] == ["transcript: hello"]
    assert "transcript: hello" in session.runtime.language.prompts[-1]
    assert len(session.turns[-1].condition) == 1
    assert session.turns[-1].condition[0][0].startswith("image/")


def test_a_note_beside_its_part_leaves_the_part_in_the_mix(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named(Heard):
        def look(self, part: AnyPart, request: str) -> Note | None:
            return Note(self.name, "sounds like: a dog", 0.9, (part.name,), replaces=False)

    monkeypatch.setattr(
        session.runtime, "context_experts", lambda kind: [Named()] if kind == "audio" else []
    )
    session.ask("What is this?", wav(tmp_path / "a.wav"), picture())
    assert "sounds like: a dog" in session.runtime.language.prompts[-1]
    assert len(session.turns[-1].condition) == 2


def test_a_follow_up_goes_on_with_the_last_condition(session: Session) -> None:
    session.ask("What is this?", (picture(1), 0.5))
    session.ask("And its colour?")
    first, second = session.runtime.language.conditions
    np.testing.assert_array_equal(first.data, second.data)
    session.ask("And this?", picture(2))
    assert not np.array_equal(session.runtime.language.conditions[-1].data, first.data)


def test_without_attachments_there_is_no_condition(session: Session) -> None:
    assert session.ask("Hello").text
    assert session.runtime.language.conditions == [None]


def test_earlier_turns_are_in_the_prompt_whole_or_not_at_all(tmp_path: Path) -> None:
    with Session(FakeRuntime(), folder=tmp_path, limits=Limits(history_tokens=60)) as s:
        for i in range(6):
            s.ask(f"Question number {i} with a few words")
        last = s.runtime.language.prompts[-1]
    assert "Question number 4 with a few words" in last
    assert "Question number 0" not in last


def test_the_context_of_the_model_is_the_room_for_history(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    context = 300
    runtime.language.profile = replace(runtime.language.profile, context_length=context)
    with Session(runtime, folder=tmp_path, limits=Limits(answer_tokens=40)) as s:
        for i in range(12):
            reply = s.ask(f"Question number {i} " + "with words " * 8, tools=False)
            prompt = runtime.language.prompts[-1]
            assert len(prompt.split()) + 1 <= context - 40
            first = next(k for k in range(i + 1) if f"Question number {k} " in prompt)
            for k in range(first, i):  # whole turns, without a gap
                assert f"user:  Question number {k} " + ("with words " * 8).strip() in prompt
            note = f"{first} earlier turn{'s were' if first > 1 else ' was'} left out"
            assert any(note in w for w in reply.warnings) == (first > 0)
        assert first > 0
        before = state(s)
        with pytest.raises(UserError, match="tokens too long"):
            s.ask("much " * 400, tools=False)
        assert state(s) == before


def test_an_embedding_is_an_attachment_like_any(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    a, b = runtime.model.embed_parts([Image.of(picture(1)), Image.of(picture(2))])
    sum_ = mixing.add(a, b)
    with Session(runtime, folder=tmp_path / "s") as s:
        s.ask("What is this?", sum_, tools=False)
        s.ask("And with a picture?", (sum_, 0.5), picture(3), picture(4), tools=False)
        alone, mixed = runtime.language.conditions
        np.testing.assert_allclose(alone.data, sum_.data, atol=1e-5)
        others = [Image.of(picture(3)), Image.of(picture(4))]
        three = [sum_, *runtime.model.embed_parts(others)]
        np.testing.assert_allclose(mixed.data, mixing.mix(three, [0.5, 1, 1]).data, atol=1e-6)
        name = s.turns[0].condition[0][0]
        for wrong in (
            replace(sum_, space="other"),
            replace(Embedding.of(np.full(8, np.nan, np.float32)), space="fake"),
        ):
            with pytest.raises(UserError):
                s.ask("And this?", wrong)
    # It is kept with its space and raw output, and goes on as the condition when resumed.
    with Session(runtime, resume=tmp_path / "s") as s:
        kept = s.artifacts.get(name)
        assert (kept.kind, kept.space) == ("embedding", "fake")
        np.testing.assert_array_equal(kept.data, sum_.data)
        np.testing.assert_array_equal(kept.raw, sum_.raw)
        s.ask("And its colour?", tools=False)
        np.testing.assert_allclose(runtime.language.conditions[-1].data, mixed.data, atol=1e-6)


def test_a_picture_reply(session: Session) -> None:
    reply = session.ask("Draw a dog", outputs=("text", "image"), seed=7, tools=False)
    assert [a.made_by for a in reply.artifacts] == ["generator:fake-painter"]


# ---------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("text", "attachments", "options", "said"),
    [
        ("", (), {}, "empty"),
        (" \n", (), {}, "empty"),
        (None, (), {}, "empty"),
        ("x" * 20_001, (), {}, "limit"),
        ("a \ud800 b", (), {}, "Unicode"),
        ("q", ("missing.png",), {}, "missing.png"),
        ("q", (object(),), {}, "attachment"),
        ("q", (("missing.png",),), {}, "pair"),
        ("q", tuple(picture() for _ in range(17)), {}, "attachments"),
        ("q", ((picture(), -1),), {}, "weight"),
        ("q", ((picture(), float("nan")),), {}, "weight"),
        ("q", ((picture(), "1"),), {}, "weight"),
        ("q", ((picture(), True),), {}, "weight"),
        ("q", ((picture(), 0), (picture(1), 0)), {}, "weights"),
        ("q", (), {"outputs": ("smell",)}, "smell"),
        ("q", (), {"outputs": ()}, "outputs"),
        ("q", (anybind.PointCloud.of(np.zeros((3, 3), np.float32)),), {}, "point"),
        ("q", (), {"outputs": ("audio",)}, "audio"),
    ],
)
def test_a_wrong_call_is_a_user_error_and_leaves_the_session(
    session: Session, text: Any, attachments: Any, options: Any, said: str
) -> None:
    session.ask("First", picture())
    before = state(session)
    with pytest.raises(UserError, match=said):
        session.ask(text, *attachments, **options)
    assert state(session) == before
    assert session.ask("Next").text


def test_a_good_attachment_beside_a_bad_one_leaves_nothing(
    session: Session, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    before = state(session)
    with pytest.raises(UserError, match=r"bad\.png"):
        session.ask("q", picture(), bad)
    assert state(session) == before


def test_folder_and_resume_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))
    runtime = FakeRuntime()
    with pytest.raises(UserError, match="both"):
        Session(runtime, folder=tmp_path / "a", resume=tmp_path / "b")
    with pytest.raises(UserError, match="no session"):
        Session(runtime, resume=tmp_path / "nothing")
    with pytest.raises(UserError, match="no session"):
        Session(runtime, resume="nobody")
    Session(runtime, folder=tmp_path / "a").close()
    with pytest.raises(UserError, match="resume="):
        Session(runtime, folder=tmp_path / "a")
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UserError):
            Session(runtime, folder=folder)


def test_a_wrong_bundle_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="nosuch"):
        anybind.session("nosuch")
    with pytest.raises(UserError, match="nosuch"):
        anybind.session("nosuch", folder=tmp_path / "s")
    assert not list(tmp_path.rglob("*"))


# ---------------------------------------------------------------- turns that fail or are dropped


def crash(prompt: str) -> str:
    if "crash" in prompt.rsplit("user:", 1)[1]:
        raise RuntimeError("the decoder fell over")
    return "Fine."


def test_any_failure_has_an_end_and_leaves_the_session(tmp_path: Path) -> None:
    with Session(FakeRuntime(crash), folder=tmp_path) as s:
        s.ask("one", picture())
        before = state(s)
        events: list[Any] = []
        with pytest.raises(RuntimeError, match="fell over"):
            for event in s.stream("crash now", picture(5)):
                events.append(event)
        assert isinstance(events[-1], TurnFailed) and events[-1].type == "RuntimeError"
        assert state(s) == before
        s.ask("three")
        assert [t.request for t in s.turns] == ["one", "three"]
    with Session(FakeRuntime(), resume=tmp_path) as s:
        assert [(t.number, t.request) for t in s.turns] == [(1, "one"), (2, "three")]


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_dropped_stream_leaves_the_session(session: Session, after: int) -> None:
    session.ask("one", picture())
    before = state(session)
    stream = session.stream("Invert it. Find the cat.", picture(9))
    for _ in range(after):
        next(stream)
    stream.close()
    assert state(session) == before
    assert session.ask("two").text and len(session.turns) == 2


def test_an_artifact_of_an_earlier_turn_survives_a_failed_one_that_used_it(tmp_path: Path) -> None:
    with Session(FakeRuntime(crash), folder=tmp_path) as s:
        s.ask("one", picture(3))
        with pytest.raises(RuntimeError):
            s.ask("crash", picture(3), picture(4))
        (name,) = s.artifacts.names("image")[:1]
        assert s.artifacts.path(name).is_file()


def test_a_second_turn_in_an_open_stream_is_an_error_not_a_deadlock(session: Session) -> None:
    stream = session.stream("one")
    next(stream)
    with pytest.raises(UserError, match="still open"):
        session.ask("two")
    stream.close()
    assert session.ask("three").text


def test_another_thread_waits_for_its_turn(session: Session) -> None:
    stream = session.stream("one")
    next(stream)
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(session.ask("two").text))
    thread.start()
    thread.join(0.2)
    assert not said
    for _ in stream:
        pass
    thread.join(20)
    assert said and [t.request for t in session.turns] == ["one", "two"]


def test_two_holders_of_one_session_do_not_mix_their_turns(tmp_path: Path) -> None:
    with (
        Session(FakeRuntime(), folder=tmp_path) as one,
        Session(FakeRuntime(), resume=tmp_path) as other,
    ):
        one.ask("one")
        with pytest.raises(UserError, match="Another process"):
            other.ask("other")
        assert other.turns == ()
    with Session(FakeRuntime(), resume=tmp_path) as s:
        assert [t.request for t in s.turns] == ["one"]


# ---------------------------------------------------------------- resuming


def test_a_resumed_session_has_turns_artifacts_and_condition(tmp_path: Path) -> None:
    with Session(FakeRuntime(), folder=tmp_path) as s:
        s.ask("Invert it.", picture(1))
        s.ask("What is this?", picture(2))
        names, turns = s.artifacts.names(), s.turns
        data = [s.artifacts.get(n).data for n in names if n.startswith("image/")]
        made = s.artifacts.get(names[1]).provenance
    with Session(FakeRuntime(), resume=str(tmp_path)) as s:
        assert s.artifacts.names() == names and s.turns == turns
        again = [s.artifacts.get(n).data for n in names if n.startswith("image/")]
        assert [a.tobytes() for a in again] == [d.tobytes() for d in data]
        assert s.artifacts.get(names[1]).provenance == made
        s.ask("And its colour?")
        assert s.runtime.language.conditions[-1] is not None
        assert len(s.turns) == 3


def test_a_finished_turn_replays(session: Session) -> None:
    events = list(session.stream("Invert it.", picture()))
    replayed = session.replay(1)
    assert replayed[-1] == events[-1]
    assert [e for e in replayed if isinstance(e, (ToolCalled, Observed))] == [
        e for e in events if isinstance(e, (ToolCalled, Observed))
    ]
    with pytest.raises(UserError):
        session.replay(2)


def test_a_session_of_its_own_runtime_closes_it_a_shared_one_stays(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    with Session(runtime, folder=tmp_path):
        pass
    assert not runtime.closed


_KILLED = """
import sys
from anybind.agent import Session
from tests.fakes import FakeRuntime, picture
session = Session(FakeRuntime(), folder=sys.argv[1])
session.ask("one", picture(1))
session.ask("Invert it.", picture(2))
for event in session.stream("Invert it. Sleep now.", picture(3)):
    print(type(event).__name__, getattr(event, "tool", ""), flush=True)
"""


def test_a_kill_in_mid_turn_loses_no_finished_turn(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(folder)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "ToolCalled Sleep Now":
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    with Session(FakeRuntime(), resume=folder) as s:
        assert [t.request for t in s.turns] == ["one", "Invert it."]
        assert len(s.replay(2)) > 3
        for name in s.artifacts.names():
            assert s.artifacts.get(name).data is not None
        s.ask("Invert it.", picture(3))
        assert len(s.turns) == 3
    with Session(FakeRuntime(), resume=folder) as s:
        assert len(s.turns) == 3
