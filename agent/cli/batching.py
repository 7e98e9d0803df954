"""`anybind batch`: a file of requests, a file of replies."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anybind.agent.cli.output import FetchProgress, errors, print_json
from anybind.agent.reply import Reply
from anybind.agent.runtime import Runtime
from anybind.agent.session import Session
from anybind.errors import AnybindError, UserError
from anybind.media import split_prefix, with_prefix


class Weighted(BaseModel):
    """An attachment with a mixing weight, or with the kind of its content."""

    model_config = ConfigDict(extra="forbid")

    path: str
    weight: float | None = None
    kind: str | None = None


class Line(BaseModel):
    """One request."""

    model_config = ConfigDict(extra="forbid")

    id: str | int
    text: str
    attachments: list[str | Weighted] = Field(default_factory=list[str | Weighted])
    outputs: list[str] = Field(default_factory=lambda: ["text"])
    session: str = "new"
    ground: bool = True
    tools: bool = True


def run(
    requests: Path, out: Path, bundle: str, seed: int, folder: Path | None, as_json: bool
) -> None:
    """Answer every line; each reply is written as soon as it is there."""
    try:
        # By bytes: JSON strings may hold U+2028 and the like, which str.splitlines takes for ends,
        # and one line that is not UTF-8 must not spoil the others.
        lines = requests.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"{requests} can't be read: {error}") from error
    lines = [line.strip() for line in lines]
    total = sum(map(bool, lines))
    out.parent.mkdir(parents=True, exist_ok=True)
    base = folder or out.with_name(out.stem + "-sessions")
    runtime = Runtime(bundle, progress=FetchProgress())
    sessions: dict[str, Session] = {}
    failed = done = 0
    began = time.monotonic()
    # A lone surrogate that came in as an escape goes out as one.
    with out.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            row = _answer(line, number, runtime, sessions, base, seed, requests.parent)
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            done += 1
            failed += row["error"] is not None
            pace = (time.monotonic() - began) / done
            errors.print(f"  {done}/{total} {row['id']!a} ({pace:.1f} s each)", style="dim")
    for session in sessions.values():
        session.close()
    runtime.close()
    if as_json:
        print_json({"requests": done, "failed": failed, "out": str(out)})
    else:
        errors.print(f"{done} requests, {failed} failed, replies in {out}")


def _answer(
    text: bytes,
    number: int,
    runtime: Runtime,
    sessions: dict[str, Session],
    base: Path,
    seed: int,
    beside: Path,
) -> dict[str, Any]:
    """The reply to one line; whatever goes wrong is in its `error`."""
    name: str | int = f"line {number}"
    try:
        try:
            data: Any = json.loads(text)
            given: Any = cast("dict[str, Any]", data).get("id") if isinstance(data, dict) else None
            if isinstance(given, (str, int)):
                name = given
            line = Line.model_validate(data)
        except (ValidationError, ValueError) as error:
            raise UserError(f"Line {number} is not a request: {error}") from error
        session = _session(line.session, runtime, sessions, base, seed)
        try:
            reply = session.ask(
                line.text, *(_attachment(a, beside) for a in line.attachments),
                outputs=line.outputs, ground=line.ground, tools=line.tools,
            )  # fmt: skip
        finally:
            if line.session == "new":
                session.close()
        return {"id": name, **reply.to_json(), "error": None}
    except AnybindError as error:
        problem = {"type": type(error).__name__, "message": str(error)}
    except Exception as error:  # one line must never stop the file
        problem = {"type": "InternalError", "message": f"{type(error).__name__}: {error}"}
    return {"id": name, **Reply().to_json(), "error": problem}


def _attachment(given: str | Weighted, beside: Path) -> Any:
    """A path, a known word before it (`depth:room.png`) left in place; a relative one that is not
    here is looked for beside the request file."""
    kind, path = split_prefix(given if isinstance(given, str) else given.path)
    if not Path(path).exists() and (beside / path).exists():
        path = str(beside / path)
    path = path if kind is None else with_prefix(path, kind)
    if isinstance(given, str):
        return path
    path = with_prefix(path, given.kind)
    return path if given.weight is None else (path, given.weight)


def _session(
    name: str, runtime: Runtime, sessions: dict[str, Session], base: Path, seed: int
) -> Session:
    if name == "new":
        # An unnamed session is not asked again; artifacts stay on disk for the reply's paths.
        return Session(runtime, folder=_free(base, "new"), seed=seed)
    if name not in sessions:
        if not re.fullmatch(r"[\w.-]{1,64}", name) or name.startswith("."):
            raise UserError(f"A session's name has letters, digits, . _ - only, not {name!r}.")
        sessions[name] = Session(runtime, folder=_free(base, name), seed=seed)
    return sessions[name]


def _free(base: Path, name: str) -> Path:
    """A folder that no earlier run has used."""
    number = 1
    while (base / f"{name}-{number}").exists():
        number += 1
    return base / f"{name}-{number}"
