"""Safetensors files, memory-mapped, with our own errors."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from anybind.errors import ModelError


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (views of the memory map: pages are read when touched) and metadata of a file.

    Raises:
        ModelError: damaged, missing, or of types that weights don't have.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ModelError(f"{path}: {name} holds {tensor.dtype}, which weights never do.")
    return tensors, metadata
