"""Shards of a webdataset: where the samples of a tar lie, and what one holds.

Members belong together while their names agree up to the first dot of the last component. A sample
is a stretch of the file that is a small tar by itself, so that it is read in one piece. Nothing is
extracted; links, devices and names that point elsewhere mean nothing here.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from anybind.core_model.training.data.offsets import Table, as_table
from anybind.core_model.training.data.records import BadRecord


def scan_tar(path: Path) -> Table:
    """The samples of a shard. Behind damage, all that is left is one record (which is refused)."""
    rows: list[tuple[int, int, int]] = []
    size = path.stat().st_size
    held: str | None = None
    start = end = 0
    for name, at, after in _members(path):
        if name is not None:  # links, folders and the like are passed over
            stem = split_name(name)[0]
            if stem != held:
                if held is not None:
                    rows.append((start, at, len(rows) + 1))
                held, start = stem, at
        end = after
    if held is not None:
        rows.append((start, min(end, size), len(rows) + 1))
    if end < size and not _ended(path, end):
        rows.append((end, size, len(rows) + 1))
    return as_table(rows)


def _members(path: Path) -> Iterator[tuple[str | None, int, int]]:
    """(name if it is a plain file, first byte, end) of the members, as far as the tar is sound."""
    last = -1
    try:
        with tarfile.open(path, "r:", errorlevel=1) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # it would keep every header
                if member.offset <= last or member.size < 0:
                    return
                last = member.offset
                plain = member.isreg() and not member.issparse()
                yield member.name if plain else None, member.offset, tar.offset
    except GeneratorExit:
        raise
    except (Exception, RecursionError):  # tarfile stumbles in many ways; `_ended` notices that
        return


def _ended(path: Path, end: int) -> bool:
    """Whether nothing but zeros, which end a tar, comes behind the last member."""
    with path.open("rb") as stream:
        stream.seek(end)
        while block := stream.read(1 << 20):
            if block.strip(b"\0"):
                return False
    return True


def split_name(name: str) -> tuple[str, str]:
    """Name of the sample and extension of a member: "a/b.seg.png" is ("a/b", "seg.png")."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return (path.parent / stem).as_posix(), suffix.lower()


def unpack(data: bytes) -> tuple[str, dict[str, bytes]]:
    """The name of a sample and its members by extension.

    Raises:
        BadRecord: it is not sound.
    """
    name, found = "", dict[str, bytes]()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errorlevel=1) as tar:
            while (member := tar.next()) is not None:
                if not member.isreg() or member.issparse():
                    continue
                stream = tar.extractfile(member)
                content = b"" if stream is None else stream.read()
                if len(content) != member.size:
                    raise BadRecord(f"{member.name[:80]} is cut short")
                name, suffix = split_name(member.name)
                found.setdefault(suffix, content)
    except BadRecord:
        raise
    except (Exception, RecursionError) as error:
        raise BadRecord(f"no sound tar from here on: {error}") from error
    if not found:
        raise BadRecord("no sound tar from here on")
    return name, found
