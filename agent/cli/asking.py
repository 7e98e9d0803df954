"""`anybind ask`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from anybind.agent.cli.output import FetchProgress, console, print_json
from anybind.agent.events import TurnFinished
from anybind.agent.render import Renderer
from anybind.agent.reply import Reply
from anybind.errors import AnybindError, UserError


def ask(
    question: str,
    files: list[str],
    bundle: str,
    weights: list[str],
    outputs: list[str],
    ground: bool,
    tools: bool,
    seed: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Ask once; print the stream, or one JSON document."""
    from anybind.agent.session import Session

    try:
        attachments = pair(files, weights)
        with Session(bundle, seed=seed, progress=FetchProgress()) as session:
            renderer = Renderer(console)
            for event in session.stream(
                question, *attachments, outputs=("text", *outputs), ground=ground, tools=tools
            ):
                if not as_json:
                    renderer.show(event)
                if isinstance(event, TurnFinished):
                    report(event.reply, out, as_json)
    except AnybindError as error:
        if not as_json:
            raise
        print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        raise SystemExit(2) from error


def pair(files: list[str], weights: list[str]) -> list[Any]:
    """Files with their weights, if any were given."""
    if not weights:
        return list(files)
    try:
        numbers = [float(w) for group in weights for w in group.split(",")]
    except ValueError as error:
        raise UserError(f"A --weight is a number, not {' '.join(weights)!r}.") from error
    if len(numbers) != len(files):
        raise UserError(f"{len(numbers)} weights for {len(files)} files: give one for each.")
    return list(zip(files, numbers, strict=True))


def report(reply: Reply, out: Path | None, as_json: bool) -> None:
    """Copy artifacts out and say where they are."""
    data = reply.to_json()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for row in data["artifacts"]:
            copied = out / row["name"].replace("/", "-")
            shutil.copyfile(row["path"], copied)
            row["path"] = str(copied)
    if as_json:
        print_json({**data, "error": None})
        return
    for row in data["artifacts"]:
        if row["from"] != "user":
            console.print(f"  {row['kind']} by {row['from']}: {row['path']}")
