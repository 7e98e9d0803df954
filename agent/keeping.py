"""The files in which a session keeps parts: one lossless format a kind, and back again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from anybind.agent import kept_embedding
from anybind.content import (
    DEFAULT_MEDIA_TYPES,
    IMU,
    AnyPart,
    Audio,
    Box,
    Boxes,
    Depth,
    Embedding,
    Image,
    Motion,
    PointCloud,
    Text,
    Thermal,
    Video,
)
from anybind.errors import UserError
from anybind.media import encode_video, open_file, sniff
from anybind.media.ply import write_ply
from anybind.media.video import EXTENSIONS as FILMS

_EXTENSIONS = {
    "text": "txt", "image": "png", "audio": "wav", "point": "ply", "depth": "npy",
    "thermal": "png", "imu": "npy", "boxes": "json", "embedding": "st",
}  # fmt: skip


def encode(part: AnyPart) -> bytes:
    """The bytes under which a part is kept.

    Pictures and thermal pictures as PNG, sounds as float WAV, clouds as binary PLY, depth maps
    (metres) and IMU readings as npy (float32; with a known rate float64, the time in seconds
    first). A film stays the file that it was; one made in memory becomes FFV1 in Matroska.

    Raises:
        UserError: this kind of content can't be kept.
    """
    if isinstance(part, Image):
        return _png(part.data)
    if isinstance(part, Audio):
        import soundfile  # pyright: ignore[reportMissingTypeStubs]

        stream = io.BytesIO()
        soundfile.write(stream, part.data.samples.T, part.data.rate, format="WAV", subtype="FLOAT")
        return stream.getvalue()
    if isinstance(part, Text):
        return part.data.encode()
    if isinstance(part, Video):
        return encode_video(part.data)[0]
    if isinstance(part, PointCloud):
        return write_ply(part.data)
    if isinstance(part, Depth):
        return _npy(part.data)
    if isinstance(part, Thermal):
        from PIL import Image as pil

        return _png(pil.fromarray(part.data))
    if isinstance(part, IMU):
        return _npy(_table(part.data))
    if isinstance(part, Boxes):
        rows = [{"label": b.label, "xyxy": list(b.xyxy), "score": b.score} for b in part.data]
        return json.dumps(rows).encode()
    if isinstance(part, Embedding):
        return kept_embedding.encode(part)
    raise UserError(f"A session can't keep {part.kind} yet.")


def decode(path: Path, kind: str) -> Any:
    """The data of a kept part."""
    if kind == "boxes":
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Box(r["label"], tuple(r["xyxy"]), r["score"]) for r in rows)
    if kind == "embedding":
        return kept_embedding.decode(path)
    return open_file(path, kind=kind).data


def extension(kind: str, data: bytes) -> str:
    """The ending of the file; for a film that of its format."""
    if kind == "video":
        found = sniff(data[:64])
        return FILMS[found[1]] if found else "mkv"
    return _EXTENSIONS[kind]


def media_type(kind: str, suffix: str) -> str:
    """The media type of a kept file."""
    if kind == "video":
        return next((m for m, e in FILMS.items() if e == suffix[1:]), "video/x-matroska")
    return DEFAULT_MEDIA_TYPES.get(kind, "application/octet-stream")


def _png(picture: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _npy(array: Any) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _table(motion: Motion) -> Any:
    import numpy as np

    if motion.rate is None:
        return motion.samples
    time = np.arange(len(motion.samples)) / motion.rate
    return np.concatenate([time[:, None], motion.samples.astype(np.float64)], axis=1)
