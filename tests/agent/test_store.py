"""The file of a session: whole turns or nothing, and plain words about damaged files."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from anybind.agent import store as module
from anybind.agent.artifacts import ArtifactStore
from anybind.agent.events import TextDelta, TurnStarted
from anybind.agent.store import SessionStore, Turn
from anybind.content import Image
from anybind.errors import UserError
from tests.fakes import picture

TURN = Turn(1, "q", "note", "a", (("image/1a2b3c4d.png", 0.5),))


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    part = ArtifactStore(tmp_path).add(Image.of(picture(), made_by="tool:T", sources=("x",)))
    store = SessionStore(tmp_path)
    store.set_about("bundle", "nano")
    store.add(TURN, [TurnStarted(1, "q"), TextDelta("ä\u2028")], [part])
    store.close()
    store = SessionStore(tmp_path)
    assert store.about("bundle") == "nano" and store.about("nothing") is None
    assert store.turns() == [TURN]
    assert store.events(1) == [TurnStarted(1, "q"), TextDelta("ä\u2028")]
    assert store.artifacts() == [(part.name, part.digest, "tool:T", ["x"])]
    store.close()


@pytest.mark.parametrize("where", ["events", "artifacts"])
def test_a_crash_within_add_leaves_nothing(tmp_path: Path, where: str) -> None:
    store = SessionStore(tmp_path)
    good: list[Any] = [TurnStarted(1, "q")]
    with pytest.raises(Exception):  # noqa: B017 - whatever the broken value raises
        store.add(TURN, [*good, object()] if where == "events" else good, [object()])
    store.close()
    store = SessionStore(tmp_path)
    assert store.turns() == [] and store.events(1) == [] and store.artifacts() == []
    store.add(TURN, good, [])
    assert store.turns() == [TURN]
    store.close()


def test_the_same_turn_twice_is_refused(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    store.add(TURN, [], [])
    with pytest.raises(UserError, match="Another process"):
        store.add(TURN, [TurnStarted(1, "other")], [])
    assert store.events(1) == []
    store.close()


def test_a_file_of_a_newer_anybind_is_refused(tmp_path: Path) -> None:
    SessionStore(tmp_path).close()
    db = sqlite3.connect(tmp_path / "session.db")
    db.execute(f"PRAGMA user_version={len(module._MIGRATIONS) + 1}")
    db.close()
    before = (tmp_path / "session.db").read_bytes()
    with pytest.raises(UserError, match="newer"):
        SessionStore(tmp_path)
    assert (tmp_path / "session.db").read_bytes() == before


@pytest.mark.parametrize("data", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 2000])
def test_a_file_that_is_no_database_is_a_user_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "session.db").write_bytes(data)
    with pytest.raises(UserError, match=r"session\.db"):
        SessionStore(tmp_path)


def test_a_damaged_or_foreign_database_is_a_user_error(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    for i in range(1, 60):
        store.add(Turn(i, "q" * 500, "", "a" * 500), [], [])
    store.close()
    file = tmp_path / "session.db"
    data = bytearray(file.read_bytes())
    data[8192:20_000] = b"\xa5" * (20_000 - 8192)
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"session\.db"):
        SessionStore(tmp_path)
    file.unlink()
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version=1")
    db.close()
    with pytest.raises(UserError, match=r"session\.db"):
        SessionStore(tmp_path)


def test_a_folder_that_can_not_be_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError):
        SessionStore(tmp_path / "file" / "inside")
