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
from anybind.core_model.training.alignment import compare, targets


class Losses(NamedTuple):
    """Sums over the answer tokens of a batch, and over its samples that have words."""

    loss: Tensor
    """Cross-entropy in nats, []; 0 where no answers are learned."""
    right: Tensor
    """Tokens predicted right, [], no gradient."""
    distance: Tensor
    """Mean square distance of the bound features from their words, []; 0 without alignment."""
    cosine: Tensor
    """Cosine of the angle between them, [], no gradient."""


class Trainee(nn.Module):
    """The model being trained."""

    _no_split_modules = ("Block",)
    """What FSDP shards layer by layer (accelerate looks here)."""

    def __init__(
        self,
        decoder: Llama,
        bind: BindNetwork,
        *,
        checkpoint: bool = False,
        answers: bool = True,
        align: bool = False,
    ) -> None:
        """Put both together.

        Args:
            decoder: Its weights may be free or frozen.
            bind: Likewise.
            checkpoint: Keep the input of each layer only and compute it again backwards.
            answers: Learn answers; without, the decoder does not run.
            align: Compare bound features with the words that they are of.
        """
        super().__init__()
        self.decoder = decoder
        self.bind = bind
        self.checkpoint = checkpoint
        self.answers, self.align = answers, align
        self._centre: Tensor | None = None

    def tie_weights(self) -> None:
        """Share token embedding and output head again, where the decoder does."""
        if self.decoder.config.tied:
            self.decoder.output.weight = self.decoder.tok_embeddings.weight

    def conditions(self, bound: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """What each sample is conditioned by: vectors [S, n_layers, dim], and gates or None.

        `bound` [S, dim] is what the bind network makes of the features.

        Without a feature the vectors are zeros, which add nothing: the decoder is the plain one.
        For `attention_output` the layers apply the gates and their own projections.
        """
        config = self.bind.config
        vectors = bound[:, None] + self.bind.query[None]
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
        words: Tensor | None = None,
        shares: Tensor | None = None,
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
            words: [S, W] tokens of what the features are of (see `alignment.word_table`).
            shares: [S, W] what each counts.
        """
        bound = self.bind.bind(features)
        distance = cosine = bound.new_zeros((), dtype=torch.float32)
        if self.align and words is not None and shares is not None:
            distance, cosine = self._aligned(bound, words, shares, present)
        if not self.answers:
            nothing = torch.zeros_like(cosine)
            return Losses(nothing, nothing, distance, cosine)
        loss, right = self._answered(bound, tokens, labels, segments, positions, present, packed)
        return Losses(loss, right, distance, cosine)

    def _aligned(
        self, bound: Tensor, words: Tensor, shares: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        table = self.decoder.tok_embeddings.weight.detach()
        if self._centre is None:  # once: no stage trains the table
            self._centre = table.float().mean(0)
        # Apart from what the precision makes of products: these are small, and distances matter.
        with torch.autocast(bound.device.type, enabled=False):
            wanted = targets(table, self._centre.to(table.device), words, shares)
            return compare(bound, wanted, present & (shares > 0).any(-1))

    def _answered(
        self,
        bound: Tensor,
        tokens: Tensor,
        labels: Tensor,
        segments: Tensor,
        positions: Tensor,
        present: Tensor,
        packed: bool,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy [] of the answers and the tokens of them predicted right []."""
        vectors, gates = self.conditions(bound, present)
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
        return loss, right


def answer_tokens(labels: Tensor, segments: Tensor) -> int:
    """How many tokens of a batch are learned: what `forward` sums over."""
    return int(((labels[:, 1:] != -100) & (segments[:, 1:] == segments[:, :-1])).sum())
