"""Bind networks on disk: safetensors with the configuration in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.errors import ModelError


def save_bind(bind: BindNetwork, path: Path, about: dict[str, Any] | None = None) -> None:
    """Write a bind network in float16, its configuration in the metadata."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().to(torch.float16).contiguous() for k, v in bind.state_dict().items()}
    metadata = {"bind": json.dumps(asdict(bind.config)), "about": json.dumps(about or {})}
    save_file(tensors, path, metadata)


def load_bind(path: Path) -> BindNetwork:
    """Read what `save_bind` wrote, in float32.

    Raises:
        ModelError: not a bind network, or its tensors don't fit its configuration.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            config = BindConfig(**json.loads(file.metadata()["bind"]))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        bind = BindNetwork(config)
        bind.load_state_dict(tensors, strict=True)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path.name} is not a bind network: {error}") from error
    return bind
