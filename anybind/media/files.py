"""From a path, or whatever else a caller hands over, to a part. Knows which opener takes what."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.content import (
    IMU,
    AnyPart,
    Audio,
    Depth,
    Image,
    Lazy,
    Part,
    PointCloud,
    Text,
    Thermal,
    Video,
)
from anybind.errors import UserError
from anybind.media.audio import decode_audio, sound_of_film
from anybind.media.caps import CAPS, Caps
from anybind.media.depth import decode_depth
from anybind.media.formats import OPENS, brief, check_kind, sniff, split_prefix
from anybind.media.image import check_size, decode_image, rgb
from anybind.media.imu import decode_imu
from anybind.media.points import decode_array_points, decode_points
from anybind.media.thermal import decode_thermal
from anybind.media.video import decode_video

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


def open_file(
    path: str | os.PathLike[str], *, kind: str | None = None, caps: Caps = CAPS
) -> AnyPart:
    """Open a file of a user as a part, decoded and checked (films: probed, decoded on demand).

    Args:
        path: A path; a string may say what the file is, as in `depth:room.png`.
        kind: The same, as an argument: one of `PREFIXES`. Without either the file tells.

    Raises:
        UserError: missing, not a plain file, empty, too large, of an unknown or unsupported
            format, damaged, or not of the kind that was asked for; says which and what to do.
    """
    text = os.fsdecode(path)
    if isinstance(path, str):
        said, text = split_prefix(text)
        if said is not None and kind not in (None, said):
            raise UserError(f"{path} is opened as {kind}; say one of the two.")
        kind = kind or said
    wanted = None if kind is None else check_kind(kind)
    if "://" in text:
        raise UserError(f"{text}: anybind opens local files only; download it first.")
    try:
        file = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: {brief(error)}") from error
    data = _read(file, caps)
    form = sniff(data[:64], file.suffix.lower())
    if wanted is None:
        return _as_found(data, file, form, caps)
    return _as_wanted(data, file, form or ("", ""), wanted, kind == "sunrgbd", caps)


def _as_found(data: bytes, file: Path, form: tuple[str, str] | None, caps: Caps) -> AnyPart:
    """The kind that the bytes tell."""
    if form is None:
        raise UserError(f"{file.name}: unknown format. {OPENS}")
    kind, media_type = form
    if kind == "array":
        cloud = decode_array_points(data, file.name, media_type, caps)
        return PointCloud(lazy=Lazy(value=cloud), media_type=media_type, path=file)
    if kind == "tiff":
        raise UserError(
            f"{file.name} is a TIFF; it is opened as depth or thermal only: depth:{file.name} or "
            f"thermal:{file.name}. Save a picture as PNG."
        )
    return _as_wanted(data, file, form, kind, False, caps)


def _as_wanted(
    data: bytes, file: Path, form: tuple[str, str], wanted: str, sunrgbd: bool, caps: Caps
) -> AnyPart:
    label, (found, media_type) = file.name, form
    match wanted:
        case "image":
            picture = decode_image(data, label, caps)
            return Image(lazy=Lazy(value=picture), media_type=media_type, path=file)
        case "audio":
            if found == "video":
                sound = sound_of_film(data, label, media_type, caps)
            else:
                sound = decode_audio(data, label, caps)
            return Audio(lazy=Lazy(value=sound), media_type=media_type, path=file)
        case "video":
            film = decode_video(data, label, media_type, caps)
            return Video(lazy=Lazy(value=film), media_type=media_type, path=file)
        case "point":
            cloud = decode_points(data, label, media_type, caps)
            return PointCloud(lazy=Lazy(value=cloud), media_type=media_type, path=file)
        case "depth":
            metres = decode_depth(data, label, sunrgbd=sunrgbd, caps=caps)
            return Depth(lazy=Lazy(value=metres), media_type=media_type, path=file)
        case "thermal":
            grey = decode_thermal(data, label, caps)
            return Thermal(lazy=Lazy(value=grey), media_type=media_type, path=file)
        case "imu":
            motion = decode_imu(data, label, caps)
            return IMU(lazy=Lazy(value=motion), media_type=media_type or "text/csv", path=file)
        case _:
            words = _decode_text(data, label, caps)
            return Text(lazy=Lazy(value=words), media_type="text/plain")


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
        raise UserError(f"{file} can't be read: {brief(error)}") from error


def _decode_text(data: bytes, label: str, caps: Caps) -> str:
    if len(data) > caps.text_bytes:
        raise UserError(f"{label} has over {caps.text_bytes >> 20} MB of text; shorten it.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{label} is not UTF-8 text: {brief(error)}") from error


def from_value(value: Any, *, kind: str | None = None, caps: Caps = CAPS) -> AnyPart:
    """A part from whatever a caller may hand over: a path, a part, or a PIL image.

    Args:
        value: What to open; a string may carry a prefix (`depth:room.png`).
        kind: For a path, what the file is; see `open_file`.

    Raises:
        UserError: nothing of the kind; says what is taken.
    """
    if isinstance(value, Part):
        return value  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (str, os.PathLike)):
        return open_file(value, kind=kind, caps=caps)  # pyright: ignore[reportUnknownArgumentType]
    if type(value).__module__.startswith("PIL.") and hasattr(value, "getbands"):
        return _picture(value, caps)
    raise UserError(
        f"An attachment can be a path, an anybind part or a PIL image, not {type(value).__name__}."
    )


def _picture(value: PILImage, caps: Caps) -> Image:
    width, height = value.size
    check_size("the picture", width, height, caps)
    if width * height == 0:
        raise UserError("The picture has no pixels.")
    try:
        return Image.of(rgb(value))
    except Exception as error:  # a picture that PIL opened lazily may turn out damaged
        raise UserError(f"The picture can't be read: {brief(error)}") from error
