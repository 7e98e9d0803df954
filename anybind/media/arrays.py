"""Arrays of numbers from files: npy, npz and tables of text.

The formats are read here and not by numpy's loaders: what a header declares is compared with the
bytes that are there before anything is allocated, and no header is evaluated as code.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from typing import TYPE_CHECKING

from anybind.errors import UserError
from anybind.media.formats import brief

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"\x93NUMPY"
ZIP = b"PK\x03\x04"

_HEADER = 65_536
_DESCR = re.compile(r"'descr':\s*'([<>|=][fiu][1248])'")
_ORDER = re.compile(r"'fortran_order':\s*(True|False)")
_SHAPE = re.compile(r"'shape':\s*\(([0-9,\s]{0,80})\)")
_LINE = 10_000
_CHUNK = 4096
_COMMENT = ("#", "//", "%", ";")


def is_array(data: bytes) -> bool:
    """Whether these are the bytes of an npy or npz file."""
    return data.startswith((MAGIC, ZIP))


def read_array(data: bytes, label: str, limit: int) -> NDArray[np.generic]:
    """The array of an npy file, or of an npz file that holds exactly one.

    Args:
        data: The file.
        label: Its name, for messages.
        limit: Most elements.

    Raises:
        UserError: damaged, not of plain numbers, or over the limit.
    """
    if data.startswith(ZIP):
        data = _member(data, label, limit)
    return _npy(data, label, limit)


def _npy(data: bytes, label: str, limit: int) -> NDArray[np.generic]:
    import numpy as np

    if not data.startswith(MAGIC) or len(data) < 12:
        raise UserError(f"{label} is not a readable npy file, or it is damaged.")
    wide = data[6] >= 2
    size = int.from_bytes(data[8 : 12 if wide else 10], "little")
    start = 12 if wide else 10
    if size > _HEADER or start + size > len(data):
        raise UserError(f"{label} is damaged: its header is cut off.")
    header = data[start : start + size].decode("latin-1")
    descr, order, shape = _DESCR.search(header), _ORDER.search(header), _SHAPE.search(header)
    if not (descr and order and shape):
        raise UserError(
            f"{label} is not an array of plain numbers (float or integer); save it with numpy.save."
        )
    try:
        dtype = np.dtype(descr[1])
    except TypeError as error:
        raise UserError(f"{label} holds an array of an unknown type {descr[1]}.") from error
    numbers = re.findall(r"\d{1,18}", shape[1])
    sides = tuple(int(n) for n in numbers)
    count = math.prod(sides)
    if count > limit:
        raise UserError(
            f"{label} declares {count} numbers; the limit is {limit}. Take fewer of them."
        )
    body = memoryview(data)[start + size :]
    if count * dtype.itemsize > len(body):
        raise UserError(
            f"{label} is damaged: it declares {count * dtype.itemsize} bytes and holds {len(body)}."
        )
    flat = np.frombuffer(body, dtype, count)
    return flat.reshape(sides, order="F" if order[1] == "True" else "C")


def _member(data: bytes, label: str, limit: int) -> bytes:
    """The one npy file in an npz file; inflated up to what the limit allows and no further."""
    most = limit * 8 + _HEADER
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = [i for i in archive.infolist() if i.filename.endswith(".npy")]
            if len(found) != 1:
                names = ", ".join(i.filename[:-4][:40] for i in found[:8])
                raise UserError(
                    f"{label} holds {len(found)} arrays ({names}); save the one to open alone."
                )
            if found[0].file_size > most:
                raise UserError(f"{label} holds {found[0].file_size} bytes; the limit is {most}.")
            with archive.open(found[0]) as stream:
                inner = stream.read(most + 1)
    except UserError:
        raise
    except Exception as error:  # zipfile raises nearly anything on damaged archives
        raise UserError(
            f"{label} is not a readable npz file, or it is damaged: {brief(error)}"
        ) from error
    if len(inner) > most:
        raise UserError(f"{label} holds more than {most} bytes.")
    return inner


def read_lines(data: bytes, label: str, limit: int) -> list[str]:
    """The lines of a text table that are neither blank nor comments.

    Raises:
        UserError: not text, more than `limit` lines, or a line of over 10,000 characters.
    """
    count = data.count(b"\n") + data.count(b"\r")
    if count > 2 * limit:
        raise UserError(f"{label} has about {count} lines; the limit is {limit}. Take fewer.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{label} is not a table of numbers as text: {brief(error)}") from error
    lines: list[str] = []
    for line in text.splitlines():
        line = line.strip()
        if len(line) > _LINE:
            raise UserError(f"{label} has a line of {len(line)} characters; the limit is {_LINE}.")
        if line and not line.startswith(_COMMENT):
            lines.append(line)
    return lines


def fields(line: str) -> list[str]:
    """The cells of a line, separated by commas, semicolons, tabs or blanks."""
    return line.replace(",", " ").replace(";", " ").split()


def read_table(lines: list[str], label: str, least: int, first: int = 1) -> NDArray[np.float64]:
    """Numbers [rows, columns] of lines, all of one width.

    Args:
        lines: As `read_lines` gives them.
        label: The file's name.
        least: Fewest columns.
        first: Number of the first line, for messages.

    Raises:
        UserError: a cell that is no number, or rows of different or too small width; says where.
    """
    import numpy as np

    if not lines:
        return np.zeros((0, least))
    columns = len(fields(lines[0]))
    if columns < least:
        raise UserError(f"{label} has {columns} numbers a row; {least} or more are needed.")
    chunks: list[NDArray[np.float64]] = []
    for at in range(0, len(lines), _CHUNK):
        rows: list[list[float]] = []
        for number, line in enumerate(lines[at : at + _CHUNK], at + first):
            cells = fields(line)
            if len(cells) != columns:
                raise UserError(
                    f"{label}: row {number} has {len(cells)} numbers, the first has {columns}."
                )
            try:
                rows.append([float(c) for c in cells])
            except ValueError as error:
                raise UserError(
                    f"{label}: row {number} is not of numbers: {line[:60]!r}"
                ) from error
        chunks.append(np.array(rows))
    return np.concatenate(chunks)


def as_float(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """The numbers as float64. NaN with odd bits are no warning here: they are refused later."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return array.astype(np.float64)
