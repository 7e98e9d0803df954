"""Keys and values of past positions, which a decoder attends to without computing them again."""

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
