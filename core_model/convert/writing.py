"""Writes safetensors one tensor at a time.

The library's own writer builds all bytes in memory first; a checkpoint of several gigabytes would
need its size twice. Knows the layout only: u64 length of the header, the header as JSON (name ->
type, shape, offsets), the data.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Plan = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Name -> type and shape of every tensor, in the order of the file."""

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
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    plan = {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in order}
    stream_safetensors(path, plan, ((name, tensors[name]) for name in order), metadata)


def stream_safetensors(
    path: Path,
    plan: Plan,
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors that are made one after the other; `path` appears only when it is complete.

    Args:
        path: The file.
        plan: What will come.
        tensors: Name and tensor, in the order of the plan; each is dropped once written.
        metadata: Of the file.

    Raises:
        ValueError: a type that the format does not know, or a tensor that is not as planned.
    """
    text = _header(plan, metadata)
    left = list(plan)[::-1]
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, tensor in tensors:
                if not left or left.pop() != name:
                    raise ValueError(f"{name} comes out of turn")
                if (tensor.dtype, tuple(tensor.shape)) != plan[name]:
                    raise ValueError(
                        f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not as planned"
                    )
                plain = tensor.detach().cpu().contiguous().reshape(-1)
                file.write(plain.view(torch.uint8).numpy().data)
            if left:
                raise ValueError(f"{left[-1]} was never given")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _header(plan: Plan, metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape) in plan.items():
        if dtype not in _NAMES:
            raise ValueError(f"{name} has element type {dtype}, which safetensors has no name for")
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)
