"""A safetensors file written tensor by tensor, so that a large model never lies in memory whole.

Layout: u64 length of the header, the header as JSON (name -> dtype, shape, offsets), the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_safetensors(
    path: Path,
    plan: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write `path`.

    Args:
        path: The file; the caller sees to it that a half-written one is never taken for whole.
        plan: Name -> type and shape of every tensor.
        tensors: Name and tensor, in the order of the plan; each is dropped once written.
        metadata: Of the file.

    Raises:
        ValueError: a tensor is not what the plan announced.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape) in plan.items():
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    left = list(reversed(plan))
    with path.open("wb") as sink:
        sink.write(struct.pack("<Q", len(text)))
        sink.write(text)
        for name, tensor in tensors:
            if not left or left.pop() != name:
                raise ValueError(f"{name} comes out of turn")
            if (tensor.dtype, tuple(tensor.shape)) != plan[name]:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not as planned")
            flat = tensor.detach().contiguous().view(-1)
            sink.write(memoryview(flat.view(torch.uint8).numpy()))
        if left:
            raise ValueError(f"{left[-1]} was never given")
