"""Single steps on a GPU as one CUDA graph, for decoders in bfloat16, float16 or float32.

A step of a small decoder on a GPU is a few hundred launches of tiny kernels, and Python is slower
than they are. Recorded once over a cache whose tensors stay where they are, the step is replayed
with one call. Everything that changes between steps (token, place, condition) is read from the
device. Knows `Llama` and its cache; prompts of more than one token go through `Llama` itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anybind.core_model.llama import KVCache, Llama, LlamaConfig, Site, rotate


@dataclass
class Inputs:
    """What a recorded step reads."""

    tokens: Tensor
    """[B, 1]."""
    place: Tensor
    """[1]: position in the cache that is written."""
    inject: Tensor | None
    """[B, layers, dim]."""
    site: Site


class GraphCache(KVCache):
    """A cache that remembers the steps recorded over its tensors."""

    def __init__(
        self, config: LlamaConfig, batch: int, capacity: int, *, dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:  # fmt: skip
        super().__init__(config, batch, capacity, dtype=dtype, device=device)
        # A step looks at all of the cache under a mask: nothing there may be NaN.
        self.keys.zero_()
        self.values.zero_()
        self.graphs: dict[Site | None, tuple[Inputs, torch.cuda.CUDAGraph, Tensor]] = {}

    def grow(self, capacity: int) -> None:
        """Make room; steps recorded over the old tensors are forgotten."""
        if capacity <= self.capacity:
            return
        super().grow(capacity)
        self.keys[:, :, :, self.length :] = 0
        self.values[:, :, :, self.length :] = 0
        self.graphs.clear()


def step(model: Llama, cache: KVCache, inputs: Inputs) -> Tensor:
    """Logits [B, 1, vocab] behind one token a row, reading nothing from the host.

    Does what `Llama.forward` does for one position, but the place is a tensor: keys and values
    are written by index, and a mask over the whole cache hides what is not there yet. Does not
    change `cache.length`.
    """
    c = model.config
    batch = inputs.tokens.shape[0]
    positions = (inputs.place - cache.start).clamp(min=0)
    column = torch.arange(cache.capacity, device=inputs.tokens.device)
    seen = (column <= inputs.place)[None] & (column[None] >= cache.start[:, None])
    seen = seen[:, None, None]
    x = model.tok_embeddings(inputs.tokens)
    cos = model.cos[positions][:, None, None].to(x.dtype)
    sin = model.sin[positions][:, None, None].to(x.dtype)
    for i, layer in enumerate(model.blocks):
        vector = None if inputs.inject is None else inputs.inject[:, i : i + 1].to(x.dtype)
        if vector is not None and inputs.site == "residual":
            x = x + vector
        attention = layer.attention
        h = layer.attention_norm(x)
        q = attention.wq(h).view(batch, 1, c.n_heads, c.head_dim).transpose(1, 2)
        k = attention.wk(h).view(batch, 1, c.n_kv_heads, c.head_dim).transpose(1, 2)
        v = attention.wv(h).view(batch, 1, c.n_kv_heads, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin, c.rope_layout), rotate(k, cos, sin, c.rope_layout)
        cache.keys[i].index_copy_(2, inputs.place, k)
        cache.values[i].index_copy_(2, inputs.place, v)
        # The query heads of one group are queries of one key head: no copy of the cache.
        grouped = q.reshape(batch, c.n_kv_heads, c.n_heads // c.n_kv_heads, c.head_dim)
        out = F.scaled_dot_product_attention(grouped, cache.keys[i], cache.values[i], seen)
        out = attention.wo(out.reshape(batch, 1, c.n_heads * c.head_dim))
        if vector is not None and inputs.site == "attention_output":
            out = out + vector
        x = x + out
        x = x + layer.feed_forward(layer.ffn_norm(x))
    return model.output(model.norm(x))


class GraphedLlama:
    """`Llama` on a GPU, its single steps replayed from graphs."""

    def __init__(self, model: Llama) -> None:
        self.model = model
        self.config = model.config

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.model.device

    def new_cache(self, batch: int, capacity: int) -> GraphCache:
        """An empty cache over which steps can be recorded."""
        weight = self.model.tok_embeddings.weight
        return GraphCache(self.config, batch, capacity, dtype=weight.dtype, device=weight.device)

    def attention_condition(self, vectors: Tensor, gates: Tensor) -> Tensor:
        """As `Llama.attention_condition`."""
        return self.model.attention_condition(vectors, gates)

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tensor,
        *,
        cache: GraphCache | None = None,
        inject: Tensor | None = None,
        site: Site = "residual",
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits; arguments as for `Llama.forward`."""
        single = tokens.shape[1] == 1 and mask is None and positions is None
        if cache is None or not single or self.device.type != "cuda":
            return self.model(
                tokens, cache=cache, inject=inject, site=site, mask=mask, positions=positions,
                last_only=last_only,
            )  # fmt: skip
        if cache.length >= cache.capacity:
            # On the device this would be an assertion that takes the whole process down.
            raise IndexError(f"the cache of {cache.capacity} positions is full")
        logits = self._replay(tokens, cache, inject, site)
        cache.length += 1
        return logits

    def _replay(
        self, tokens: Tensor, cache: GraphCache, inject: Tensor | None, site: Site
    ) -> Tensor:
        key = None if inject is None else site
        if key not in cache.graphs:
            cache.graphs[key] = self._record(tokens, cache, inject, site)
        inputs, graph, logits = cache.graphs[key]
        inputs.tokens.copy_(tokens)
        inputs.place.fill_(cache.length)
        if inject is not None and inputs.inject is not None:
            inputs.inject.copy_(inject.expand_as(inputs.inject))
        graph.replay()
        return logits.clone()

    def _record(
        self, tokens: Tensor, cache: GraphCache, inject: Tensor | None, site: Site
    ) -> tuple[Inputs, torch.cuda.CUDAGraph, Tensor]:
        held = None
        if inject is not None:
            # A buffer of our own for every row: later steps may come with another condition.
            held = inject.to(self.device).expand(tokens.shape[0], -1, -1).clone()
        place = torch.full((1,), cache.length, dtype=torch.long, device=self.device)
        inputs = Inputs(tokens.clone(), place, held, site)
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries choose and allocate outside the recording
                step(self.model, cache, inputs)
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = step(self.model, cache, inputs)
        return inputs, graph, logits
