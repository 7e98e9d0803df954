"""Tensors out of a PyTorch pickle: only tensors and plain values, nothing in it is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.errors import ModelError


def load_pickle(path: Path) -> Any:
    """What `torch.save` wrote, memory-mapped where the file allows.

    Raises:
        ModelError: damaged, or it holds more than tensors and plain values.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            # Files older than torch 1.6 have no offsets to map.
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path.name} can't be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What torch says of an unreadable file, without its advice to trust the file."""
    said = str(error).strip()
    if "Weights only load failed" in said:
        return "damaged, no torch file, or it holds more than tensors and plain values"
    return said.splitlines()[0] if said else type(error).__name__


def tensors_of(path: Path, holder: object) -> dict[str, Tensor]:
    """The state dict `holder`, checked.

    Raises:
        ModelError: it is not one.
    """
    if not isinstance(holder, dict) or not holder:
        raise ModelError(f"{path.name} holds {type(holder).__name__}, not a state dict.")
    found: dict[str, Tensor] = {}
    for name, value in holder.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{path.name}: {name} is {type(value).__name__}, not a tensor.")
        if value.layout != torch.strided or value.is_quantized:
            raise ModelError(f"{path.name}: {name} is not a plain tensor.")
        found[str(name)] = value.detach()
    return found
