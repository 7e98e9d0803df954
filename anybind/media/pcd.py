"""PCD (Point Cloud Library, version 0.7): ascii, binary and binary_compressed (LZF)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anybind.errors import UserError
from anybind.media.arrays import as_float, read_lines, read_table
from anybind.media.caps import Caps
from anybind.media.formats import brief

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HEADER = 65_536
_KINDS = {"F": "f", "I": "i", "U": "u"}
_SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}
_MAX_ROW = 4096
_LZF_RATIO = 90
"""LZF makes at most 264 bytes of 3."""


@dataclass(frozen=True, slots=True)
class _Layout:
    names: list[str]
    codes: list[str]
    counts: list[int]
    points: int
    storage: str
    start: int

    def offsets(self) -> list[int]:
        """Where each field begins in a row, in bytes."""
        out, at = list[int](), 0
        for code, count in zip(self.codes, self.counts, strict=True):
            out.append(at)
            at += int(code[1]) * count
        return [*out, at]


def read_pcd(data: bytes, label: str, caps: Caps) -> NDArray[np.float64]:
    """The points [N, 3] of a pcd file. Missing points of an organised cloud stay NaN.

    Raises:
        UserError: damaged, without x y z, or over the caps.
    """
    layout = _header(data, label)
    if layout.points > caps.points:
        raise UserError(f"{label} has {layout.points} points; the limit is {caps.points}.")
    body = memoryview(data)[layout.start :]
    if layout.storage == "ascii":
        return _ascii(bytes(body), layout, label, caps)
    size = layout.offsets()[-1] * layout.points
    if layout.storage == "binary":
        if size > len(body):
            raise UserError(
                f"{label} is damaged: it declares {layout.points} points ({size} bytes) and holds "
                f"{len(body)} bytes."
            )
        return _columns(bytes(body[:size]), layout, by_row=True)
    return _columns(_inflate(body, size, label), layout, by_row=False)


def _header(data: bytes, label: str) -> _Layout:
    found: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in found:
        end = data.find(b"\n", at, _HEADER)
        if end < 0:
            raise UserError(f"{label} is not a readable pcd file: its header has no end.")
        words = data[at:end].decode("ascii", "replace").split("#")[0].split()
        if words:
            found[words[0]] = words[1:]
        at = end + 1
    try:
        names = found["FIELDS"]
        kinds, sizes = found["TYPE"], [int(w) for w in found["SIZE"]]
        counts = [int(w) for w in found.get("COUNT", ["1"] * len(names))]
        if "POINTS" in found:
            points = int(found["POINTS"][0])
        else:
            points = int(found["WIDTH"][0]) * int(found["HEIGHT"][0])
        codes = [_KINDS[k] + str(s) for k, s in zip(kinds, sizes, strict=True) if s in _SIZES[k]]
        storage = found["DATA"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{label} has a pcd header that can't be read: {brief(error)}") from error
    layout = _Layout(names, codes, counts, points, storage, at)
    right = len(names) == len(codes) == len(counts) and points >= 0 and min(counts, default=0) >= 1
    if not right or layout.offsets()[-1] > _MAX_ROW:
        raise UserError(f"{label} has a pcd header that makes no sense.")
    if storage not in ("ascii", "binary", "binary_compressed"):
        raise UserError(f"{label} is pcd with unknown data {storage[:20]!r}.")
    if any(names.count(n) != 1 or counts[names.index(n)] != 1 for n in "xyz"):
        raise UserError(f"{label} is a pcd file without fields x y z.")
    return layout


def _ascii(body: bytes, layout: _Layout, label: str, caps: Caps) -> NDArray[np.float64]:
    lines = read_lines(body, label, caps.points)
    if len(lines) != layout.points:
        raise UserError(
            f"{label} is damaged: it declares {layout.points} points and holds {len(lines)}."
        )
    table = read_table(lines, label, sum(layout.counts))
    at = [sum(layout.counts[: layout.names.index(n)]) for n in "xyz"]
    return table[:, at]


def _columns(raw: bytes, layout: _Layout, *, by_row: bool) -> NDArray[np.float64]:
    """Coordinates of rows (binary) or of whole columns, one after another (binary_compressed)."""
    import numpy as np

    offsets, n = layout.offsets(), layout.points
    rows = np.frombuffer(raw, np.uint8)
    out: list[NDArray[np.float64]] = []
    for name in "xyz":
        i = layout.names.index(name)
        code = np.dtype("<" + layout.codes[i])
        if by_row:
            picked = rows.reshape(n, offsets[-1])[:, offsets[i] : offsets[i] + code.itemsize]
        else:
            picked = rows[offsets[i] * n : offsets[i] * n + n * code.itemsize]
        column = np.ascontiguousarray(picked).reshape(-1).view(code)
        out.append(as_float(column))
    return np.stack(out, axis=1)


def _inflate(body: memoryview, size: int, label: str) -> bytes:
    packed, unpacked = (int.from_bytes(body[i : i + 4], "little") for i in (0, 4))
    if len(body) < 8 or packed > len(body) - 8:
        raise UserError(f"{label} is damaged: its compressed points are cut off.")
    if unpacked != size or unpacked > packed * _LZF_RATIO:
        raise UserError(
            f"{label} is damaged: {unpacked} bytes declared, {size} expected from its header, "
            f"{packed} compressed."
        )
    try:
        return lzf_inflate(bytes(body[8 : 8 + packed]), unpacked)
    except (IndexError, ValueError) as error:
        raise UserError(f"{label} is damaged: its compressed points can't be read.") from error


def lzf_inflate(data: bytes, size: int) -> bytes:
    """Undo LZF (Lehmann's liblzf): control bytes below 32 announce literals, others a copy of what
    was already written.

    Raises:
        ValueError: damaged, or not `size` bytes.
        IndexError: damaged: cut off.
    """
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        control = data[at]
        at += 1
        if control < 32:
            if at + control + 1 > end:
                raise ValueError("literals are cut off")
            out += data[at : at + control + 1]
            at += control + 1
        else:
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            back = ((control & 31) << 8 | data[at]) + 1
            at += 1
            begin = len(out) - back
            if begin < 0:
                raise ValueError("a copy from before the beginning")
            length += 2
            if back >= length:
                out += out[begin : begin + length]
            else:  # the copy overlaps itself: the last `back` bytes repeat
                piece = bytes(out[begin:])
                out += (piece * (length // back + 1))[:length]
        if len(out) > size:
            raise ValueError("more bytes than declared")
    if len(out) != size:
        raise ValueError("fewer bytes than declared")
    return bytes(out)
