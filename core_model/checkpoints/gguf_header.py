"""The header of a GGUF file, read strictly: metadata and where each tensor lies.

Knows the layout (versions 2 and 3, little-endian) and no model. The bytes are untrusted: every
count and length is checked against what the file can hold before anything is made of it, which
the reader of the `gguf` package does not do.

Layout: "GGUF", u32 version, u64 tensors, u64 pairs; a pair is string key, u32 type, value; a
tensor is string name, u32 rank, u64 dims (fastest first), u32 type, u64 offset; then padding to
`general.alignment` and the data. A string is u64 length and its bytes; an array is u32 type, u64
count and its values.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anybind.errors import ModelError

MAX_HEADER = 256 << 20
MAX_ITEMS = 1 << 22
"""Entries of one array (the largest are vocabularies)."""
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies."""

    name: str
    shape: tuple[int, ...]
    """Row-major, as numpy has it (the file has it the other way round)."""
    kind: int
    """GGML type number."""
    offset: int
    """Bytes from the start of the file."""


class _Cursor:
    """A place in the bytes that never passes the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.end = min(len(data), MAX_HEADER)
        self.at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or count > self.end - self.at:
            raise ModelError("it ends too early, or a length in it is wrong")
        start, self.at = self.at, self.at + count
        return self.data[start : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth:
            raise ModelError(f"it holds a value of unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if count > MAX_ITEMS:
            raise ModelError(f"it announces an array of {count} entries")
        if inner in _SCALARS:
            code = f"<{count}{_SCALARS[inner]}"
            return list(struct.unpack(code, self.take(struct.calcsize(code))))
        return [self.value(inner, depth + 1) for _ in range(count)]


def read_header(data: mmap.mmap) -> tuple[dict[str, Any], list[TensorInfo]]:
    """Metadata and tensors of the file behind `data`.

    Raises:
        ModelError: not a GGUF of a known version, or damaged; the message has no file name.
    """
    cursor = _Cursor(data)
    if cursor.take(4) != b"GGUF":
        raise ModelError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        raise ModelError(f"it has version {version}; 2 and 3 are known")
    n_tensors, n_pairs = cursor.number("Q"), cursor.number("Q")
    if n_tensors > MAX_ITEMS or n_pairs > MAX_ITEMS:
        raise ModelError(f"it announces {n_tensors} tensors and {n_pairs} entries")
    fields: dict[str, Any] = {}
    for _ in range(n_pairs):
        key = cursor.text()
        if key in fields:
            raise ModelError(f"it holds {key!r} twice")
        fields[key] = cursor.value(cursor.number("I"))
    infos = [_tensor(cursor) for _ in range(n_tensors)]
    align = fields.get("general.alignment", 32)
    if not isinstance(align, int) or not 0 < align <= 1 << 16:
        raise ModelError(f"it has the alignment {align!r}")
    start = -(-cursor.at // align) * align
    if len({i.name for i in infos}) != len(infos):
        raise ModelError("it holds two tensors of one name")
    placed = [TensorInfo(i.name, i.shape, i.kind, start + i.offset) for i in infos]
    return fields, placed


def _tensor(cursor: _Cursor) -> TensorInfo:
    name, rank = cursor.text(), cursor.number("I")
    if not 0 < rank <= 4:
        raise ModelError(f"the tensor {name!r} has {rank} dimensions")
    dims = [cursor.number("Q") for _ in range(rank)]
    return TensorInfo(name, tuple(reversed(dims)), cursor.number("I"), cursor.number("Q"))


def open_map(path: Path) -> mmap.mmap:
    """The bytes of a file, memory-mapped, read only.

    Raises:
        OSError, ValueError: it can't be opened, or is empty.
    """
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
