"""Films, clouds and readings of sensors in a session: attached, kept, taken up again."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from anybind.agent.cli import chatting
from anybind.agent.session import Session
from anybind.errors import UserError
from anybind.media.ply import write_ply
from tests import fakes
from tests.fakes import FakeRuntime
from tests.films import film

RNG = np.random.default_rng(0)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """One attachment of each kind, as a user writes it."""
    pil.fromarray(RNG.integers(500, 4000, (9, 12)).astype(np.uint16)).save(tmp_path / "room.png")
    (tmp_path / "walk.csv").write_text(
        "time,ax,ay,az,gx,gy,gz\n" + "".join(f"{i / 50},{i},0,9.81,0,0,{-i}\n" for i in range(40))
    )
    (tmp_path / "scan.ply").write_bytes(write_ply(RNG.normal(size=(30, 3)).astype(np.float32)))
    (tmp_path / "a.mp4").write_bytes(film(frames=20))
    return {
        "depth": f"depth:{tmp_path / 'room.png'}",
        "thermal": f"thermal:{tmp_path / 'room.png'}",
        "imu": f"imu:{tmp_path / 'walk.csv'}",
        "point": str(tmp_path / "scan.ply"),
        "video": str(tmp_path / "a.mp4"),
    }


@pytest.fixture(autouse=True)
def all_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fake that takes every kind and embeds what the data are, not where they lie."""

    class Model(fakes.FakeModel):
        modalities = frozenset({"text", "image", "depth", "thermal", "imu", "point", "video"})

        def _one(self, part: Any) -> Any:
            if part.kind in ("text", "image"):
                return super()._one(part)
            data = part.data
            if part.kind == "video":
                data = data.frames
            elif part.kind == "imu":
                data = np.append(data.samples.ravel(), round(data.rate or 0, 6))
            return super()._one(fakes.Image.of(data))

    monkeypatch.setattr(fakes, "FakeModel", Model)
    yield


@pytest.mark.parametrize("kind", ["depth", "thermal", "imu", "point", "video"])
def test_a_kept_attachment_goes_on_as_the_condition(
    tmp_path: Path, files: dict[str, str], kind: str
) -> None:
    first = FakeRuntime()
    with Session(first, folder=tmp_path / "s") as s:
        reply = s.ask("What is this?", files[kind])
        (kept,) = [a for a in reply.artifacts if a.kind == kind]
        assert kept.path.is_file() and kept.name.startswith(f"{kind}/")
    again = FakeRuntime()
    with Session(again, resume=tmp_path / "s") as s:
        s.ask("And this?")
    was, now = first.model.language.conditions[-1], again.model.language.conditions[-1]
    assert was is not None and now is not None
    np.testing.assert_array_equal(was.data, now.data)


def test_the_same_content_is_one_artifact(tmp_path: Path, files: dict[str, str]) -> None:
    with Session(FakeRuntime(), folder=tmp_path / "s") as s:
        reply = s.ask("What is this?", *files.values(), *files.values())
        assert sorted(a.kind for a in reply.artifacts) == sorted(files)


def test_a_chat_attaches_them_by_their_words(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    runtime = FakeRuntime()
    monkeypatch.setattr(
        chatting, "Session", lambda *_, **__: Session(runtime, folder=tmp_path / "s")
    )
    lines = [
        "/attach depth:missing.png",
        f"/attach {files['depth']} {files['imu']}",
        "What is this?",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    chatting.chat([], "fake", None, None, 0, True)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "depth:missing.png" in events[0]["error"]["message"]
    assert [e["kind"] for e in events if e["event"] == "ArtifactAdded"][:2] == ["depth", "imu"]


def test_a_bad_attachment_leaves_the_session_as_it_was(
    tmp_path: Path, files: dict[str, str]
) -> None:
    with Session(FakeRuntime(), folder=tmp_path / "s") as s:
        with pytest.raises(UserError, match="silent film"):
            s.ask("What is this?", "audio:" + files["video"])
        with pytest.raises(UserError, match="not a readable picture"):
            s.ask("What is this?", "depth:" + files["point"])
        assert s.turns == () and not list((tmp_path / "s").glob("*/*.*"))
