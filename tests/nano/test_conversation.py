"""The main job on real weights and real files, through the public door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import anybind
from anybind.agent import Runtime, Session
from anybind.agent.events import Grounded, Observed, Trace, TurnFinished

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def session(runtime: Runtime, tmp_path: Path):
    with Session(runtime, folder=tmp_path / "session") as opened:
        yield opened


def test_a_photograph_is_named_and_grounded(session: Session) -> None:
    reply = session.ask("What is in the picture?", EXAMPLES / "cat.png")
    assert "cat" in reply.text.lower()
    cat = next(n for n in reply.nouns if n.text.lower().endswith("cat"))
    assert cat.supported
    assert reply.text[slice(*cat.span)] == cat.text
    box = next(b for b in reply.boxes if b.label.endswith("cat"))
    left, top, right, bottom = box.xyxy
    assert 0 <= left < right <= 451 and 0 <= top < bottom <= 300
    assert any(a.made_by == "expert:grounding" and a.path.exists() for a in reply.artifacts)


def test_yes_and_no_are_what_grounding_found(session: Session) -> None:
    assert session.ask("Is there a cat?", EXAMPLES / "cat.png").text.startswith("Yes")
    assert session.ask("Is there a bicycle?", EXAMPLES / "cat.png").text.startswith("No")


def test_a_noun_that_is_not_there_is_marked(session: Session, runtime: Runtime) -> None:
    from anybind.agent.grounding import ground
    from anybind.content import Image
    from anybind.media import open_file

    picture = open_file(EXAMPLES / "cat.png")
    assert isinstance(picture, Image)
    assert runtime.nouns is not None and runtime.grounder is not None
    found = ground("A cat sits on a bicycle.", picture, runtime.nouns, runtime.grounder)
    by_text = {n.text.lower(): n.supported for n in found.nouns}
    assert by_text == {"a cat": True, "a bicycle": False}
    assert found.unsupported == ("a bicycle",)


def test_speech_becomes_context_and_the_answer_uses_it(session: Session) -> None:
    reply = session.ask(
        "What does the cat like?", EXAMPLES / "speech_cat.wav", EXAMPLES / "cat.png"
    )
    assert any("warm milk" in n.text.lower() for n in reply.notes)
    assert "milk" in reply.text.lower()


def test_three_tools_run_one_after_the_other(session: Session) -> None:
    events = list(
        session.stream(
            "Detect the cat, then run edge detection on the image, then remove the cat from the photo.",
            EXAMPLES / "cat.png",
        )
    )
    end = events[-1]
    assert isinstance(end, TurnFinished)
    assert [c.tool for c in end.reply.tool_calls] == [
        "Detect the Give Object",
        "Edge Detection On Image",
        "Remove Something From The Photo",
    ]
    assert all(c.ok for c in end.reply.tool_calls), end.reply.tool_calls
    trace = "".join(e.text for e in events if isinstance(e, Trace))
    for line in (
        "Thought: Do I need to use a tool? Yes",
        "Action: ",
        "Action Input: image/",
        "Observation: ",
    ):
        assert line in trace
    assert sum(isinstance(e, Observed) for e in events) == 3
    uploaded = end.reply.tool_calls[0].args[0]
    assert session.artifacts.path(uploaded).exists()


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("Draw a picture of a red apple.", ()),
        ("What is this?", ("dog.png",)),
        ("What do you hear?", ("guitar.wav",)),
    ],
)
def test_text_photograph_and_sound_give_a_picture(
    session: Session, text: str, files: tuple[str, ...]
) -> None:
    from PIL import Image as pil

    reply = session.ask(text, *(EXAMPLES / f for f in files), outputs=("text", "image"))
    made = [a for a in reply.artifacts if a.made_by.startswith("generator:")]
    assert len(made) == 1
    picture = pil.open(made[0].path)
    low, high = picture.convert("L").getextrema()
    assert high - low > 60, "an empty picture"


def test_the_same_seed_gives_the_same_picture(runtime: Runtime, tmp_path: Path) -> None:
    def draw(seed: int, at: str) -> str:
        with Session(runtime, folder=tmp_path / at, seed=seed) as s:
            reply = s.ask("Draw a picture of a green frog.", outputs=("image",))
            return next(a.name for a in reply.artifacts if a.made_by.startswith("generator:"))

    assert draw(1, "a") == draw(1, "b") != draw(2, "c")


def test_a_follow_up_is_about_the_same_picture(session: Session) -> None:
    session.ask("What is in the picture?", EXAMPLES / "dog.png", ground=False)
    reply = session.ask("What animal is this?", ground=False, tools=False)
    assert any(name in reply.text.lower() for name in ("dog", "retriever"))


def test_a_session_is_resumed(runtime: Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with Session(runtime, folder=folder) as first:
        first.ask("What is in the picture?", EXAMPLES / "cat.png", ground=False)
    with Session(runtime, resume=folder) as second:
        assert [t.request for t in second.turns] == ["What is in the picture?"]
        assert isinstance(second.replay(1)[-1], TurnFinished)
        reply = second.ask("What animal is this?", tools=False)
        assert "cat" in reply.text.lower()
        assert any(isinstance(e, Grounded) for e in second.replay(2))


def test_bad_input_leaves_the_session_unharmed(session: Session, tmp_path: Path) -> None:
    good = session.ask("What is in the picture?", EXAMPLES / "cat.png", ground=False)
    (tmp_path / "broken.png").write_bytes((EXAMPLES / "cat.png").read_bytes()[:5000])
    (tmp_path / "empty.wav").write_bytes(b"")
    for bad in (
        tmp_path / "broken.png",
        tmp_path / "empty.wav",
        tmp_path / "none.png",
        EXAMPLES / "airplane.ply",
    ):
        with pytest.raises(anybind.UserError):
            session.ask("What is this?", bad)
    assert len(session.turns) == 1
    names = session.artifacts.names()
    assert (
        session.ask("What is in the picture?", EXAMPLES / "cat.png", ground=False).text == good.text
    )
    assert session.artifacts.names() == names


def test_two_pictures_never_share_an_answer(session: Session) -> None:
    """Same prompt, other condition: the KV prefix must not be shared."""
    first = session.ask("What is this?", EXAMPLES / "cat.png", ground=False, tools=False)
    second = session.ask("What is this?", EXAMPLES / "rocket.jpg", ground=False, tools=False)
    assert "cat" in first.text.lower()
    assert "cat" not in second.text.lower()


def test_the_command_line_answers_in_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anybind.agent.cli", "ask", "What is in the picture?",
         str(EXAMPLES / "cat.png"), "--json", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert "cat" in data["text"].lower() and data["error"] is None
    assert all(Path(a["path"]).is_relative_to(tmp_path / "out") for a in data["artifacts"])
    assert {"text", "nouns", "boxes", "artifacts", "tool_calls", "notes", "usage", "error"} <= set(
        data
    )


def test_a_batch_goes_on_after_a_bad_line(tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    rows = [
        {
            "id": "a",
            "text": "What is in the picture?",
            "attachments": [str(EXAMPLES / "cat.png")],
            "session": "one",
        },
        {"id": "b", "text": "What is this?", "attachments": [str(tmp_path / "missing.png")]},
        {"id": "c", "text": "What animal is this?", "session": "one", "tools": False},
    ]
    requests.write_text(
        "\n".join([json.dumps(rows[0]), "not json", json.dumps(rows[1]), json.dumps(rows[2])])
    )
    done = subprocess.run(
        [sys.executable, "-m", "anybind.agent.cli", "batch", str(requests), "--out", str(tmp_path / "replies.jsonl")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    replies = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert [r["id"] for r in replies] == ["a", "line 2", "b", "c"]
    assert [r["error"] and r["error"]["type"] for r in replies] == [
        None,
        "UserError",
        "UserError",
        None,
    ]
    assert "cat" in replies[0]["text"].lower() and "cat" in replies[3]["text"].lower()


def test_a_turn_that_only_draws_says_nothing_of_the_next_picture(session: Session) -> None:
    session.ask("Draw a picture of a red apple.", outputs=("image",))
    reply = session.ask("What is this?", EXAMPLES / "dog.png", ground=False)
    assert "dog" in reply.text.lower() and "apple" not in reply.text.lower()
