"""PLY: ascii and binary of both byte orders. Reads vertices and, if there are any, faces.

What the header declares is compared with the bytes that follow before anything is allocated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anybind.errors import UserError
from anybind.media.arrays import as_float
from anybind.media.caps import Caps
from anybind.media.formats import brief

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
_HEADER = 65_536
_MAX_SIDES = 256
"""Corners of one face."""


@dataclass(frozen=True, slots=True)
class _Property:
    name: str
    code: str
    count: str | None = None
    """Type of the length, for a list."""


@dataclass(slots=True)
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list[_Property])

    @property
    def fixed(self) -> bool:
        return all(p.count is None for p in self.properties)

    @property
    def least(self) -> int:
        """Fewest bytes of a row."""
        return sum(int((p.count or p.code)[1]) for p in self.properties)


def read_ply(data: bytes, label: str, caps: Caps) -> NDArray[np.float64]:
    """The points [N, 3] of a ply file; if it has faces, points on its surface.

    Raises:
        UserError: damaged, without x y z, or over the caps.
    """
    from anybind.media.mesh import on_surface

    form, elements, start = _header(data, label)
    vertex = next((e for e in elements if e.name == "vertex"), None)
    if vertex is None or not {"x", "y", "z"} <= {p.name for p in vertex.properties}:
        raise UserError(f"{label} is a ply file without vertices x y z.")
    if not vertex.fixed:
        raise UserError(f"{label} has lists among its vertices; write it with x y z only.")
    for element in elements:
        if element.count > caps.points * 3:
            raise UserError(
                f"{label} declares {element.count} of {element.name}; the limit is {caps.points} "
                "points."
            )
    if vertex.count > caps.points:
        raise UserError(f"{label} has {vertex.count} points; the limit is {caps.points}.")
    reader = _Text if form == "ascii" else _Binary
    body = reader(data, start, label, ">" if form == "binary_big_endian" else "<")
    points: NDArray[np.float64] | None = None
    faces: list[list[int]] = []
    for element in elements:
        if element is vertex:
            points = body.columns(element, ("x", "y", "z"))
        elif element.name == "face" and element.count and not element.fixed:
            faces = body.lists(element)
            break  # nothing that follows is of use
        elif points is not None and not any(e.name == "face" and e.count for e in elements):
            break
        else:
            body.skip(element)
    assert points is not None
    return on_surface(points, _triangles(faces), label) if faces else points


def _triangles(faces: list[list[int]]) -> list[tuple[int, int, int]]:
    """Polygons as fans."""
    return [(f[0], f[i], f[i + 1]) for f in faces for i in range(1, len(f) - 1)]


def _header(data: bytes, label: str) -> tuple[str, list[_Element], int]:
    end = data.find(b"end_header", 0, _HEADER)
    stop = data.find(b"\n", end)
    if not data.startswith(b"ply") or end < 0 or stop < 0:
        raise UserError(f"{label} is not a readable point cloud (ply): its header has no end.")
    form, elements = "", list[_Element]()
    try:
        for line in data[:end].decode("ascii").splitlines()[1:]:
            words = line.split()
            match words:
                case ["format", form, _]:
                    pass
                case ["element", name, count]:
                    elements.append(_Element(name, int(count)))
                case ["property", "list", length, code, name]:
                    elements[-1].properties.append(_Property(name, _TYPES[code], _TYPES[length]))
                case ["property", code, name]:
                    elements[-1].properties.append(_Property(name, _TYPES[code]))
                case [] | ["comment" | "obj_info", *_]:
                    pass
                case _:
                    raise ValueError(line[:60])
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{label} has a ply header that can't be read: {brief(error)}") from error
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise UserError(f"{label} is of an unknown ply format {form!r}.")
    if any(e.count < 0 or not e.properties for e in elements) or len(elements) > 100:
        raise UserError(f"{label} has a ply header that makes no sense.")
    return form, elements, stop + 1


class _Binary:
    """The body of a binary file, read front to back."""

    def __init__(self, data: bytes, at: int, label: str, order: str) -> None:
        self._data, self._at, self._label, self._order = data, at, label, order

    def _check(self, element: _Element) -> None:
        left = len(self._data) - self._at
        if element.count * element.least > left:
            raise UserError(
                f"{self._label} is damaged: it declares {element.count} of {element.name} and "
                f"holds {left} bytes of them."
            )

    def columns(self, element: _Element, names: tuple[str, ...]) -> NDArray[np.float64]:
        import numpy as np

        self._check(element)
        row = np.dtype([(f"f{i}", self._order + p.code) for i, p in enumerate(element.properties)])
        rows = np.frombuffer(self._data, row, element.count, self._at)
        self._at += element.count * row.itemsize
        where = {p.name: i for i, p in enumerate(element.properties)}
        return np.stack([as_float(rows[f"f{where[n]}"]) for n in names], axis=1)

    def skip(self, element: _Element) -> None:
        if element.fixed:
            self._check(element)
            self._at += element.count * element.least
        else:
            self.lists(element)

    def lists(self, element: _Element) -> list[list[int]]:
        """The first list of every row."""
        self._check(element)
        out: list[list[int]] = []
        try:
            for _ in range(element.count):
                out.append(self._row(element))
        except struct.error as error:
            raise UserError(f"{self._label} is damaged: its faces are cut off.") from error
        return out

    def _row(self, element: _Element) -> list[int]:
        found: list[int] | None = None
        for p in element.properties:
            if p.count is None:
                self._at += int(p.code[1])
                continue
            length = int(self._take(p.count, 1)[0])
            if not 0 <= length <= _MAX_SIDES:
                raise UserError(f"{self._label} is damaged: a face with {length} corners.")
            values = self._take(p.code, length)
            if found is None:
                found = [int(v) if abs(v) < 1e12 else -1 for v in values]
        return found or []

    def _take(self, code: str, count: int) -> tuple[float, ...]:
        values = struct.unpack_from(f"{self._order}{count}{_CODES[code]}", self._data, self._at)
        self._at += count * int(code[1])
        return values


class _Text:
    """The body of an ascii file, one row a line."""

    def __init__(self, data: bytes, at: int, label: str, order: str) -> None:
        self._lines = iter(data[at:].split(b"\n"))
        self._left = data.count(b"\n", at) + 1
        self._label = label

    def _rows(self, element: _Element) -> list[list[bytes]]:
        if element.count > self._left:
            raise UserError(
                f"{self._label} is damaged: it declares {element.count} of {element.name} and "
                f"holds {self._left} lines."
            )
        self._left -= element.count
        rows: list[list[bytes]] = []
        while len(rows) < element.count:
            line = next(self._lines, None)
            if line is None:
                break
            if words := line.split(None, len(element.properties) + _MAX_SIDES + 2):
                rows.append(words)
        return rows

    def columns(self, element: _Element, names: tuple[str, ...]) -> NDArray[np.float64]:
        import numpy as np

        where = [[p.name for p in element.properties].index(n) for n in names]
        try:
            numbers = [[float(row[i]) for i in where] for row in self._rows(element)]
        except (ValueError, IndexError) as error:
            raise UserError(f"{self._label} is damaged: a vertex is not of numbers.") from error
        if len(numbers) < element.count:
            raise UserError(
                f"{self._label} is damaged: it declares {element.count} vertices and holds "
                f"{len(numbers)}."
            )
        return np.array(numbers, np.float64).reshape(-1, len(names))

    def skip(self, element: _Element) -> None:
        self._rows(element)

    def lists(self, element: _Element) -> list[list[int]]:
        before = next(i for i, p in enumerate(element.properties) if p.count is not None)
        out: list[list[int]] = []
        try:
            for row in self._rows(element):
                length = int(row[before])
                if not 0 <= length <= _MAX_SIDES:
                    raise UserError(f"{self._label} is damaged: a face with {length} corners.")
                corners = row[before + 1 : before + 1 + length]
                # Numbers of absurd length name no corner; -1 is refused with the others.
                out.append([int(w) if len(w) < 12 else -1 for w in corners])
        except (ValueError, IndexError) as error:
            raise UserError(f"{self._label} is damaged: a face is not of numbers.") from error
        return out


def write_ply(points: NDArray[np.float32]) -> bytes:
    """Points [N, 3] as a binary ply file, without loss."""
    import numpy as np

    head = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n"
    )
    return head.encode() + np.ascontiguousarray(points, dtype="<f4").tobytes()
