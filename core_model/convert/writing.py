"""Writes safetensors one tensor at a time.

The library's own writer builds all bytes in memory first; a checkpoint of several gigabytes would
need its size twice. Knows the layout only: 8 bytes length, JSON header, data.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors under their names; `path` appears only when it is complete.

    Wide element types come first, so that every tensor starts at a multiple of its element size.

    Raises:
        ValueError: a tensor has an element type that the format does not know.
    """
    strange = [name for name, value in tensors.items() if value.dtype not in _NAMES]
    if strange:
        raise ValueError(f"{strange[0]} has element type {tensors[strange[0]].dtype}")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        value = tensors[name]
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in order:
                plain = tensors[name].detach().cpu().contiguous().reshape(-1)
                file.write(plain.view(torch.uint8).numpy())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
