"""anybind: a local multimodal model at the centre of an agent loop.

Importing this loads no torch and no plugin. The door is `session` (the agent) and `load` (the
model alone).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.content import (
    IMU,
    Audio,
    Boxes,
    Depth,
    Embedding,
    File,
    Image,
    PointCloud,
    Text,
    Thermal,
    Video,
)
from anybind.errors import (
    AnybindError,
    ApprovalRequired,
    LimitExceeded,
    MissingExtra,
    MissingWeights,
    ModelError,
    PluginError,
    Retry,
    ToolError,
    UserError,
)

if TYPE_CHECKING:
    from anybind.agent import Session
    from anybind.content import AnyPart
    from anybind.core_model import ImageBindLLM

__version__ = "0.1.0"

__all__ = [
    "IMU", "AnybindError", "ApprovalRequired", "Audio", "Boxes", "Depth", "Embedding", "File",
    "Image", "LimitExceeded", "MissingExtra", "MissingWeights", "ModelError", "PluginError",
    "PointCloud", "Retry", "Text", "Thermal", "ToolError", "UserError", "Video", "__version__",
    "load", "session",
]  # fmt: skip
# `open` is left out: a star import must not hide the builtin.


def session(bundle: str | Path | None = None, **options: Any) -> Session:
    """Open a conversation; see `anybind.agent.Session` for the options.

    Args:
        bundle: Name of a bundle, or path to a bundle.json; by default that of the session which is
            resumed, else "nano".
        **options: `folder` (keep the session there), `resume` (go on with a kept one), ...
    """
    from anybind.agent import Session

    return Session(bundle, **options)


def open(path: str | Path, *, kind: str | None = None) -> AnyPart:
    """Open a file as a part, to attach, embed or look at.

    Args:
        path: The file.
        kind: What it holds, where the file does not tell: "depth", "sunrgbd" (depth in the encoding
            of SUN RGB-D), "thermal", "imu", "point", "audio" (of a film: its sound), "video",
            "image" or "text". The same word may stand before the path: `"depth:room.png"`.
    """
    from anybind.media import open_file

    return open_file(path, kind=kind)


def load(bundle: str | Path = "nano", **options: Any) -> ImageBindLLM:
    """Load the model of a bundle alone: embed, mix, retrieve, generate.

    `encoders_only=True` leaves out decoder and cache, for embedding alone.
    """
    from anybind.core_model import ImageBindLLM

    return ImageBindLLM.from_bundle(bundle, **options)
