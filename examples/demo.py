"""The demo: one real conversation with the nano bundle on the files beside this script.

Run with `make demo`, or `python examples/demo.py`. Everything goes through the same `Session`
that a user gets; pictures it makes are copied to `out/`.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from anybind.agent import Runtime, Session
from anybind.agent.cli.output import FetchProgress, console
from anybind.agent.events import TurnFinished
from anybind.agent.render import Renderer
from anybind.errors import AnybindError

HERE = Path(__file__).parent
OUT = Path("out")


def show(
    session: Session, title: str, text: str, *files: str, outputs: tuple[str, ...] = ("text",)
) -> None:
    """Ask, print the events as they come, copy what was made."""
    console.rule(title, style="bold")
    renderer = Renderer(console)
    for event in session.stream(text, *(HERE / f for f in files), outputs=outputs):
        renderer.show(event)
        if isinstance(event, TurnFinished):
            for artifact in event.reply.artifacts:
                if artifact.kind == "image" and artifact.made_by != "user":
                    maker = artifact.made_by.partition(":")[2].lower().replace(" ", "-")
                    target = OUT / f"{title.split(' ')[0]}-{maker}-{artifact.path.stem}.png"
                    shutil.copyfile(artifact.path, target)
                    console.print(f"  picture: {target}", style="magenta")


def main() -> int:
    """The conversation; exit code 1 if a turn fails."""
    began = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    console.print("Loading the bundle nano (fetched on first use) ...")
    runtime = Runtime("nano", progress=FetchProgress())
    try:
        with Session(runtime, folder=OUT / "session-1") as s:
            show(s, "1 a photograph", "What is in the picture?", "cat.png")
            show(
                s,
                "2 speech and a photograph",
                "What does the cat like?",
                "speech_cat.wav",
                "cat.png",
            )
        with Session(runtime, folder=OUT / "session-2") as s:
            show(
                s, "3 tools",
                "Detect the balloon, then run edge detection on the image, then remove the balloon from the photo.",
                "balloon.png",
            )  # fmt: skip
        with Session(runtime, folder=OUT / "session-3") as s:
            show(s, "4a text to picture", "Draw a picture of a red apple.", outputs=("image",))
            show(
                s, "4b photograph to picture", "What is this?", "dog.png", outputs=("text", "image")
            )
            show(
                s,
                "4c sound to picture",
                "What do you hear?",
                "guitar.wav",
                outputs=("text", "image"),
            )
    except AnybindError as error:
        console.print(f"{type(error).__name__}: {error}", style="bold red")
        return 1
    finally:
        runtime.close()
    console.rule()
    console.print(f"Done in {time.monotonic() - began:.0f} s. The pictures are in {OUT}/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
