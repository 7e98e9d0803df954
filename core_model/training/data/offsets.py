"""Where the records of a file begin and end: found once, kept, so that any of them can be read alone.

A table [N, 3] of int64: first byte, end, and the number that people know the record by (its line,
or its place in the list). Finding a record never fails: what can't be told apart becomes one record
that its reader will refuse, so that damage is counted and told like any other bad record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anybind.errors import UserError
from anybind.weights import home

Table = NDArray[np.int64]
Scan = Callable[[Path], Table]

_VERSION = 1
# Strings are stepped over at the speed of the regular expression engine; possessive, so that no
# input makes it go back. A quote that closes nowhere matches by itself.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_BLANK = b" \t\r\n"


def scan_lines(path: Path, *, header: bool = False) -> Table:
    """The lines of a file that aren't blank; without the first one if that is a `header`."""
    rows: list[tuple[int, int, int]] = []
    at = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip() and not (header and number == 1):
                rows.append((at, at + len(line), number))
            at += len(line)
    return as_table(rows)


def scan_list(path: Path, key: str = "") -> Table:
    """The elements of the list that a JSON file is, or that its object holds under `key`.

    Raises:
        UserError: there is no such list.
    """
    with _mapped(path) as data:
        start = _list_start(data, key)
        if start is None:
            under = f' nor an object with the list "{key}"' if key else ""
            raise UserError(
                f"{path.name} is no JSON list{under}. If it has one record a line, its format is "
                "`jsonl`."
            )
        return as_table(_elements(data, start))


def _list_start(data: mmap.mmap | bytes, key: str) -> int | None:
    """The place behind the bracket that opens the list."""
    at = 3 if data[:3] == b"\xef\xbb\xbf" else 0
    while at < len(data) and data[at : at + 1] in _BLANK:
        at += 1
    first = data[at : at + 1]
    if first == b"[":
        return at + 1
    if first != b"{" or not key:
        return None
    depth, wanted = 0, json.dumps(key).encode()
    opens = re.compile(rb"\s*+:\s*+\[")
    for token in _TOKEN.finditer(data, at):
        mark = data[token.start() : token.start() + 1]
        if mark == b'"':
            if depth == 1 and token.end() - token.start() == len(wanted) and token[0] == wanted:
                found = opens.match(data, token.end())
                if found is not None:
                    return found.end()
        elif mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
    return None


def _elements(data: mmap.mmap | bytes, start: int) -> Iterator[tuple[int, int, int]]:
    depth, at, number = 0, start, 1
    for token in _TOKEN.finditer(data, start):
        mark = data[token.start() : token.start() + 1]
        if mark == b'"':
            if token.end() - token.start() == 1:
                break  # a text that ends nowhere: the rest is one record
        elif mark in b"[{":
            depth += 1
        elif depth:
            depth -= mark in b"]}"
        elif mark in b",]":
            last = mark == b"]"
            # `[]` and a comma before the end hold no further record.
            if not last or data[at : token.start()].strip():
                yield at, token.start(), number
                number += 1
            if last:
                return
            at = token.end()
    # The list is not closed: whatever is left can't be a whole record, or the next is missing.
    yield at, len(data), number


def as_table(rows: Iterable[tuple[int, int, int]]) -> Table:
    """Rows (first byte, end, number) as a table."""
    flat = np.fromiter((v for row in rows for v in row), np.int64)
    return flat.reshape(-1, 3)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def offsets(path: Path, kind: str, scan: Scan) -> Table:
    """The table of a file: from an earlier run if the file is unchanged (path, size and time),
    else made now and kept under `ANYBIND_HOME/offsets`.

    Raises:
        UserError: the file can't be read, or is not of its format.
    """
    try:
        about = path.stat()
        if not path.is_file():
            raise UserError(f"{path} is no file.")
        facts = [_VERSION, kind, str(path.resolve()), about.st_size, about.st_mtime_ns]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        kept = home() / "offsets" / f"{name}.npy"
        table = _load(kept, about.st_size)
        if table is None:
            table = scan(path)
            _save(kept, table)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    return table


def _load(kept: Path, size: int) -> Table | None:
    """A kept table, unless it is damaged; then it is made anew."""
    try:
        table = np.load(kept, mmap_mode="r", allow_pickle=False)
    except Exception:  # absent or spoilt: numpy has many ways to say so, none matters
        return None
    if not isinstance(table, np.ndarray) or table.dtype != np.int64 or table.ndim != 2:
        return None
    if table.shape[1] != 3 or (table[:, 0] > table[:, 1]).any() or (table < 0).any():
        return None
    return table if not len(table) or int(table[:, 1].max()) <= size else None


def _save(kept: Path, table: Table) -> None:
    scratch = kept.with_name(f"{kept.stem}.{os.getpid()}.part")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as sink:
            np.save(sink, table, allow_pickle=False)
        os.replace(scratch, kept)
    except OSError:  # a home that can't be written costs time on the next run, nothing else
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
