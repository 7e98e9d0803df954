"""What a file is: by its first bytes, its suffix, and what the caller says of it.

A file alone can't tell that a PNG holds depth, or an array readings of a sensor. The caller can:
`depth:room.png`. Knows no decoder and opens nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from anybind.errors import UserError

PREFIXES: dict[str, str] = {
    "text": "text",
    "image": "image",
    "audio": "audio",
    "video": "video",
    "point": "point",
    "depth": "depth",
    "sunrgbd": "depth",
    "thermal": "thermal",
    "imu": "imu",
}
"""What may stand before a path and a colon (or be given as `kind`), and the kind of content it
gives. `sunrgbd` is depth in the encoding of SUN RGB-D. No prefix has one letter, so the drive of a
Windows path is never taken for one."""


@dataclass(frozen=True, slots=True)
class _Format:
    kind: str
    media_type: str
    matches: Callable[[bytes], bool]


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _riff(tag: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] == b"RIFF" and head[8:12] == tag


def _is_mp3(head: bytes) -> bool:
    """A tag, or the sync bits of an MPEG frame (any version) of layer III."""
    return head.startswith(b"ID3") or (
        len(head) > 1 and head[0] == 0xFF and head[1] & 0b1110_0110 == 0b1110_0010
    )


def _ebml(kind: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(b"\x1a\x45\xdf\xa3") and kind in head


# Known formats, in order of trial. An "array" is of no kind until the caller says so, or its shape
# leaves no doubt. TIFF is opened as depth or thermal only.
_FORMATS = (
    _Format("image", "image/png", _starts(b"\x89PNG\r\n\x1a\n")),
    _Format("image", "image/jpeg", _starts(b"\xff\xd8\xff")),
    _Format("image", "image/webp", _riff(b"WEBP")),
    _Format("image", "image/gif", _starts(b"GIF87a", b"GIF89a")),
    _Format("image", "image/bmp", _starts(b"BM")),
    _Format("tiff", "image/tiff", _starts(b"II*\0", b"MM\0*")),
    _Format("audio", "audio/wav", _riff(b"WAVE")),
    _Format("audio", "audio/flac", _starts(b"fLaC")),
    _Format("audio", "audio/ogg", _starts(b"OggS")),
    _Format("audio", "audio/mpeg", _is_mp3),
    _Format(
        "video", "video/quicktime",
        lambda head: head[4:12] == b"ftypqt  " or head[4:8] in (b"moov", b"mdat", b"wide"),
    ),
    _Format("video", "video/mp4", lambda head: head[4:8] == b"ftyp"),
    _Format("video", "video/x-matroska", _ebml(b"matroska")),
    _Format("video", "video/webm", _starts(b"\x1a\x45\xdf\xa3")),
    _Format("video", "video/avi", _riff(b"AVI ")),
    _Format("point", "model/ply", _starts(b"ply\n", b"ply\r")),
    _Format("point", "model/gltf-binary", _starts(b"glTF")),
    _Format("point", "model/pcd", _starts(b"# .PCD", b"VERSION .7", b"VERSION 0.7")),
    _Format("array", "application/x-npy", _starts(b"\x93NUMPY")),
    _Format("array", "application/x-npz", _starts(b"PK\x03\x04")),
)  # fmt: skip

_TEXT_SUFFIXES = {".txt", ".md", ".srt", ".vtt", ".csv", ".json"}
_POINT_SUFFIXES = {".obj", ".xyz", ".pts", ".stl", ".off"}
_ZIPPED = {".npz"}

SUFFIXES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".wav", ".flac", ".ogg", ".mp3", ".mp4",
        ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ply", ".pcd", ".glb", ".npy", ".npz", ".txt",
        ".md",
    }
    | _POINT_SUFFIXES
)  # fmt: skip
"""Endings by which a string is taken for the path of a file."""

OPENS = (
    "Images (png, jpeg, webp, gif, bmp), sounds (wav, flac, ogg, mp3), films (mp4, webm, mkv, mov, "
    "avi), point clouds (ply, pcd, xyz, pts, npy, npz, obj, stl, glb, off) and text (txt, md, csv, "
    "json) can be opened; depth, thermal and imu files with that word before them, as in "
    "depth:room.png."
)


def sniff(head: bytes, suffix: str = "") -> tuple[str, str] | None:
    """Kind and media type of a file by its first 64 bytes; text needs a known suffix too."""
    for form in _FORMATS:
        if form.matches(head):
            if form.media_type == "application/x-npz" and suffix not in _ZIPPED:
                continue  # any zip archive begins like this
            return form.kind, form.media_type
    if suffix in _POINT_SUFFIXES:
        return "point", f"model/{suffix[1:]}"
    if suffix in _TEXT_SUFFIXES:
        return "text", "text/plain"
    return None


def split_prefix(text: str) -> tuple[str | None, str]:
    """`"depth:room.png"` as `("depth", "room.png")`; `(None, text)` without a known prefix.

    To open a file whose own name begins like a prefix, write `./depth:room.png`, or give a
    `pathlib.Path`.
    """
    word, colon, rest = text.partition(":")
    if colon and word in PREFIXES and rest and not rest.startswith("//"):
        return word, rest
    return None, text


def with_prefix(path: str, kind: str | None) -> str:
    """The path with a kind before it, as `open_file` takes it.

    Raises:
        UserError: no such kind, or the path names another.
    """
    if kind is None:
        return path
    check_kind(kind)
    given, rest = split_prefix(path)
    if given not in (None, kind):
        raise UserError(f"{path} is given as {kind}; say one of the two.")
    return f"{kind}:{rest}"


def brief(error: Exception) -> str:
    """What a library says of damage, on one line and not too long for a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."


def check_kind(kind: str) -> str:
    """The kind of content that a prefix or `kind` gives.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in PREFIXES:
        raise UserError(f"A file is opened as {', '.join(PREFIXES)}, not as {kind!r}.")
    return PREFIXES[kind]


def looks_like_path(text: str) -> bool:
    """Whether a string that may also be a plain text is the path of a file.

    It is if it has an ending that media files have, or is the path of a file that is there. With a
    prefix, only what looks like a path behind it counts: "image: a red bicycle" is a text.
    """
    prefix, rest = split_prefix(text)
    endings = SUFFIXES | {".csv", ".tif", ".tiff"} if prefix else SUFFIXES
    if os.path.splitext(rest)[1].lower() in endings:
        return True
    return len(text) < 1024 and "\n" not in text and "\0" not in text and os.path.isfile(rest)
