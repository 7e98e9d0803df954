"""The arms of `ablations.py`: ways to bring a joint embedding into a frozen decoder.

Those that the pipeline can express are its own `Trainee`; one prompt token and gated prefix
attention are no features of the product and live here, as small subclasses of it. Rows hold one
sample each (`batch.packing: false`). Knows tensors; no data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.llama import Attention, Llama, rotate
from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.tokenizer import Tokenizer, encode_prompt
from anybind.core_model.training.building import Parts, build_parts, free
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.trainee import Losses, Trainee
from anybind.errors import ModelError

FIRST_LAYER = 2
"""Where every injection begins: nano's choice, and that of LLaMA-Adapter (30 of 32 layers)."""
PREFIX = 10
"""Vectors a layer of the gated prefix, as LLaMA-Adapter has them."""


class Injected(Trainee):
    """What the pipeline trains: `residual` or `attention_output`."""

    def laid(self, row: Tensor, fill: int) -> Tensor:
        """Ids or labels [B, T] with room for what this arm puts into the sequence."""
        return row

    @contextmanager
    def under(self, features: Tensor) -> Iterator[dict[str, Any]]:
        """The condition of each row of a batch while the decoder runs.

        Args:
            features: [B, C].

        Yields:
            What `Llama.features` is to be given besides tokens and cache.
        """
        site = self.bind.config.injection
        yield {"inject": self.bind(features, self.decoder), "site": site}


