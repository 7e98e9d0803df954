"""Keys and values for decoders of transformers, in tensors that can be cut and grown.

The library's own growing cache copies everything at each token and forgets what slid out of a
window; this one writes into preallocated tensors and keeps all, so that a prefix can be cut back
to any length. Knows no model.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from anybind.optional import require


class TransformersCache:
    """Our `Cache` over a cache of transformers. Rows are right-aligned; `start` counts padding."""

    def __init__(self, layers: int, batch: int, capacity: int, device: torch.device) -> None:
        library = require("transformers", "transformers")
        kind = _growing_layer(library)
        self._room = SimpleNamespace(capacity=capacity)
        self.inner = library.cache_utils.Cache(layers=[kind(self._room) for _ in range(layers)])
        self.length = 0
        self.start = torch.zeros(batch, dtype=torch.long, device=device)
        self.padded = False

    @property
    def capacity(self) -> int:
        """Positions it has asked room for; it makes more when they are needed."""
        return self._room.capacity

    def cut(self, length: int) -> None:
        """Forget everything from position `length` on."""
        self.length = min(self.length, length)
        for layer in self.inner.layers:
            layer.cut(self.length)

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` positions, keeping what is there."""
        self._room.capacity = max(self._room.capacity, capacity)


def _growing_layer(library: Any) -> Any:
    """The class of one layer's keys and values, written into preallocated tensors.

    Made on demand: its base class belongs to an optional library.
    """

    class GrowingLayer(library.cache_utils.DynamicLayer):
        def __init__(self, room: SimpleNamespace) -> None:
            super().__init__()
            self.room = room
            self.filled = 0
            self.buffers: tuple[Tensor, Tensor] | None = None

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            end = self.filled + key_states.shape[-2]
            self._make_room(end, key_states, value_states)
            assert self.buffers is not None
            for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:, :, self.filled : end] = new
            self.filled = end
            self.cut(end)
            return self.keys, self.values

        def lazy_initialization(self, key_states: Tensor, *_: Any) -> None:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True

        def get_seq_length(self, *_: Any) -> int:
            return self.filled

        def cut(self, length: int) -> None:
            self.filled = min(self.filled, length)
            if self.buffers is not None:
                self.keys = self.buffers[0][:, :, : self.filled]
                self.values = self.buffers[1][:, :, : self.filled]

        def _make_room(self, end: int, *new: Tensor) -> None:
            if self.buffers is not None and end <= self.buffers[0].shape[2]:
                return
            # Half as much again at least, so that a caller who never grows pays little.
            room = max(self.room.capacity, end + end // 2)
            made: list[Tensor] = []
            for i, like in enumerate(new):
                buffer = like.new_empty(*like.shape[:2], room, like.shape[3])
                if self.buffers is not None:
                    buffer[:, :, : self.filled] = self.buffers[i][:, :, : self.filled]
                made.append(buffer)
            self.buffers = (made[0], made[1])

    return GrowingLayer
