"""The start of a turn: attachments become artifacts, experts look at them."""

from __future__ import annotations

from collections.abc import Iterator

from anybind.agent.events import Event, NoteTaken
from anybind.agent.runtime import Runtime
from anybind.agent.state import TurnState, keep
from anybind.content import Embedding, Text
from anybind.contracts import Note
from anybind.errors import UserError


def take_attachments(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    """Keep the attachments of the request as artifacts.

    Raises:
        UserError: the bundle has no encoder for one of them.
    """
    for part in state.request.parts:
        if isinstance(part, Embedding):
            _check_embedding(runtime, part)
        elif part.kind not in runtime.model.modalities:
            taken = ", ".join(sorted(runtime.model.modalities))
            raise UserError(
                f"Bundle {runtime.bundle.name!r} can't take {part.kind}; it takes {taken}."
            )
        yield from keep(state, part)
        state.attached.append(state.artifacts.add(part))


def _check_embedding(runtime: Runtime, part: Embedding) -> None:
    import numpy as np

    space = runtime.model.language.profile.space
    if part.space != space:
        raise UserError(
            f"The embedding lives in the space {part.space!r}; bundle {runtime.bundle.name!r} "
            f"takes {space!r}."
        )
    if part.data.ndim != 1 or not np.isfinite(part.data).all():
        raise UserError("An embedding is one row of finite numbers.")


def ask_experts(runtime: Runtime, state: TurnState) -> Iterator[Event]:
    """Let the experts look at the attachments; what they say becomes context."""
    for part in state.attached:
        if isinstance(part, Text):
            note = Note("text", f"attached text: {part.data.strip()}", 1.0, (part.name,))
            yield from _note(state, note)
            continue
        for expert in runtime.context_experts(part.kind):
            note = expert.look(part, state.request.text)
            if note is not None:
                yield from _note(state, note)


def _note(state: TurnState, note: Note) -> Iterator[Event]:
    state.notes.append(note)
    yield NoteTaken(note.expert, note.text, note.confidence, note.sources)
    for part in note.parts:
        yield from keep(state, part)
