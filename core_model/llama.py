"""The LLaMA decoder, whole but for its cache, in one file.

Knows tensors and nothing else: no tokenizer, no prompt, no file format. Features:
- grouped-query attention, RMSNorm, SwiGLU, tied or separate output head;
- rotary positions in both layouts: "interleaved" pairs (Meta, GGUF) and "half" split (HF);
- Llama-3 frequency scaling;
- a key/value cache that can be cut back and whose rows may start at different positions;
- two ways of injecting a condition, one vector per layer and batch row, at no extra token:
  "residual" adds it to the stream at the input of a layer (paper eq. 2), "attention_output" adds
  it behind the attention output projection (what the released checkpoints amount to);
- several samples packed into one row, each blind to the others and under its own condition;
- biases on chosen linear layers and low-rank updates (`lora.py`), both off by default: a decoder
  without them is made of plain layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from anybind.core_model.kv_cache import KVCache as KVCache
from anybind.core_model.kv_cache import next_positions, visible
from anybind.core_model.lora import base_product, make_linear, product

RopeLayout = Literal["interleaved", "half"]
Site = Literal["residual", "attention_output"]

_SHORT = 256
"""Positions up to which training attends by plain products (on a CPU)."""
ATTENTION_LINEARS = ("wq", "wk", "wv", "wo")
FFN_LINEARS = ("w1", "w2", "w3")
LINEARS = ATTENTION_LINEARS + FFN_LINEARS


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3 frequency scaling."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a decoder."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_dim: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_layout: RopeLayout = "interleaved"
    rope_scaling: RopeScaling | None = None
    context_length: int = 2048
    head_dim: int = 0
    """0 means dim / n_heads."""
    tied: bool = False
    """Output head shares the token embedding."""
    rope_factors: tuple[float, ...] = ()
    """Divisors of the rotary frequencies, one each (how GGUF carries Llama-3 scaling)."""
    biases: tuple[str, ...] = ()
    """Linear layers of a block that have a bias ("wq" ... "w3")."""
    lora_rank: int = 0
    """Rank of the low-rank updates; 0 is none."""
    lora_on: tuple[str, ...] = LINEARS
    """Linear layers that have one, if any does."""

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.dim // self.n_heads)
        if self.n_heads % self.n_kv_heads:
            raise ValueError("n_heads must be a multiple of n_kv_heads")
        if self.rope_factors and len(self.rope_factors) != self.head_dim // 2:
            raise ValueError("rope_factors must be one for each rotary frequency")

    def linear(self, name: str, inputs: int, outputs: int) -> nn.Linear:
        """The linear layer `name` of a block, with what this config gives it."""
        rank = self.lora_rank if name in self.lora_on else 0
        return make_linear(inputs, outputs, bias=name in self.biases, rank=rank)


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def rope_frequencies(config: LlamaConfig) -> Tensor:
    """Angular frequencies [head_dim / 2], scaled for Llama 3 where configured."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    frequencies = config.rope_theta**-exponent
    scaling = config.rope_scaling
    if scaling is not None:
        wavelength = 2 * math.pi / frequencies
        low = scaling.original_context / scaling.low_freq_factor
        high = scaling.original_context / scaling.high_freq_factor
        blend = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
            scaling.high_freq_factor - scaling.low_freq_factor
        )
        mixed = (1 - blend) * frequencies / scaling.factor + blend * frequencies
        scaled = torch.where(wavelength > low, frequencies / scaling.factor, mixed)
        frequencies = torch.where(wavelength < high, frequencies, scaled)
    if config.rope_factors:
        frequencies = frequencies / torch.tensor(config.rope_factors, dtype=torch.float64)
    return frequencies


def rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: RopeLayout) -> Tensor:
    """Apply rotary positions to x [B, heads, T, head_dim]; cos, sin [B or 1, 1, T, head_dim/2]."""
    if layout == "interleaved":
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Attention(nn.Module):
    """Grouped-query self-attention."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.wq = config.linear("wq", config.dim, width)
        self.wk = config.linear("wk", config.dim, kv_width)
        self.wv = config.linear("wv", config.dim, kv_width)
        self.wo = config.linear("wo", width, config.dim)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        c = self.config
        batch, time, _ = x.shape
        q = self.wq(x).view(batch, time, c.n_heads, c.head_dim).transpose(1, 2)
        k = self.wk(x).view(batch, time, c.n_kv_heads, c.head_dim).transpose(1, 2)
        v = self.wv(x).view(batch, time, c.n_kv_heads, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin, c.rope_layout), rotate(k, cos, sin, c.rope_layout)
        if cache is not None:
            at, end = cache.length, cache.length + time
            cache.keys[self.layer, :, :, at:end] = k
            cache.values[self.layer, :, :, at:end] = v
            k, v = cache.keys[self.layer, :, :, :end], cache.values[self.layer, :, :, :end]
        return self.wo(_attend(q, k, v, mask))

    def condition(self, vector: Tensor, gate: Tensor) -> Tensor:
        """Wo(gate_h * (Wv a)_h): what a condition a [B, dim] adds behind this attention [B, dim].

        As released: the value projection is that of the base (no low-rank update, no attention
        norm), the output projection the one in use. Biases are left out, for the attention's
        own output has them already. `gate` [n_heads] is past its tanh.
        """
        c = self.config
        value = base_product(self.wv, vector).view(-1, c.n_kv_heads, c.head_dim)
        value = value.repeat_interleave(c.n_heads // c.n_kv_heads, 1)
        return product(self.wo, (value * gate.to(value.dtype)[None, :, None]).flatten(1))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q [B, H, T, D] over k, v [B, KV, S, D] -> [B, T, H * D].

    Without a mask: causal if T > 1 (T == S then), everything visible if T == 1.
    """
    batch, heads, time, width = q.shape
    if time == 1 and mask is None:
        # The query heads of one group see the same keys: treat them as queries of one head,
        # which spares the copy of keys and values that plain grouped attention makes on CPU.
        grouped = q.view(batch, k.shape[1], heads // k.shape[1], width)
        out = F.scaled_dot_product_attention(grouped, k, v)
        return out.reshape(batch, 1, heads * width)
    if time <= _SHORT and q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        return _attend_short(q, k, v, mask)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=heads != k.shape[1]
    )
    return out.transpose(1, 2).reshape(batch, time, heads * width)


