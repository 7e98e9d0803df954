"""Keys and values of past positions, which a decoder attends to without computing them again.

And what follows from them for new positions: where these stand, and what they may see.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class CacheSizes(Protocol):
    """What a cache has to know of a decoder; `LlamaConfig` says it."""

    @property
    def n_layers(self) -> int: ...

    @property
    def n_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...


class PaddedRows(Protocol):
    """What any cache says of its rows; see `anybind.core_model.decoder.Cache`."""

    length: int
    start: Tensor
    padded: bool


def next_positions(cache: PaddedRows | None, time: int, device: torch.device) -> Tensor:
    """Rotary positions [B or 1, time] behind what a cache holds; padding in front does not count."""
    past = cache.length if cache is not None else 0
    positions = torch.arange(past, past + time, device=device)[None]
    if cache is not None and cache.padded:
        positions = (positions - cache.start[:, None]).clamp(min=0)
    return positions


def visible(past: int, time: int, start: Tensor | None, device: torch.device) -> Tensor:
    """Causal mask [B or 1, 1, time, past + time], without the `start` [B] padding positions in front.

    A padding query sees itself, or its softmax would be over nothing and give NaN.
    """
    column = torch.arange(past + time, device=device)
    row = column[past:]
    mask = (column[None, :] <= row[:, None])[None, None]
    if start is None:
        return mask
    real = column[None, None, None, :] >= start[:, None, None, None]
    return (mask & real) | (column[None, :] == row[:, None])[None, None]


class KVCache:
    """Keys and values of all layers, preallocated: [layers, B, kv heads, capacity, head dim].

    `start` [B] counts the padding positions at the front of each row (rows are right-aligned).
    """

    def __init__(
        self,
        config: CacheSizes,
        batch: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, capacity, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0
        self.start = torch.zeros(batch, dtype=torch.long, device=device)
        self.padded = False

    @property
    def capacity(self) -> int:
        """Positions it can hold."""
        return self.keys.shape[3]

    def cut(self, length: int) -> None:
        """Forget everything from position `length` on."""
        self.length = min(self.length, length)

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` positions, keeping what is there."""
        if capacity <= self.capacity:
            return
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            shape = (*old.shape[:3], capacity, old.shape[4])
            new = old.new_empty(shape)
            new[:, :, :, : self.length] = old[:, :, :, : self.length]
            setattr(self, name, new)
