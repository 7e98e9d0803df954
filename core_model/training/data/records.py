"""One record of a file, read: its conversation and what it is about. And what makes one bad.

Every reader ends here, so that the checks of texts, turns and names are the same for all formats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.contracts import Message
from anybind.core_model.training.samples import Span
from anybind.errors import UserError

_LONGEST = 1_000_000
"""Characters of one text."""
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip

_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "video": (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"),
    "point": (".ply", ".pcd", ".glb", ".npy", ".npz", ".obj", ".xyz", ".pts", ".stl", ".off"),
    "text": (".txt", ".md", ".srt", ".vtt", ".csv", ".json"),
}


class BadRecord(UserError):
    """This record can't be used; says why. A source reports it and goes on to the next."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something that a conversation is about: a file, or the bytes of a picture."""

    key: str
    """As the record names it: what a file of features knows it by."""
    path: str = ""
    """Where it lies; may begin with a kind as in `depth:room.png`."""
    data: bytes | None = field(default=None, repr=False)
    weight: float = 1.0
    draw: int | None = None
    """Decides how a picture is changed before it is encoded (`augment`); None leaves it as it is."""
    row: NDArray[np.float32] | None = field(default=None, repr=False)
    """Its embedding [C], if that was made before."""
    made_of: str = ""
    """Kind of content that `row` is of, where its file says it."""

    @property
    def kind(self) -> str:
        """Kind of content, as far as can be told without opening it: by what made its embedding, a
        prefix, or the ending of its name; "embedding" where nothing tells.
        """
        from anybind.media import PREFIXES, split_prefix

        if self.made_of or self.data is not None:
            return self.made_of or "image"
        prefix, rest = split_prefix(self.key)
        if prefix is not None:
            return PREFIXES[prefix]
        ending = rest[rest.rfind(".") :].lower() if "." in rest else ""
        return next((kind for kind, endings in _ENDINGS.items() if ending in endings), "embedding")


@dataclass(frozen=True, slots=True)
class Record:
    """A record as its format gave it."""

    messages: tuple[Message, ...]
    attachments: tuple[Attachment, ...] = ()
    feature: NDArray[np.float32] | None = None
    """An embedding [C] that the record brings along."""
    muted: tuple[Span, ...] = ()
    words: str = ""
    """What it is about, in names with commas between; "" if the record does not say."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader is told besides the bytes of the record."""

    file: Path
    images: Path
    """Folder that the paths of pictures start from."""
    question: str = ""
    """What a caption answers, this time."""

    def attached(self, name: Any, weight: float = 1.0) -> Attachment:
        """The file that a record names.

        Raises:
            BadRecord: not a name, or a URL.
        """
        from anybind.media import split_prefix, with_prefix

        if not isinstance(name, str) or not name.strip() or "\0" in name or len(name) > 4096:
            raise BadRecord(f"{str(name)[:80]!r} is no path of a file")
        if "://" in name:
            raise BadRecord(f"{name[:200]} is a URL: nothing is fetched, give the path of a file")
        try:
            kind, rest = split_prefix(name)
        except UserError as error:
            raise BadRecord(str(error)) from error
        path = str(self.images / rest)
        return Attachment(name, path if kind is None else with_prefix(path, kind), weight=weight)


def loads(data: bytes) -> Any:
    """The JSON value in these bytes.

    Raises:
        BadRecord: there is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        if not data.strip():
            raise BadRecord("nothing stands there") from error
        said = str(error) if isinstance(error, json.JSONDecodeError) else "nested or coded badly"
        raise BadRecord(f"no JSON: {said}") from error


def fields(value: Any) -> Mapping[str, Any]:
    """A record that must be an object."""
    if not isinstance(value, dict):
        raise BadRecord(f"a record is an object, not {_kind(value)}")
    return value


def text(value: Any, name: str, *, empty: bool = False) -> str:
    """A text of a record, without the blanks around it.

    Raises:
        BadRecord: it is missing, no text, empty where it may not be, or not to be written down.
    """
    if value is None and empty:
        return ""
    if not isinstance(value, str):
        raise BadRecord(f"{name} is missing" if value is None else f"{name} is {_kind(value)}")
    if len(value) > _LONGEST:
        raise BadRecord(f"{name} has {len(value)} characters; {_LONGEST} at most")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{name} holds half a character (a lone surrogate)") from error
    value = value.strip()
    if not value and not empty:
        raise BadRecord(f"{name} is empty")
    return value


def turns(value: Any, name: str = "conversations") -> tuple[Message, ...]:
    """A list of `{"from", "value"}` as a conversation that ends with the assistant.

    What an assistant says before anybody asked and what a user says without getting an answer is
    left out: those are the ends of a conversation that was cut.

    Raises:
        BadRecord: roles are unknown or out of turn, or nothing is left.
    """
    if not isinstance(value, list):
        raise BadRecord(f"{name} is missing" if value is None else f"{name} is {_kind(value)}")
    found: list[Message] = []
    for number, turn in enumerate(value, 1):
        said = fields(turn)
        who = said.get("from", said.get("role"))
        role = _ROLES.get(who.lower()) if isinstance(who, str) else None
        if role is None:
            raise BadRecord(f"turn {number} is from {str(who)[:40]!r}; known: {', '.join(_ROLES)}")
        content = text(said.get("value", said.get("content")), f"turn {number}")
        found.append(Message(role, content))  # pyright: ignore[reportArgumentType]
    system = [m for m in found if m.role == "system"]
    rest = [m for m in found if m.role != "system"]
    while rest and rest[0].role == "assistant":
        del rest[0]
    while rest and rest[-1].role == "user":
        del rest[-1]
    return conversation([*system, *rest])


def conversation(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A conversation in which system texts come first, turns alternate, and the assistant is last.

    Raises:
        BadRecord: it is not so.
    """
    rest = [m for m in messages if m.role != "system"]
    if any(m.role == "system" for m in messages[len(messages) - len(rest) :]):
        raise BadRecord("a system text stands behind the first turn")
    if not rest:
        raise BadRecord("the conversation has no answer")
    for number, message in enumerate(rest):
        wanted = ("user", "assistant")[number % 2]
        if message.role != wanted:
            raise BadRecord(f"turn {number + 1} is the {message.role}'s, not the {wanted}'s")
    if rest[-1].role != "assistant":
        raise BadRecord("the last turn is not the assistant's")
    return tuple(messages)


def with_system(record: Record, system: str) -> Record:
    """The record with a system text in front, if it has none."""
    if not system or record.messages[0].role == "system":
        return record
    muted = tuple(Span(m + 1, a, b) for m, a, b in record.muted)
    return replace(record, messages=(Message("system", system), *record.messages), muted=muted)


def unit(row: NDArray[Any], name: str) -> NDArray[np.float32]:
    """An embedding [C] at norm 1.

    Raises:
        BadRecord: it has no direction.
    """
    found = np.asarray(row, np.float32)
    norm = float(np.linalg.norm(found))
    if found.ndim != 1 or not np.isfinite(norm) or norm < 1e-6:
        raise BadRecord(f"{name} is no embedding: {list(found.shape)}, norm {norm:.3g}")
    return found / np.float32(norm)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "nothing" if value is None else "a number")
