"""A safetensors file mapped from disk: tensors as views, nothing read before it is used.

The library's own reader checks the header here and no more: taking a tensor from it already reads
pages of the file, seconds for a checkpoint of a thousand tensors. Knows no model.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.errors import ModelError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class MappedFile:
    """Names, shapes, metadata and tensors of a safetensors file.

    Raises:
        ModelError: it can't be read, or is no well-formed safetensors file.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.name = path.name
        try:
            # Checks lengths, offsets, shapes and element types against the size of the file.
            with safe_open(str(path), framework="pt", device="cpu") as checked:
                names = list(checked.keys())
                self.metadata: Mapping[str, str] = dict(checked.metadata() or {})
            with path.open("rb") as stream:
                length = struct.unpack("<Q", stream.read(8))[0]
                header: dict[str, Any] = json.loads(stream.read(length))
                # Private: a write would stay in memory. The mapping outlives the open file.
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            self._start = 8 + length
            self._entries = {name: header[name] for name in names}
            self.shapes: Mapping[str, tuple[int, ...]] = {
                name: tuple(entry["shape"]) for name, entry in self._entries.items()
            }
        except Exception as error:  # the library raises whatever its parser meets
            raise ModelError(f"{path.name} is not a readable safetensors file: {error}") from error

    def tensor(self, name: str) -> Tensor:
        """A view of one tensor in the mapping; the mapping lives as long as the view.

        Raises:
            ModelError: its element type is not one of the plain ones.
        """
        entry = self._entries[name]
        dtype = _TYPES.get(entry["dtype"])
        if dtype is None:
            raise ModelError(f"{self.name}: the tensor {name} is {entry['dtype']}, not readable.")
        start, end = (self._start + offset for offset in entry["data_offsets"])
        shape = self.shapes[name]
        if start == end:
            return torch.empty(shape, dtype=dtype)
        count = (end - start) // dtype.itemsize
        if start % dtype.itemsize:  # never from a writer that pads its header; a copy then
            return torch.frombuffer(bytearray(self._bytes[start:end]), dtype=dtype).reshape(shape)
        return torch.frombuffer(self._bytes, dtype=dtype, count=count, offset=start).reshape(shape)
