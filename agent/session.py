"""A session: one conversation, its artifacts and its file on disk.

The same object behind Python, CLI, server and page. A session is used by one thread at a time; a
second turn waits for the first.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from anybind.agent.artifacts import ArtifactStore
from anybind.agent.events import Event, TextDelta, TurnFailed, TurnFinished, TurnStarted
from anybind.agent.limits import Limits
from anybind.agent.loop import turn
from anybind.agent.reply import Reply
from anybind.agent.runtime import Runtime
from anybind.agent.state import Request, TurnState
from anybind.agent.store import SessionStore, Turn
from anybind.agent.tool_steps import PlannedCall, plan
from anybind.content import AnyPart
from anybind.contracts import Progress, Sampling
from anybind.errors import LimitExceeded, UserError
from anybind.media import from_value
from anybind.weights import home

MAX_ATTACHMENTS = 16
MAX_TEXT = 20_000
OUTPUTS = ("text", "image", "audio", "point")


class Session:
    """A conversation with a bundle.

    Args:
        bundle: Name of a bundle, path to a bundle.json, or a shared `Runtime`.
        folder: Where the session is kept; by default a new folder under `ANYBIND_HOME/sessions`.
        resume: Folder (or id under `ANYBIND_HOME/sessions`) of a kept session to go on with.
        limits: What one turn may cost.
        seed: Seed of everything random.
        progress: Called while weights are fetched.

    Raises:
        UserError: no such bundle, or no session to resume.
    """

    def __init__(
        self,
        bundle: str | Path | Runtime | None = None,
        *,
        folder: str | Path | None = None,
        resume: str | Path | None = None,
        limits: Limits | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.folder = _folder(folder, resume)
        self._own_runtime = not isinstance(bundle, Runtime)
        if isinstance(bundle, (str, Path)):
            # Before anything is written: a wrong name must leave no folder behind.
            bundle = Runtime(bundle, progress=progress)
        self._store = SessionStore(self.folder)
        try:
            kept = self._store.about("bundle")
            self.runtime = bundle or Runtime(kept or "nano", progress=progress)
            if kept is None:
                self._store.set_about("bundle", self.runtime.bundle.reference)
        except BaseException:
            self._store.close()
            raise
        self.limits = limits or Limits()
        self.seed = seed
        self.artifacts = ArtifactStore(self.folder)
        for name, digest, made_by, sources in self._store.artifacts():
            self.artifacts.restore(name, digest, made_by, sources)
        self._history = self._store.turns()
        self._lock = threading.Lock()
        self._turning = 0
        """The thread that reads a turn now."""

    # ------------------------------------------------------------ asking

    def ask(
        self,
        text: str,
        *attachments: Any,
        outputs: Sequence[str] = ("text",),
        ground: bool = True,
        tools: bool = True,
        seed: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> Reply:
        """Ask, and wait for the whole reply. Arguments as for `stream`.

        Raises:
            UserError: the call or an attachment is wrong; the session is as it was before.
            AnybindError: something else went wrong; the type says who must act.
        """
        for event in self.stream(
            text, *attachments, outputs=outputs, ground=ground, tools=tools, seed=seed,
            temperature=temperature, top_p=top_p,
        ):  # fmt: skip
            if isinstance(event, TurnFinished):
                return event.reply
        raise UserError("The turn was closed before it ended.")

    def stream(
        self,
        text: str,
        *attachments: Any,
        outputs: Sequence[str] = ("text",),
        ground: bool = True,
        tools: bool = True,
        seed: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> Iterator[Event]:
        """Ask, and get the turn as a stream of events that ends with `TurnFinished`.

        Args:
            text: The request.
            *attachments: Paths, parts or PIL images; `(thing, weight)` sets a mixing weight,
                `"depth:room.png"` says what a file holds that does not tell.
            outputs: What to reply with: "text", "image" ... (as the bundle's generators allow).
            ground: Look for the nouns of the answer in the picture.
            tools: Let the model call tools.
            seed: Overrides the session's seed for this turn.
            temperature: Of the answer; 0 is greedy.
            top_p: Of the answer.

        Raises:
            As `ask`; a `TurnFailed` event comes before the error.
        """
        sampling = Sampling(
            max_tokens=self.limits.answer_tokens, temperature=temperature, top_p=top_p,
            seed=self.seed if seed is None else seed,
        )  # fmt: skip
        request = _request(text, attachments, outputs, ground, tools, sampling)
        with self._alone():
            yield from self._turn(request)

    def plan(self, text: str, *attachments: Any) -> list[PlannedCall]:
        """The tool calls that a request asks for, written by the model but not run.

        The session stays as it was.
        """
        request = _request(text, attachments, ("text",), False, True, Sampling(seed=self.seed))
        with self._alone():
            state = TurnState(request, self._history, self.artifacts)
            try:
                return list(plan(self.runtime, state))
            finally:
                self.artifacts.forget([p.name for p in state.kept])

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One turn at a time: other threads wait, the same thread would wait for itself."""
        here = threading.get_ident()
        if self._turning == here:
            raise UserError(
                "A turn of this session is still open: read its stream to the end, or close it."
            )
        with self._lock:
            self._turning = here
            try:
                yield
            finally:
                self._turning = 0

    def _turn(self, request: Request) -> Iterator[Event]:
        number = len(self._history) + 1
        state = TurnState(request, self._history, self.artifacts)
        events: list[Event] = []
        finished = False
        try:
            for event in self._events(number, state):
                events.append(event)
                yield event
            reply = state.reply()
            end = TurnFinished(reply)
            events.append(end)
            done = _as_turn(number, state)
            self._store.add(done, _compact(events), state.kept)
            self._history.append(done)
            finished = True
            yield end
        except Exception as error:
            yield TurnFailed(type(error).__name__, str(error))
            if isinstance(error, LimitExceeded) and error.partial is None:
                error.partial = state.reply()
            raise
        finally:
            # Also when the caller drops the stream half-way: the session is as it was before.
            if not finished:
                self.artifacts.forget([p.name for p in state.kept])

    def _events(self, number: int, state: TurnState) -> Iterator[Event]:
        yield TurnStarted(number, state.request.text)
        yield from turn(self.runtime, state, self.limits)

    # ------------------------------------------------------------ looking back

    @property
    def turns(self) -> Sequence[Turn]:
        """The finished turns."""
        return tuple(self._history)

    def replay(self, number: int) -> list[Event]:
        """The recorded stream of a finished turn."""
        if not 1 <= number <= len(self._history):
            raise UserError(f"This session has {len(self._history)} turns; there is no {number}.")
        return self._store.events(number)

    def close(self) -> None:
        """Close the session; it stays on disk and can be resumed."""
        self._store.close()
        if self._own_runtime:
            self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _folder(folder: str | Path | None, resume: str | Path | None) -> Path:
    if folder is not None and resume is not None:
        raise UserError("Give folder= for a new session or resume= for a kept one, not both.")
    if resume is not None:
        path = Path(resume).expanduser()
        if not (path / "session.db").exists() and len(path.parts) == 1:
            path = home() / "sessions" / path
        if not (path / "session.db").exists():
            raise UserError(f"There is no session to resume at {resume}.")
        return path.resolve()
    path = Path(folder).expanduser() if folder else home() / "sessions" / uuid.uuid4().hex[:12]
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; a session needs a folder.")
    if (path / "session.db").exists():
        raise UserError(f"{path} holds a session already; go on with it by resume={str(path)!r}.")
    return path.resolve()


def _request(
    text: str,
    attachments: Sequence[Any],
    outputs: Sequence[str],
    ground: bool,
    tools: bool,
    sampling: Sampling,
) -> Request:
    if not isinstance(text, str) or not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError("The request is empty; write what you want to know.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"The request is not valid Unicode text: {error}") from error
    if len(text) > MAX_TEXT:
        raise UserError(f"The request has {len(text)} characters; the limit is {MAX_TEXT}.")
    if len(attachments) > MAX_ATTACHMENTS:
        raise UserError(f"At most {MAX_ATTACHMENTS} attachments a request, not {len(attachments)}.")
    wanted = (outputs,) if isinstance(outputs, str) else tuple(dict.fromkeys(outputs))
    unknown = [o for o in wanted if o not in OUTPUTS]
    if unknown or not wanted:
        raise UserError(f"outputs are of {', '.join(OUTPUTS)}, not {', '.join(unknown) or 'none'}.")
    parts: list[AnyPart] = []
    weights: list[float | None] = []
    for attachment in attachments:
        weight: float | None = None
        if isinstance(attachment, (tuple, list)):
            pair = cast("Sequence[Any]", attachment)
            if len(pair) != 2:
                raise UserError("An attachment with a weight is a pair: (path, weight).")
            attachment, weight = pair
            if (
                isinstance(weight, bool)
                or not isinstance(weight, (int, float))
                or not math.isfinite(weight)
                or weight < 0
            ):
                raise UserError(f"A mixing weight is a number of 0 or more, not {weight!r}.")
        parts.append(from_value(attachment))
        weights.append(None if weight is None else float(weight))
    if parts and all(w == 0 for w in weights):
        raise UserError("All mixing weights are 0; give at least one above 0.")
    return Request(
        text.strip(), tuple(parts), tuple(weights), wanted, ground, tools, sampling.seed, sampling
    )


def _as_turn(number: int, state: TurnState) -> Turn:
    return Turn(
        number=number,
        request=state.request.text,
        context="\n".join(n.text for n in state.notes),
        answer=state.answer,
        condition=tuple((p.name, w) for p, w in state.mixed),
    )


def _compact(events: Sequence[Event]) -> list[Event]:
    """Runs of text pieces joined, so that a kept stream is not one row a token."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, TextDelta) and out and isinstance(out[-1], TextDelta):
            out[-1] = TextDelta(out[-1].text + event.text)
        else:
            out.append(event)
    return out
