"""Rows [N, C] on disk: mapped, read in blocks at unit norm, written as a stream.

Safetensors and npy only. Nothing here holds more than one block in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.errors import ModelError, UserError

BLOCK = 16_384
"""Rows handled at once."""

_DTYPES = {"F32": "<f4", "F16": "<f2"}


def map_rows(path: Path, tensor: str = "embeddings") -> NDArray[Any]:
    """The rows [N, C] of a `.safetensors` (tensor F32 or F16) or `.npy` file, memory-mapped.

    Raises:
        ModelError: no such file or tensor, or not rows of numbers.
    """
    rows = _map_npy(path) if path.suffix == ".npy" else _map_safetensors(path, tensor)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ModelError(f"{path.name} holds {list(rows.shape)}; a cache needs rows [N, C].")
    return rows


def _map_npy(path: Path) -> NDArray[Any]:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        raise ModelError(f"{path.name} can't be read as npy: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype not in (np.float32, np.float16, np.float64):
        raise ModelError(f"{path.name} must hold floats (16, 32 or 64 bits).")
    return rows


def _map_safetensors(path: Path, tensor: str) -> NDArray[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:  # checks sizes and offsets of the whole header
            names = list(file.keys())
        if tensor not in names:
            raise ModelError(f"{path.name} holds no tensor {tensor!r}, but {names[:8]}.")
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            entry = json.loads(stream.read(size))[tensor]
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error
    if entry["dtype"] not in _DTYPES:
        raise ModelError(f"{path.name}: {tensor} is {entry['dtype']}; store it as F32 or F16.")
    if 0 in entry["shape"]:
        raise ModelError(f"{path.name}: {tensor} is empty.")
    return np.memmap(
        path, _DTYPES[entry["dtype"]], "r", 8 + size + entry["data_offsets"][0],
        tuple(entry["shape"]),
    )  # fmt: skip


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for others."""
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".npy":
        return {}
    try:
        with safe_open(path, "np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error


def unit_rows(rows: NDArray[Any], first: int = 0) -> NDArray[np.float32]:
    """Rows [n, C] as float32 at norm 1. `first` is the number of the first, for the message.

    Raises:
        ModelError: a row of zeros (it has no direction), or one that is not finite.
    """
    block = np.ascontiguousarray(rows, np.float32)
    norms = np.linalg.norm(block, axis=1, keepdims=True)
    bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] < 1e-12)
    if bad.any():
        raise ModelError(
            f"Row {first + int(bad.argmax())} is zero or not finite; every row of a cache needs "
            "a direction."
        )
    return block / norms


def blocks(rows: NDArray[Any], size: int = BLOCK) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Unit-norm blocks with the number of their first row."""
    for start in range(0, len(rows), size):
        yield start, unit_rows(rows[start : start + size], start)


def sample(rows: NDArray[Any], count: int, seed: int = 0) -> NDArray[np.float32]:
    """`count` rows [count, C] drawn without replacement, at unit norm, in stored order (so that a
    mapped file is read forward only)."""
    if count >= len(rows):
        return unit_rows(rows)
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    return unit_rows(rows[chosen])


def write_rows(
    path: Path, rows: NDArray[Any], dtype: str = "float32", info: dict[str, str] | None = None
) -> None:
    """Write rows [N, C] at unit norm as the tensor `embeddings` of a safetensors file, by blocks.

    Raises:
        UserError: a dtype other than float32 and float16.
    """
    kinds = {"float32": "F32", "float16": "F16"}
    if dtype not in kinds:
        raise UserError(f"Rows are kept as float32 or float16, not {dtype}.")
    size = rows.shape[0] * rows.shape[1] * np.dtype(dtype).itemsize
    header: dict[str, Any] = {
        "__metadata__": info or {},
        "embeddings": {"dtype": kinds[dtype], "shape": list(rows.shape), "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as sink:
        sink.write(len(text).to_bytes(8, "little") + text)
        for _, block in blocks(rows):
            sink.write(block.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
