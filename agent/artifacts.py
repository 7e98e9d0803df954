"""Artifacts: the parts a session keeps, by short names, inside its own folder.

A name is `kind/8-hex.ext` (`image/1a2b3c4d.png`, as in GPT4Tools), the hex from the content.
Names are looked up, never joined to a path unchecked: nothing outside the folder can be reached.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

from anybind.agent.keeping import decode, encode, extension, media_type
from anybind.agent.kept_embedding import whole
from anybind.content import KINDS, AnyPart, Embedding, Lazy, Provenance
from anybind.errors import ToolError, UserError

NAME = re.compile(r"[a-z]+/[0-9a-f]{8}\.[a-z0-9]{1,5}")


class ArtifactStore:
    """The artifacts of one session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[str, AnyPart] = {}

    def add(self, part: AnyPart) -> AnyPart:
        """Keep a part; the same content gets the same name.

        Raises:
            UserError: this kind of content can't be kept.
        """
        if part.name and part.name in self._parts:
            return self._parts[part.name]
        data = encode(part)
        digest = hashlib.sha256(part.kind.encode() + b"\0" + data).hexdigest()
        name = self._name(part.kind, digest, extension(part.kind, data))
        if name in self._parts:
            return self._parts[name]
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written whole before it is named, so that a crash leaves no half artifact behind.
        scratch = path.with_suffix(f".{os.getpid()}.part")
        scratch.write_bytes(data)
        os.replace(scratch, path)
        kept = part.named(name, digest, path)
        self._parts[name] = kept
        return kept

    def get(self, name: str) -> AnyPart:
        """The part under a name.

        Raises:
            ToolError: no such artifact; lists those there are.
        """
        found = self._parts.get(name.strip())
        if found is None:
            there = ", ".join(self._parts) or "none"
            raise ToolError(f"{name} is not an artifact of this session; there are: {there}")
        return found

    def names(self, kind: str | None = None) -> list[str]:
        """Names in order of arrival."""
        return [n for n, p in self._parts.items() if kind is None or p.kind == kind]

    def path(self, name: str) -> Path:
        """Where an artifact lies.

        Raises:
            UserError: the name is not one of an artifact, or leads out of the folder.
        """
        if not NAME.fullmatch(name):
            raise UserError(f"{name!r} is not the name of an artifact.")
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise UserError(f"{name!r} leads out of the session's folder.")
        return path

    def forget(self, names: list[str]) -> None:
        """Drop artifacts of a turn that failed."""
        for name in names:
            part = self._parts.pop(name, None)
            if part is not None and part.path is not None:
                part.path.unlink(missing_ok=True)

    def restore(self, name: str, digest: str, made_by: str, sources: list[str]) -> None:
        """Take a kept artifact back in when a session is resumed; read when it is used."""
        path = self.path(name)
        kind = name.partition("/")[0]
        cls = KINDS.get(kind)
        if cls is None or not path.exists():
            return
        part: AnyPart = cls(
            lazy=Lazy(lambda: decode(path, kind)),
            media_type=media_type(kind, path.suffix),
            provenance=Provenance(made_by, tuple(sources)),
            name=name,
            digest=digest,
            path=path,
        )
        self._parts[name] = whole(part, path) if isinstance(part, Embedding) else part

    def _name(self, kind: str, digest: str, extension: str) -> str:
        for at in range(0, 56, 8):
            name = f"{kind}/{digest[at : at + 8]}.{extension}"
            if name not in self._parts or self._parts[name].digest == digest:
                return name
        raise UserError("Too many artifacts share a name.")


def describe(part: AnyPart) -> AnyPart:
    """The part without its place on disk (for tests and for comparing)."""
    return replace(part, path=None)
