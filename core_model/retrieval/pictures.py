"""Where the pictures of a cache come from: a folder, or shards of a webdataset (.tar).

Each picture has a key that stays the same from run to run, a label, and is decoded by
`anybind.media` on request. Nothing is extracted to disk: of a tar only the bytes of plain members are
read, in order, within the caps; links, devices and names that point elsewhere mean nothing here.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from anybind.content import Image
from anybind.errors import UserError
from anybind.media import CAPS, decode_image, open_file, sniff

_MEMBERS = 50_000_000
_LABEL = 1000
_CAPTION_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, not decoded yet."""

    key: str
    label: str
    open: Callable[[], Image]
    """Decodes it; raises `UserError` if it can't be."""
    done: float
    """Share of the source that lies behind, 0..1."""


@dataclass(frozen=True, slots=True)
class PictureSource:
    """A folder of pictures or the shards of a webdataset."""

    kind: Literal["folder", "webdataset"]
    path: Path
    files: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path) -> PictureSource:
        """A `.tar`, a folder with `.tar` files in it, or a folder of pictures (with sub-folders).

        Raises:
            UserError: nothing of the kind.
        """
        if path.is_file():
            if path.suffix != ".tar":
                raise UserError(
                    f"{path.name}: a cache is built from a folder, a .tar (unpack .tar.gz first: a "
                    "compressed shard can't be checked before it is read), a .safetensors or a .npy."
                )
            return cls("webdataset", path, (path,))
        if not path.is_dir():
            raise UserError(f"There is no {path}.")
        shards = tuple(sorted(p for p in path.glob("*.tar") if p.is_file()))
        if shards:
            return cls("webdataset", path, shards)
        files = tuple(sorted(_walk(path)))
        if not files:
            raise UserError(f"{path} holds no files.")
        return cls("folder", path, files)

    def fingerprint(self) -> str:
        """SHA-256 over names and sizes: tells whether the source is still the same."""
        found = hashlib.sha256()
        for file in self.files:
            name = file.relative_to(self.path).as_posix() if self.path.is_dir() else file.name
            found.update(json.dumps([os.fsdecode(name), file.stat().st_size]).encode())
        return found.hexdigest()

    def pictures(self, done: Container[str] = ()) -> Iterator[Picture]:
        """Every picture whose key is not among `done`, in a fixed order.

        Files that are no pictures are passed over. Where a shard is damaged, a picture that can't
        be opened stands for the rest of it.
        """
        return self._folder(done) if self.kind == "folder" else self._shards(done)

    def _folder(self, done: Container[str]) -> Iterator[Picture]:
        for number, file in enumerate(self.files):
            key = file.relative_to(self.path).as_posix()
            if key in done:
                continue
            try:
                with file.open("rb") as stream:
                    form = sniff(stream.read(64), file.suffix.lower())
            except OSError:
                form = ("image", "")  # opening it will say what is wrong
            if form is None or form[0] != "image":
                # A damaged picture has lost its first bytes; its name still says what it was.
                if file.suffix.lower() not in _PICTURES:
                    continue
            label = _clean(str(PurePosixPath(key).with_suffix("")))
            yield Picture(key, label, _opener(file), (number + 1) / len(self.files))

    def _shards(self, done: Container[str]) -> Iterator[Picture]:
        for number, shard in enumerate(self.files):
            size = max(shard.stat().st_size, 1)
            try:
                for key, label, data, at in _samples(shard, done):
                    share = (number + min(at / size, 1.0)) / len(self.files)
                    yield Picture(key, label, _decoder(data, key), share)
            except UserError as error:  # the rest of this shard is lost; the others are not
                lost = f"{shard.name} is not a sound tar; what follows in it is left out: {error}"
                yield Picture(shard.name, "", _failing(lost), (number + 1) / len(self.files))


_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield Path(parent) / name


def _opener(file: Path) -> Callable[[], Image]:
    def opened() -> Image:
        part = open_file(file)
        if not isinstance(part, Image):
            raise UserError(f"{file.name} is no picture.")
        return part

    return opened


def _decoder(data: bytes | None, key: str) -> Callable[[], Image]:
    def opened() -> Image:
        if data is None:
            raise UserError(f"{key} is over {CAPS.file_bytes >> 20} MB.")
        return Image.of(decode_image(data, key))

    return opened


def _failing(why: str) -> Callable[[], Image]:
    def opened() -> Image:
        raise UserError(why)

    return opened


def _samples(shard: Path, done: Container[str]) -> Iterator[tuple[str, str, bytes | None, int]]:
    """(key, label, bytes of the picture or None if it is too large, position) of each sample.

    Members belong together while their names agree up to the first dot of the last component.
    """
    held: str | None = None
    data: bytes | None = None
    seen_picture = False
    caption = ""
    at = 0
    for name, member, read in _members(shard):
        path = PurePosixPath(name)
        stem, _, suffix = path.name.partition(".")
        key = f"{shard.name}/{(path.parent / stem).as_posix()}"
        if key != held:
            if held is not None and seen_picture:
                yield held, _clean(caption or held.partition("/")[2]), data, at
            held, data, seen_picture, caption = key, None, False, ""
        at = member.offset
        if key in done:
            continue
        suffix = "." + suffix.lower().rpartition(".")[2]
        if suffix in _PICTURES and not seen_picture:
            seen_picture = True
            data = read(CAPS.file_bytes)
        elif suffix == ".txt":
            caption = (read(_CAPTION_BYTES) or b"").decode("utf-8", "replace")
    if held is not None and seen_picture:
        yield held, _clean(caption or held.partition("/")[2]), data, at


def _members(
    shard: Path,
) -> Iterator[tuple[str, tarfile.TarInfo, Callable[[int], bytes | None]]]:
    """The plain files of a tar in order, each with a function that reads it, if it is within a cap.

    tarfile is known to stumble over hostile headers in many ways, so that whatever it raises is
    one error here; a header that would lead backward ends the reading.
    """
    last = -1
    try:
        with tarfile.open(shard, "r:", errorlevel=1) as tar:
            for _ in range(_MEMBERS):
                member = tar.next()
                if member is None:
                    return
                # It would keep every header; millions of them. (typeshed leaves the attribute out.)
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                if member.offset <= last or member.size < 0:
                    raise UserError("its headers lead in a circle")
                last = member.offset
                if not member.isreg() or member.issparse():
                    continue

                def read(cap: int, member: tarfile.TarInfo = member) -> bytes | None:
                    if member.size > cap:
                        return None
                    try:
                        stream = tar.extractfile(member)
                        found = b"" if stream is None else stream.read(member.size)
                    except Exception as error:
                        raise UserError(f"{member.name!r} can't be read: {error}") from error
                    if len(found) != member.size:
                        raise UserError(f"{member.name!r} is cut short")
                    return found

                yield member.name, member, read
    except UserError:
        raise
    except (Exception, RecursionError) as error:
        raise UserError(f"after byte {max(last, 0)}: {error or type(error).__name__}") from error


def _clean(text: str) -> str:
    """One line of printable text."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LABEL]
