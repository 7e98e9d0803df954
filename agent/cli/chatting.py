"""`anybind chat`: a conversation on the terminal."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from anybind.agent.cli.output import FetchProgress, console
from anybind.agent.events import TurnFinished, to_json
from anybind.agent.render import Renderer
from anybind.agent.session import Session
from anybind.errors import AnybindError, UserError
from anybind.media import split_prefix

_HELP = (
    "/attach FILE ... adds files to the next message (depth:FILE says what one holds), /image asks for a picture with the next "
    "answer, /tools lists tools, /history shows the turns, /quit leaves. "
    "The session is kept and can be resumed."
)


def chat(
    files: list[str],
    bundle: str,
    folder: Path | None,
    resume: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Read lines until the end; every error is shown and the conversation goes on."""
    chosen = None if resume and bundle == "nano" else bundle
    with Session(
        chosen, folder=folder, resume=resume, seed=seed, progress=FetchProgress()
    ) as session:
        if not as_json:
            console.print(f"Session in {session.folder}. {_HELP}", style="dim")
        waiting: list[str] = list(files)
        outputs: list[str] = ["text"]
        while (line := _read(as_json)) is not None:
            try:
                if line.startswith("/"):
                    if _command(line, session, waiting, outputs):
                        return
                elif line:
                    attachments, waiting = waiting, []
                    wanted, outputs = outputs, ["text"]
                    _turn(session, line, attachments, wanted, as_json)
            except AnybindError as error:
                if as_json:
                    problem = {"type": type(error).__name__, "message": str(error)}
                    sys.stdout.write(json.dumps({"event": "Error", "error": problem}) + "\n")
                    sys.stdout.flush()
                else:
                    console.print(f"{type(error).__name__}: {error}", style="red")


def _read(as_json: bool) -> str | None:
    try:
        return input("" if as_json or not sys.stdin.isatty() else "> ").strip()
    except EOFError:
        return None


def _turn(session: Session, text: str, files: list[str], outputs: list[str], as_json: bool) -> None:
    renderer = Renderer(console)
    for event in session.stream(text, *files, outputs=outputs):
        if as_json:
            sys.stdout.write(json.dumps(to_json(event), ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            renderer.show(event)
        if isinstance(event, TurnFinished) and not as_json:
            for artifact in event.reply.artifacts:
                if artifact.made_by != "user":
                    console.print(f"  {artifact.kind}: {artifact.path}")


def _command(line: str, session: Session, waiting: list[str], outputs: list[str]) -> bool:
    """Do a slash command; True means leave."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"Can't read {line!r}: {error}") from error
    match words[0]:
        case "/quit" | "/exit":
            return True
        case "/attach":
            paths = [(w, Path(split_prefix(w)[1])) for w in words[1:]]
            missing = [w for w, path in paths if not path.expanduser().is_file()]
            if missing or not words[1:]:
                raise UserError(f"No such file: {', '.join(missing) or '(none given)'}.")
            waiting.extend(words[1:])
        case "/image":
            outputs.append("image")
        case "/tools":
            for tool, why in session.runtime.tools():
                console.print(f"  {tool.name}" + (f" (not available: {why})" if why else ""))
        case "/history":
            for turn in session.turns:
                console.print(f"  {turn.number}. {turn.request}\n     {turn.answer}")
        case _:
            console.print(_HELP, style="dim")
    return False