class _Own(Injected):
    """An arm that adds nothing by `Llama`'s own injection; `under` does what it does instead."""

    def conditions(self, given: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Zeros [S, n_layers, dim], which add nothing."""
        config = self.decoder.config
        return given.new_zeros(len(present), config.n_layers, config.dim), None

    def forward(
        self, tokens: Tensor, labels: Tensor, segments: Tensor, positions: Tensor,
        features: Tensor, present: Tensor, packed: bool = True, **more: Any,
    ) -> Losses:  # fmt: skip
        """As `Trainee.forward`.

        Raises:
            ModelError: rows of several samples, or samples without a feature.
        """
        if packed or not bool(present.all()):
            raise ModelError("This arm takes rows of one sample, each with a feature.")
        first = segments[:, 0]
        wide = self.laid(tokens, 0)
        # Padding is on the right, so places can be counted through it.
        places = torch.arange(wide.shape[1], device=wide.device).expand_as(wide)
        segments = torch.where(self.laid(segments, 0) < 0, -1, first[:, None])
        with self.under(features[first]):
            return super().forward(
                wide, self.laid(labels, -100), segments, places, features, present, False, **more
            )


class PromptToken(_Own):
    """One vector in place of a token, in front of the question, and nothing anywhere else."""

    def __init__(self, decoder: Llama, bind: BindNetwork, at: int) -> None:
        """`at` is the place of the token in the sequence."""
        super().__init__(decoder, bind)
        self.at = at
        table = decoder.tok_embeddings.weight.detach().float()
        self.size = float(table.square().mean().sqrt())
        """Root mean square of the token embeddings: the bound feature begins at their size."""

    def laid(self, row: Tensor, fill: int) -> Tensor:
        room = row.new_full((len(row), 1), fill)
        return torch.cat((row[:, : self.at], room, row[:, self.at :]), 1)

    @contextmanager
    def under(self, features: Tensor) -> Iterator[dict[str, Any]]:
        vector = self.bind.bind(features) * self.size

        def put(_module: Any, _given: Any, rows: Tensor) -> Tensor:
            if rows.shape[1] <= self.at:  # a later step of a reply
                return rows
            own = vector[:, None].to(rows.dtype)
            return torch.cat((rows[:, : self.at], own, rows[:, self.at + 1 :]), 1)

        hook = self.decoder.tok_embeddings.register_forward_hook(put)
        try:
            yield {}
        finally:
            hook.remove()


class PrefixBind(BindNetwork):
    """A bind network whose query is several vectors a layer, [n_layers, K, dim]."""

    def __init__(self, config: BindConfig, length: int) -> None:
        super().__init__(config)
        # Of size 1, as an embedding table begins: the keys must differ to be told apart.
        self.query = torch.nn.Parameter(torch.randn(config.n_layers, length, config.model_dim))

    def layer_vectors(self, feature: Tensor) -> Tensor:
        """The prefix of each layer, [B, n_layers, K, dim]."""
        return self.bind(feature)[:, None, None] + self.query[None]


class PrefixedAttention(Attention):
    """Attention to the words, and beside it, through a gate, to a prefix of its own.

    Two softmaxes: what the words get is what they got. Keys of the prefix have no rotary place.
    """

    prefix: Tensor | None = None
    """[B, K, dim] while a condition is on."""
    gate: Tensor | None = None
    """[n_heads], past its tanh."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Any, cache: Any) -> Tensor:
        out = super().forward(x, cos, sin, mask, cache)
        return out if self.prefix is None else out + self._prefixed(x, cos, sin)

    def _prefixed(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        c = self.config
        assert self.prefix is not None and self.gate is not None
        prefix = self.prefix.to(x.dtype)
        batch, time, _ = x.shape
        q = self.wq(x).view(batch, time, c.n_heads, c.head_dim).transpose(1, 2)
        q = rotate(q, cos, sin, c.rope_layout)
        k, v = (
            linear(prefix).view(batch, -1, c.n_kv_heads, c.head_dim).transpose(1, 2)
            for linear in (self.wk, self.wv)
        )
        seen = F.scaled_dot_product_attention(q, k, v, enable_gqa=c.n_heads != c.n_kv_heads)
        seen = seen * self.gate.to(seen.dtype)[None, :, None, None]
        # The output projection has no bias here, so both parts may go through it one by one.
        return self.wo(seen.transpose(1, 2).reshape(batch, time, c.n_heads * c.head_dim))


class GatedPrefix(_Own):
    """LLaMA-Adapter's way: every layer attends to a learned prefix that carries the feature."""

    def __init__(self, decoder: Llama, bind: PrefixBind) -> None:
        super().__init__(decoder, bind)
        for number, layer in enumerate(decoder.blocks):
            old = layer.attention
            with torch.device("meta"):  # its linear layers are those of the old one
                new = PrefixedAttention(old.config, number)
            new.wq, new.wk, new.wv, new.wo = old.wq, old.wk, old.wv, old.wo
            layer.attention = new

    @contextmanager
    def under(self, features: Tensor) -> Iterator[dict[str, Any]]:
        vectors, gates = self.bind.layer_vectors(features), torch.tanh(self.bind.gate)
        first = self.bind.config.first_layer
        layers: list[Any] = [layer.attention for layer in self.decoder.blocks]
        for number, attention in list(enumerate(layers))[first:]:
            attention.prefix, attention.gate = vectors[:, number], gates[number]
        try:
            yield {}
        finally:
            for attention in layers:
                attention.prefix = attention.gate = None


@dataclass(frozen=True)
class Arm:
    """One way, and how it is begun."""

    title: str
    sizes: dict[str, Any] = field(default_factory=dict[str, Any])
    """Changes of the bind network's sizes (`BindSizes`)."""
    kind: str = "injected"
    """`injected`, `token` or `prefix`."""
    gate: float = 0.0
    """What the gates start at, before their tanh."""

    @property
    def groups(self) -> list[str]:
        """What is trained."""
        return ["bind"] if self.kind == "token" else ["bind", "queries", "gates"]


REFERENCE = "bind"
ARMS = {
    REFERENCE: Arm("bind network, residual"),
    "linear": Arm("one linear layer, residual", {"n_blocks": 0}),
    "attention-output": Arm("bind network, attention_output", {"injection": "attention_output"}),
    "prompt-token": Arm("bind network, one prompt token", kind="token"),
    "prefix": Arm(
        "bind network, gated prefix attention", {"injection": "attention_output"}, "prefix"
    ),
    "gate-0.5": Arm("bind network, residual, gates from 0.5", gate=0.5),
    "gate-1": Arm("bind network, residual, gates from 1", gate=1.0),
}


def build(arm: Arm, config: TrainConfig) -> Parts:
    """The model of an arm, ready to be trained.

    Args:
        arm: Which.
        config: Its stage; the bind network is that of `config.model`.
    """
    parts = build_parts(config)
    decoder, bind = parts.trainee.decoder, parts.trainee.bind
    trainee: Injected
    if arm.kind == "token":
        trainee = PromptToken(decoder, bind, _question_at(parts.tokenizer, parts.chat))
    elif arm.kind == "prefix":
        torch.manual_seed(config.seed)
        trainee = GatedPrefix(decoder, PrefixBind(bind.config, PREFIX))
    else:
        trainee = Injected(decoder, bind)
    with torch.no_grad():
        trainee.bind.gate += arm.gate
    free(trainee, config.trainables)
    return replace(parts, trainee=trainee.train())


def _question_at(tokenizer: Tokenizer, chat: str) -> int:
    """Where the first question begins: behind what two prompts of different questions share."""
    from anybind.contracts import Message

    one, two = (
        encode_prompt(tokenizer, LAYOUTS[chat].render([Message("user", text)])) for text in "xq"
    )
    return next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
