"""EfficientNet-lite weights from a PyTorch `.pth` into safetensors, under the same names.

The size is told by the shapes of the tensors, and written into the metadata. Only tensors are
read from the pickle (`weights_only`); nothing in it is run.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from anybind.core_model.encoders.efficientnet import (
    CONFIGS,
    EfficientNetLite,
    LiteConfig,
    fold,
    metadata,
)
from anybind.errors import ModelError


def convert(source: Path, target: Path) -> None:
    """Write `target` from the state dict in `source`.

    Raises:
        ModelError: not a state dict, or of none of the published sizes.
    """
    state = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ModelError(f"{source.name} holds {type(state).__name__}, not a state dict.")
    tensors = {
        str(name): value.detach().float().contiguous()
        for name, value in state.items()  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, Tensor) and not str(name).endswith("num_batches_tracked")
    }
    config = recognise(tensors)
    if config is None:
        raise ModelError(f"{source.name} is no EfficientNet-lite of a published size.")
    save_file(tensors, target, metadata=metadata(config))


def recognise(tensors: dict[str, Tensor]) -> LiteConfig | None:
    """The published size whose tensors these are, or None."""
    blocks = {name.split(".")[1] for name in tensors if name.startswith("_blocks.")}
    for config in CONFIGS.values():
        if sum(stage[0] for stage in config.stages()) != len(blocks):
            continue
        with torch.device("meta"):
            wanted = {k: v.shape for k, v in EfficientNetLite(config).state_dict().items()}
        try:
            found = {name: value.shape for name, value in fold(config, tensors).items()}
        except (ModelError, RuntimeError):
            continue
        if found == wanted:
            return config
    return None
