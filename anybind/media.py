"""The one place that opens files of users.

Allow-listed formats, told by their first bytes; size, pixel and duration caps checked before
anything is decoded; no URL is ever fetched. Whatever goes wrong is one plain `UserError` that
names the file.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.content import AnyPart, Audio, Image, Lazy, Text, Waveform
from anybind.errors import UserError
from anybind.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclass(frozen=True, slots=True)
class Caps:
    """What is refused before decoding."""

    file_bytes: int = 128 << 20
    pixels: int = 50_000_000
    side: int = 20_000
    audio_seconds: float = 1800.0
    audio_samples: int = 200_000_000
    text_bytes: int = 1 << 20


CAPS = Caps()

_PIL_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


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


# Known formats, in order of trial. Kinds without an opener here are named, so that the error can
# say what the file is instead of "unknown".
_FORMATS = (
    _Format("image", "image/png", _starts(b"\x89PNG\r\n\x1a\n")),
    _Format("image", "image/jpeg", _starts(b"\xff\xd8\xff")),
    _Format("image", "image/webp", _riff(b"WEBP")),
    _Format("image", "image/gif", _starts(b"GIF87a", b"GIF89a")),
    _Format("image", "image/bmp", _starts(b"BM")),
    _Format("audio", "audio/wav", _riff(b"WAVE")),
    _Format("audio", "audio/flac", _starts(b"fLaC")),
    _Format("audio", "audio/ogg", _starts(b"OggS")),
    _Format("audio", "audio/mpeg", _is_mp3),
    _Format("video", "video/mp4", lambda head: head[4:8] == b"ftyp"),
    _Format("video", "video/webm", _starts(b"\x1a\x45\xdf\xa3")),
    _Format("video", "video/avi", _riff(b"AVI ")),
    _Format("point", "model/ply", _starts(b"ply\n", b"ply\r")),
    _Format("point", "model/gltf-binary", _starts(b"glTF")),
    _Format("point", "model/pcd", _starts(b"# .PCD", b"VERSION .7", b"VERSION 0.7")),
    _Format("array", "application/x-npy", _starts(b"\x93NUMPY")),
)

_TEXT_SUFFIXES = {".txt", ".md", ".srt", ".vtt", ".csv", ".json"}
_POINT_SUFFIXES = {".obj", ".xyz", ".pts", ".stl", ".off"}


def open_file(path: str | os.PathLike[str], *, caps: Caps = CAPS) -> AnyPart:
    """Open a file of a user as a part, decoded and checked.

    Raises:
        UserError: missing, not a plain file, empty, too large, of an unknown or unsupported
            format, or damaged; says which and what to do.
    """
    text = os.fsdecode(path)
    if "://" in text:
        raise UserError(f"{text}: anybind opens local files only; download it first.")
    try:
        file = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: {error}") from error
    data = _read(file, caps)
    form = sniff(data[:64], file.suffix.lower())
    if form is None:
        raise UserError(
            f"{file.name}: unknown format. Images (png, jpeg, webp, gif, bmp), sounds (wav, flac, "
            "ogg, mp3) and text (txt, md, csv, json) can be opened."
        )
    kind, media_type = form
    if kind == "image":
        picture = decode_image(data, file.name, caps)
        return Image(lazy=Lazy(value=picture), media_type=media_type, path=file)
    if kind == "audio":
        sound = decode_audio(data, file.name, caps)
        return Audio(lazy=Lazy(value=sound), media_type=media_type, path=file)
    if kind == "text":
        return Text(lazy=Lazy(value=_decode_text(data, file.name, caps)), media_type=media_type)
    raise UserError(
        f"{file.name} is {media_type} ({kind}); this version of anybind opens images, sounds "
        "and text only."
    )


def sniff(head: bytes, suffix: str = "") -> tuple[str, str] | None:
    """Kind and media type of a file by its first 64 bytes; text needs a known suffix too."""
    for form in _FORMATS:
        if form.matches(head):
            return form.kind, form.media_type
    if suffix in _POINT_SUFFIXES:
        return "point", f"model/{suffix[1:]}"
    if suffix in _TEXT_SUFFIXES:
        return "text", "text/plain"
    return None


def _read(file: Path, caps: Caps) -> bytes:
    try:
        info = file.stat()
        if stat.S_ISDIR(info.st_mode):
            raise UserError(f"{file} is a folder; give a file.")
        if not stat.S_ISREG(info.st_mode):
            raise UserError(f"{file} is not a plain file.")
        if info.st_size == 0:
            raise UserError(f"{file.name} is empty (0 bytes).")
        if info.st_size > caps.file_bytes:
            raise UserError(
                f"{file.name} has {info.st_size / 1e6:.0f} MB; the limit is "
                f"{caps.file_bytes / 1e6:.0f} MB."
            )
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {file}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be read: {error}") from error


def decode_image(data: bytes, label: str, caps: Caps = CAPS) -> PILImage:
    """Decode a picture to RGB, upright. Alpha is laid on white.

    Raises:
        UserError: damaged, or over the caps (checked from the header, before decoding).
    """
    from PIL import Image as pil

    try:
        with warnings.catch_warnings():
            # Pillow only warns of sizes that the caps below refuse with a better message.
            warnings.simplefilter("ignore", pil.DecompressionBombWarning)
            picture = pil.open(io.BytesIO(data), formats=_PIL_FORMATS)
        width, height = picture.size
        if width * height > caps.pixels or max(width, height) > caps.side:
            raise UserError(_too_many_pixels(label, width, height, caps))
        return _rgb(picture)
    except UserError:
        raise
    except pil.DecompressionBombError as error:
        raise UserError(f"{label} has too many pixels; shrink it first ({error}).") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        raise UserError(f"{label} is not a readable picture, or it is damaged: {error}") from error


def _too_many_pixels(label: str, width: int, height: int, caps: Caps) -> str:
    return (
        f"{label} is {width} x {height} pixels; the limit is {caps.pixels / 1e6:.0f} million "
        f"and {caps.side} a side. Shrink it first."
    )


def _rgb(picture: PILImage) -> PILImage:
    """Decoded, upright, alpha on white."""
    from PIL import Image as pil
    from PIL import ImageOps

    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        # 16-bit grey would be clipped by convert; scale it to its own range instead.
        low, high = picture.getextrema()
        span = max(float(high) - float(low), 1e-9)  # pyright: ignore
        picture = picture.convert("F").point(lambda v: (v - float(low)) * 255.0 / span)  # pyright: ignore
    if "A" in picture.getbands() or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = pil.new("RGBA", layered.size, (255, 255, 255, 255))
        picture = pil.alpha_composite(ground, layered)
    return picture.convert("RGB")


def decode_audio(data: bytes, label: str, caps: Caps = CAPS) -> Waveform:
    """Decode a sound to float32 [channels, frames] in -1..1.

    Raises:
        UserError: damaged, without samples, or over the caps (checked from the header).
    """
    import numpy as np

    soundfile: Any = require("soundfile", "audio")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            seconds = sound.frames / max(sound.samplerate, 1)
            if seconds > caps.audio_seconds or sound.frames * sound.channels > caps.audio_samples:
                raise UserError(
                    f"{label} lasts {seconds:.0f} s with {sound.channels} channels; the limit is "
                    f"{caps.audio_seconds:.0f} s. Cut it first."
                )
            samples = sound.read(dtype="float32", always_2d=True).T
            rate = int(sound.samplerate)
    except UserError:
        raise
    except Exception as error:  # libsndfile reports damage through several exception types.
        raise UserError(f"{label} is not a readable sound, or it is damaged: {error}") from error
    if samples.shape[1] == 0:
        raise UserError(f"{label} holds no samples (zero-length sound).")
    if not np.isfinite(samples).all():
        raise UserError(f"{label} holds samples that are not numbers (NaN or infinite).")
    return Waveform(np.ascontiguousarray(samples), rate)


def _decode_text(data: bytes, label: str, caps: Caps) -> str:
    if len(data) > caps.text_bytes:
        raise UserError(f"{label} has over {caps.text_bytes >> 20} MB of text; shorten it.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{label} is not UTF-8 text: {error}") from error


def from_value(value: Any, *, caps: Caps = CAPS) -> AnyPart:
    """A part from whatever a caller may hand over: a path, a part, or a PIL image.

    Raises:
        UserError: nothing of the kind; says what is taken.
    """
    from anybind.content import Part

    if isinstance(value, Part):
        return value  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (str, os.PathLike)):
        return open_file(value, caps=caps)  # pyright: ignore[reportUnknownArgumentType]
    if type(value).__module__.startswith("PIL.") and hasattr(value, "getbands"):
        width, height = value.size
        if width * height > caps.pixels or max(width, height) > caps.side:
            raise UserError(_too_many_pixels("the picture", width, height, caps))
        if width * height == 0:
            raise UserError("The picture has no pixels.")
        try:
            return Image.of(_rgb(value))
        except Exception as error:  # a picture that PIL opened lazily may turn out damaged
            raise UserError(f"The picture can't be read: {error}") from error
    raise UserError(
        f"An attachment can be a path, an anybind part or a PIL image, not {type(value).__name__}."
    )
