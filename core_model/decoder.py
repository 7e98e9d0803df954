"""What the language model asks of a decoder, so that decoders can be exchanged.

`Llama` (torch), its quantised twin and decoders of other libraries all fit here. Token ids and
tensors only: no text, no prompt.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from anybind.core_model.llama import Site


class Sizes(Protocol):
    """The sizes of a decoder that others need."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def n_layers(self) -> int: ...

    @property
    def context_length(self) -> int: ...


class Cache(Protocol):
    """Keys and values of past positions. Rows are right-aligned; `start` [B] counts padding."""

    length: int
    start: Tensor
    padded: bool

    @property
    def capacity(self) -> int: ...

    def cut(self, length: int) -> None:
        """Forget everything from position `length` on."""
        ...

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` positions, keeping what is there."""
        ...


class Decoder(Protocol):
    """Token ids to logits, with a condition injected into each layer."""

    @property
    def config(self) -> Any:
        """At least the `Sizes`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where token ids are expected."""
        ...

    def new_cache(self, batch: int, capacity: int) -> Any:
        """An empty `Cache` for `batch` rows, with room for `capacity` positions."""
        ...

    def __call__(
        self,
        tokens: Tensor,
        *,
        cache: Any = None,
        inject: Tensor | None = None,
        site: Site = "residual",
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits [B, T or 1, vocab]; arguments as for `Llama.forward`."""
        ...


@runtime_checkable
class AttentionConditioned(Protocol):
    """What a decoder offers besides if it can take a condition by `attention_output`."""

    def attention_condition(self, vectors: Tensor, gates: Tensor) -> Tensor:
        """What a condition adds behind each layer's attention, [B, n_layers, dim].

        For layer l: Wo(gates_l,h * (Wv a_l)_h), with Wv as it was before any low-rank update,
        Wo as it is in use, and no biases.

        Args:
            vectors: a, [B, n_layers, dim].
            gates: [n_layers, n_heads], past their tanh.
        """
        ...
