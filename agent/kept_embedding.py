"""Embeddings as a session keeps them: safetensors with the row, the raw output and the space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from anybind.content import Embedding


def encode(part: Embedding) -> bytes:
    """The bytes of an embedding."""
    from safetensors.numpy import save

    arrays: dict[str, Any] = {"data": part.data}
    if part.raw is not None:
        arrays["raw"] = part.raw
    return save(arrays, {"space": part.space})


def decode(path: Path) -> Any:
    """The row [C] of a kept embedding."""
    from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

    return load_file(path)["data"]


def whole(part: Embedding, path: Path) -> Embedding:
    """A restored embedding with what its file holds besides the row."""
    import safetensors

    opened: Any = safetensors.safe_open(path, "np")
    with opened as file:
        raw = file.get_tensor("raw") if "raw" in list(file.keys()) else None
        metadata: dict[str, str] = file.metadata() or {}
    return replace(part, space=metadata.get("space", ""), raw=raw)