def _attend_short(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same written out, for training on short rows: torch's own backward pass is made for long
    ones, and on a CPU takes six times as long at 34 positions (as long at 512)."""
    batch, heads, time, width = q.shape
    groups = k.shape[1]
    # The query heads of a group as rows of one matrix: nothing of keys and values is copied.
    rows = (q * width**-0.5).reshape(batch, groups, -1, width)
    scores = (rows @ k.transpose(-1, -2)).unflatten(2, (-1, time))
    if mask is None:
        seen = torch.ones(time, k.shape[2], dtype=torch.bool, device=q.device).tril()
    else:
        seen = mask[:, :, None]
    shares = scores.masked_fill(~seen, float("-inf")).softmax(-1).to(v.dtype)
    out = (shares.flatten(2, 3) @ v).view(batch, heads, time, width)
    return out.transpose(1, 2).reshape(batch, time, heads * width)


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.w1 = config.linear("w1", config.dim, config.ffn_dim)
        self.w2 = config.linear("w2", config.ffn_dim, config.dim)
        self.w3 = config.linear("w3", config.dim, config.ffn_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        inject: Tensor | None,
        site: Site,
        gate: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Arguments as for `Llama.features`, of this layer: `inject` is [B or S, dim]."""
        if inject is not None:
            if gate is not None:
                inject = self.attention.condition(inject, gate)
            # A negative segment is padding, which indexing from the end gives some vector or other.
            inject = inject[:, None] if segments is None else inject[segments]
        if inject is not None and site == "residual":
            x = x + inject.to(x.dtype)
        attended = self.attention(self.attention_norm(x), cos, sin, mask, cache)
        if inject is not None and site == "attention_output":
            attended = attended + inject.to(attended.dtype)
        x = x + attended
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """The decoder: token ids to logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied:
            self.output.weight = self.tok_embeddings.weight
        angles = torch.outer(
            torch.arange(config.context_length, dtype=torch.float64), rope_frequencies(config)
        )
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    @property
    def blocks(self) -> list[Block]:
        """The layers, as what they are."""
        return [cast(Block, layer) for layer in self.layers]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.tok_embeddings.weight.device

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache in the type and on the device of the weights."""
        weight = self.tok_embeddings.weight
        return KVCache(self.config, batch, capacity, dtype=weight.dtype, device=weight.device)

    def attention_condition(self, vectors: Tensor, gates: Tensor) -> Tensor:
        """What a condition adds behind each layer's attention (see `Attention.condition`).

        Args:
            vectors: [B, n_layers, dim], bound feature plus query.
            gates: [n_layers, n_heads], past their tanh.

        Returns:
            [B, n_layers, dim], for `inject` at the site "attention_output".
        """
        return torch.stack(
            [
                layer.attention.condition(vectors[:, i], gates[i])
                for i, layer in enumerate(self.blocks)
            ],
            1,
        )

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        inject: Tensor | None = None,
        site: Site = "residual",
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: [B, T] ids. With a cache they continue what it holds and are added to it.
            cache: Keys and values so far.
            inject: [B or 1, n_layers, dim]: the condition, one vector per layer and row.
            site: Where the condition enters.
            mask: [B or 1, 1, T, S] bool, True where position t may see position s; None is
                causal.
            positions: [B or 1, T] rotary positions; None counts on from the cache.
            last_only: Logits of the last position only, [B, 1, vocab].

        Returns:
            Logits [B, T, vocab].
        """
        x = self.features(
            tokens, cache=cache, inject=inject, site=site, mask=mask, positions=positions
        )
        return self.output(x[:, -1:] if last_only else x)

    def features(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        inject: Tensor | None = None,
        site: Site = "residual",
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        gates: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """What the output head reads, [B, T, dim]; arguments as for `forward`, and for training:

        Args:
            segments: [B, T], which row of `inject` [S, n_layers, dim] holds at a position. A
                position sees its own segment only; negative ones are padding. Not with a cache.
            gates: [n_layers, n_heads]: `inject` holds the vectors before `attention_condition`,
                which each layer applies itself, so that its weights may be sharded.
            checkpoint: Keep the input of each layer only, and compute it again in the backward
                pass.
        """
        _, time = tokens.shape
        past = cache.length if cache is not None else 0
        if positions is None:
            positions = next_positions(cache, time, tokens.device)
        if mask is None and segments is not None:
            own = segments[:, None, :, None] == segments[:, None, None, :]
            mask = own & own.new_ones(time, time).tril()
        elif mask is None and (past and time > 1 or (cache is not None and cache.padded)):
            start = cache.start if cache is not None and cache.padded else None
            mask = visible(past, time, start, tokens.device)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.tok_embeddings(tokens)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for i, layer in enumerate(self.layers):
            vector = inject[:, i] if inject is not None else None
            gate = gates[i] if gates is not None else None
            given = (x, cos, sin, mask, cache, vector, site, gate, segments)
            x = recompute(layer, *given, use_reentrant=False) if checkpoint else layer(*given)
        if cache is not None:
            cache.length += time
        return self.norm(x)
