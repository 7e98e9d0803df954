"""The bind network and the injection: a joint embedding becomes one vector per decoder layer.

Paper section 3.1 (arXiv 2309.03905): a linear projection, three gated feed-forward blocks, then
per-layer injection through a zero-initialised gate. The per-layer query and the gate per head of
the released checkpoints are here too; see docs/architecture.md for where paper and release differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anybind.core_model.decoder import AttentionConditioned, Decoder
from anybind.core_model.llama import RMSNorm, Site
from anybind.errors import ModelError


@dataclass(frozen=True)
class BindConfig:
    """Sizes of a bind network and how it is injected."""

    joint_dim: int
    model_dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int = 1
    n_blocks: int = 3
    injection: Site = "residual"
    norm: Literal["rms", "layer"] = "rms"
    """"layer" (with biases) is the bridge of the checkpoint `7B-beta`."""
    input_scale: float = 1.0
    """Multiplies the joint embedding first. The entries of a unit vector are tiny; brought to a
    mean square of 1 (`sqrt(joint_dim)`) a small network learns several times faster. 1 is what
    the released checkpoints use."""
    first_layer: int = 0
    """Layers before this one get nothing. 2 makes `residual` expressible as a llama.cpp control
    vector, which acts between blocks and never before block 1."""


class BindBlock(nn.Module):
    """x + f2(silu(f1 n) * f3 n) with n = norm(x)."""

    def __init__(self, config: BindConfig) -> None:
        super().__init__()
        legacy = config.norm == "layer"
        dim, hidden = config.model_dim, config.hidden_dim
        self.norm = nn.LayerNorm(dim, eps=1e-5) if legacy else RMSNorm(dim, 1e-6)
        self.f1 = nn.Linear(dim, hidden, bias=legacy)
        self.f2 = nn.Linear(hidden, dim, bias=legacy)
        self.f3 = nn.Linear(dim, hidden, bias=legacy)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        return x + self.f2(F.silu(self.f1(n)) * self.f3(n))


class BindNetwork(nn.Module):
    """Joint embedding [B, C] -> vectors to inject [B, n_layers, dim]."""

    def __init__(self, config: BindConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(config.joint_dim, config.model_dim)
        self.blocks = nn.ModuleList(BindBlock(config) for _ in range(config.n_blocks))
        self.query = nn.Parameter(torch.randn(config.n_layers, config.model_dim) * 0.02)
        heads = config.n_heads if config.injection == "attention_output" else 1
        self.gate = nn.Parameter(torch.zeros(config.n_layers, heads))

    def bind(self, feature: Tensor) -> Tensor:
        """The bound feature [B, dim] of joint embeddings [B, C]."""
        x = self.proj(feature.to(self.proj.weight) * self.config.input_scale)
        for block in self.blocks:
            x = block(x)
        return x

    def layer_vectors(self, feature: Tensor) -> Tensor:
        """Bound feature plus each layer's query, before the gates: [B, n_layers, dim]."""
        return self.bind(feature)[:, None] + self.query[None]

    def forward(self, feature: Tensor, decoder: Decoder | nn.Module | None = None) -> Tensor:
        """What the decoder adds in each layer, [B, n_layers, dim].

        For `attention_output` the value and output projections of the decoder are applied here,
        once, instead of at every position: the term does not depend on the position. `residual`
        needs no decoder.

        Raises:
            ModelError: the decoder can't do what `attention_output` needs.
        """
        vectors = self.layer_vectors(feature)
        gate = torch.tanh(self.gate)
        if self.config.injection == "residual":
            out = vectors * gate[None]
        else:
            if not isinstance(decoder, AttentionConditioned):
                raise ModelError(
                    f"{type(decoder).__name__} takes a condition by `residual` only; this bind "
                    "network injects by `attention_output`."
                )
            out = decoder.attention_condition(vectors, gate)
        if self.config.first_layer:
            keep = torch.arange(out.shape[1], device=out.device) >= self.config.first_layer
            out = out * keep[None, :, None]
        return out
