"""Sessions on disk: one SQLite file in the session's folder, one transaction a finished turn.

A process killed in mid-turn loses that turn and nothing else. The schema is a list of migrations;
a file written by a newer anybind is refused, not misread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybind.agent.events import Event, from_json, to_json
from anybind.content import AnyPart
from anybind.errors import UserError

_MIGRATIONS = (
    """
    CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE turns (
        number INTEGER PRIMARY KEY, request TEXT NOT NULL, context TEXT NOT NULL,
        answer TEXT NOT NULL, condition TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    );
    CREATE TABLE events (
        turn INTEGER NOT NULL REFERENCES turns(number), position INTEGER NOT NULL,
        body TEXT NOT NULL, PRIMARY KEY (turn, position)
    );
    CREATE TABLE artifacts (
        position INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL,
        digest TEXT NOT NULL, made_by TEXT NOT NULL, sources TEXT NOT NULL, turn INTEGER NOT NULL
    );
    """,
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A finished turn as later turns see it."""

    number: int
    request: str
    context: str
    """Notes of experts that went with the request."""
    answer: str
    condition: tuple[tuple[str, float], ...] = ()
    """Artifact names and weights that the answer was conditioned on."""


class SessionStore:
    """The file `session.db` of one session."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "session.db"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{folder} can't hold a session: {error}") from error
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate()
            self._check()
        except sqlite3.Error as error:
            self._db.close()
            raise UserError(f"{self.path} can't be used as a session: {error}") from error
        except UserError:
            self._db.close()
            raise

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise UserError(f"{self.path} was written by a newer anybind (schema {version}).")
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version={number}; COMMIT;")

    def _check(self) -> None:
        """Find damage now, with a plain message, and not in the middle of a turn."""
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise UserError(f"{self.path} is damaged: {found}")
        for table in ("about", "turns", "events", "artifacts"):
            self._db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()

    def about(self, key: str) -> str | None:
        """A fact about the session, e.g. its bundle."""
        row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_about(self, key: str, value: str) -> None:
        """Record a fact about the session."""
        self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def add(self, turn: Turn, events: Sequence[Event], artifacts: Sequence[AnyPart]) -> None:
        """Keep a finished turn, all of it or nothing.

        Raises:
            UserError: the file can't be written, or another process has gone on with the session.
        """
        try:
            self._add(turn, events, artifacts)
        except sqlite3.IntegrityError as error:
            raise UserError(
                f"Another process has gone on with {self.path}; resume it anew."
            ) from error
        except sqlite3.Error as error:
            raise UserError(f"{self.path} can't be written: {error}") from error

    def _add(self, turn: Turn, events: Sequence[Event], artifacts: Sequence[AnyPart]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute(
                "INSERT INTO turns (number, request, context, answer, condition)"
                " VALUES (?, ?, ?, ?, ?)",
                (turn.number, turn.request, turn.context, turn.answer, json.dumps(turn.condition)),
            )
            db.executemany(
                "INSERT INTO events VALUES (?, ?, ?)",
                [(turn.number, i, json.dumps(to_json(e))) for i, e in enumerate(events)],
            )
            db.executemany(
                "INSERT OR IGNORE INTO artifacts (name, digest, made_by, sources, turn)"
                " VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        a.name,
                        a.digest,
                        a.provenance.made_by,
                        json.dumps(a.provenance.sources),
                        turn.number,
                    )
                    for a in artifacts
                ],
            )
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def turns(self) -> list[Turn]:
        """All finished turns in order."""
        rows = self._db.execute(
            "SELECT number, request, context, answer, condition FROM turns ORDER BY number"
        )
        return [
            Turn(n, request, context, answer, tuple((a, w) for a, w in json.loads(condition)))
            for n, request, context, answer, condition in rows
        ]

    def events(self, turn: int) -> list[Event]:
        """The recorded stream of a turn."""
        rows = self._db.execute("SELECT body FROM events WHERE turn = ? ORDER BY position", (turn,))
        return [from_json(json.loads(body)) for (body,) in rows]

    def artifacts(self) -> list[tuple[str, str, str, list[str]]]:
        """Name, digest, maker and sources of every kept artifact, in order of arrival."""
        rows: list[Any] = self._db.execute(
            "SELECT name, digest, made_by, sources FROM artifacts ORDER BY position"
        ).fetchall()
        return [
            (name, digest, made_by, json.loads(sources)) for name, digest, made_by, sources in rows
        ]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
