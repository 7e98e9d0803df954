"""Bind network and decoder as one module whose forward pass is the loss of a batch.

One module, because distribution works on forward passes: gradients are shared out and weights
gathered when it is called. Knows tensors; no data, no optimiser.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anybind.core_model.bind import BindNetwork
from anybind.core_model.llama import Llama


class Losses(NamedTuple):
    """Sums over the answer tokens of a batch."""

    loss: Tensor
    """Cross-entropy in nats, []."""
    right: Tensor
    """Tokens predicted right, [], no gradient."""


class Trainee(nn.Module):
    """The model being trained."""

    _no_split_modules = ("Block",)
    """What FSDP shards layer by layer (accelerate looks here)."""

    def __init__(self, decoder: Llama, bind: BindNetwork, *, checkpoint: bool = False) -> None:
        """`checkpoint` keeps the input of each layer only and computes it again backwards."""
        super().__init__()
        self.decoder = decoder
        self.bind = bind
        self.checkpoint = checkpoint

    def tie_weights(self) -> None:
        """Share token embedding and output head again, where the decoder does."""
        if self.decoder.config.tied:
            self.decoder.output.weight = self.decoder.tok_embeddings.weight

    def conditions(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """What each sample is conditioned by: vectors [S, n_layers, dim], and gates or None.

        Without a feature the vectors are zeros, which add nothing: the decoder is the plain one.
        For `attention_output` the layers apply the gates and their own projections.
        """
        config = self.bind.config
        vectors = self.bind.layer_vectors(features)
        gate = torch.tanh(self.bind.gate)
        gates = gate if config.injection == "attention_output" else None
        if gates is None:
            vectors = vectors * gate[None]
        layers = torch.arange(vectors.shape[1], device=vectors.device)
        keep = present[:, None] & (layers >= config.first_layer)[None]
        return vectors * keep[..., None], gates

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        segments: Tensor,
        positions: Tensor,
        features: Tensor,
        present: Tensor,
        packed: bool = True,
    ) -> Losses:
        """The loss of a batch.

        Args:
            tokens: [B, T] ids.
            labels: [B, T], the id of the same position where it is learned, else -100.
            segments: [B, T], row of `features` that a position belongs to; negative is padding.
            positions: [B, T] rotary positions.
            features: [S, C] joint embeddings.
            present: [S] bool, false for samples that have none.
            packed: Whether a row may hold several segments. If not, padding must be on the right.
        """
        vectors, gates = self.conditions(features, present)
        # A row of one sample needs no mask: a causal decoder never looks at what comes after.
        inject = vectors if packed else vectors[segments[:, 0]]
        hidden = self.decoder.features(
            tokens,
            inject=inject,
            site=self.bind.config.injection,
            positions=positions,
            segments=segments if packed else None,
            gates=gates,
            checkpoint=self.checkpoint and self.training,
        )
        # Position t predicts the token of t+1, if that is learned and of the same sample.
        wanted = (labels[:, 1:] != -100) & (segments[:, 1:] == segments[:, :-1])
        targets = labels[:, 1:][wanted]
        # The head runs on answer positions only: elsewhere its logits are not needed, and with a
        # large vocabulary they would be most of the memory.
        logits = self.decoder.output(hidden[:, :-1][wanted]).float()
        loss = F.cross_entropy(logits, targets, reduction="sum")
        with torch.no_grad():
            right = (logits.argmax(-1) == targets).sum()
        return Losses(loss, right)


def answer_tokens(labels: Tensor, segments: Tensor) -> int:
    """How many tokens of a batch are learned: what `forward` sums over."""
    return int(((labels[:, 1:] != -100) & (segments[:, 1:] == segments[:, :-1])).sum())
