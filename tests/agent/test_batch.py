"""`anybind batch`: a bad line never stops the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from anybind.agent.cli import batching
from anybind.errors import UserError
from tests.fakes import FakeRuntime, picture


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a file of raw lines on a fake runtime; gives back the replies."""
    monkeypatch.setattr(batching, "Runtime", lambda *_, **__: FakeRuntime())
    monkeypatch.chdir(tmp_path)

    def go(data: bytes) -> list[dict[str, Any]]:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / "requests.jsonl").write_bytes(data)
        out = tmp_path / "out" / "replies.jsonl"
        batching.run(tmp_path / "in" / "requests.jsonl", out, "fake", 0, None, False)
        lines = out.read_bytes().rstrip(b"\n").split(b"\n")
        return [json.loads(line) for line in lines if line]

    return go


def line(**fields: Any) -> bytes:
    return json.dumps({"id": "x", "text": "Hello"} | fields).encode() + b"\n"


BAD = [
    b"not json\n",
    b"[]\n",
    b"null\n",
    b'"text"\n',
    b'{"id": "a"}\n',
    b'{"text": "a"}\n',
    b'{"id": {}, "text": "a"}\n',
    b'{"id": "\xff", "text": "a"}\n',
    b"\xff\xfe\x00\n",
    b"[" * 100_000 + b"\n",
    line(text=""),
    line(text="\ud800"),
    line(id="\ud800", text=""),
    line(id="[/red]", text=""),
    line(id="[bold", text=""),
    line(text=3),
    line(more=1),
    line(attachments=["missing.png"]),
    line(attachments=["/etc"]),
    line(attachments=["http://example.org/a.png"]),
    line(attachments=["a\0b.png"]),
    line(attachments=["~nobody-of-this-name/a.png"]),
    line(attachments=[{"path": "pic.png", "weight": float("nan")}]),
    line(attachments=[{"path": "pic.png", "weight": -1}]),
    line(attachments=[{"weight": 1}]),
    line(attachments=[{"path": "a.png", "kind": "smell"}]),
    line(attachments=[{"path": "depth:a.png", "kind": "imu"}]),
    line(attachments=["depth:missing.png"]),
    line(attachments="pic.png"),
    line(outputs=["smell"]),
    line(outputs=[]),
    line(session="../../up"),
    line(session=""),
    line(session=".hidden"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda b: repr(b[:40]))
def test_a_bad_line_gets_an_error_and_the_rest_is_done(run: Any, bad: bytes) -> None:
    rows = run(line(id="first") + bad + line(id=3))
    assert [rows[0]["id"], rows[2]["id"]] == ["first", 3]
    assert rows[0]["error"] is None and rows[2]["error"] is None
    assert set(rows[1]["error"]) == {"type", "message"} and rows[1]["error"]["message"]
    assert rows[1]["text"] == "" and rows[1]["boxes"] == []
    assert len(rows) == 3


def test_replies_have_every_field(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "pic.png")
    (row,) = run(line(attachments=["pic.png", {"path": "in/pic.png", "weight": 0.5}]))
    assert row["error"] is None
    assert {
        "id", "text", "nouns", "boxes", "artifacts", "tool_calls", "notes", "usage", "error"
    } <= set(row)  # fmt: skip
    assert row["nouns"][0].keys() >= {"text", "span", "score"}
    assert all(Path(a["path"]).is_file() for a in row["artifacts"])


def test_an_attachment_may_say_what_it_holds(run: Any, tmp_path: Path) -> None:
    """The fake takes pictures only, so what comes back names the kind that was made of the file."""
    (tmp_path / "in").mkdir()
    grey = np.full((8, 8), 2000, np.uint16)
    pil.fromarray(grey).save(tmp_path / "in" / "room.png")
    plain, *rows = run(
        line(attachments=["room.png"])
        + line(attachments=["depth:room.png"])
        + line(attachments=[{"path": "room.png", "kind": "depth"}])
        + line(attachments=[{"path": "room.png", "kind": "sunrgbd", "weight": 0.5}])
        + line(attachments=["depth:in/room.png", "image:room.png"])
    )
    assert plain["error"] is None
    for row in rows:
        assert row["error"]["type"] == "UserError"
        assert "can't take depth" in row["error"]["message"]


def test_named_sessions_go_on_and_new_ones_do_not(run: Any) -> None:
    rows = run(
        line(id=1, text="apple", session="a")
        + line(id=2, text="pear", session="a")
        + line(id=3, text="plum")
    )
    assert [r["error"] for r in rows] == [None] * 3
    again = run(line(id=1, session="a"))
    assert again[0]["error"] is None


def test_separators_inside_strings_do_not_split_a_line(run: Any) -> None:
    raw = '{"id": "a", "text": "one\u2028two\u0085three"}\n'.encode()
    rows = run(b"\xef\xbb\xbf" + raw + b"\r\n  \n" + line(id="b"))
    assert [(r["id"], r["error"]) for r in rows] == [("a", None), ("b", None)]
    assert "two" in rows[0]["text"]


def test_a_missing_file_of_requests_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.jsonl"):
        batching.run(tmp_path / "no.jsonl", tmp_path / "o", "fake", 0, None, False)
