"""A decoder with 4- or 8-bit weights for the CPU, in place of `Llama`.

Knows sizes, weights and the cache; the arithmetic is in `kernel.py`, the threads in `team.py`.
Fits `core_model.decoder.Decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.core_model.fast.jit import announced, kernels
from anybind.core_model.fast.packing import GROUP, Packed
from anybind.core_model.fast.team import TEAM, cpu_count
from anybind.core_model.llama import KVCache, Llama, LlamaConfig, Site
from anybind.errors import ModelError

BLOCK = 256
"""Rows that go through the layers together; longer prompts go in blocks of this."""
_SHARE = 128
"""Least positions of a share when one head's attention is divided among threads."""


@dataclass(frozen=True)
class Weights:
    """All that a quantised decoder consists of."""

    bits: int
    layers: list[tuple[Packed, Packed, Packed, Packed]]
    """Of each layer: wq over wk over wv; wo; w1 and w3, tile by tile in turn; w2."""
    embedding: Packed
    head: Packed
    """The same object as `embedding` where they are tied."""
    norms: NDArray[np.float32]
    """[2 * layers + 1, dim]: attention and feed-forward norm of each layer, then the last one."""
    biases: NDArray[np.float32] | None
    """[layers, all biases of a layer: wq, wk, wv, wo, w1, w3, w2]."""
    updates: dict[int, tuple[Tensor, Tensor]]
    """The low-rank update that was merged into wv, by layer: a condition goes past it."""


def check(config: LlamaConfig) -> None:
    """Refuse what the kernels can't do.

    Raises:
        ModelError: a width is no multiple of 32, or low-rank updates are not merged.
    """
    widths = {
        "dim": config.dim,
        "ffn_dim": config.ffn_dim,
        "n_heads * head_dim": config.n_heads * config.head_dim,
    }
    for name, width in widths.items():
        if width % GROUP:
            raise ModelError(
                f"int8 and int4 need {name} to be a multiple of {GROUP}; it is {width}. "
                'Use precision="float32" or "bfloat16".'
            )


class QuantisedLlama:
    """Int8 or int4 weights, int8 activations, float32 everything else."""

    def __init__(self, config: LlamaConfig, weights: Weights, *, isa: int | None = None) -> None:
        """`isa`: which of `vectors.host_sets()` to use; the fastest by default.

        The weights' tiles are moved into one block of memory; `weights` is empty of them after.
        """
        check(config)
        self.config = config
        self.bits = weights.bits
        self._kernel = kernels()
        self.isa = self._kernel.host_sets()[-1] if isa is None else isa
        self._shapes: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self._memory, self._places = self._gather(weights)
        self._norms = weights.norms
        self._biases = (
            weights.biases if weights.biases is not None else np.zeros((1, 1), np.float32)
        )
        self._has_bias = int(weights.biases is not None)
        self._updates = weights.updates
        tables = Llama(replace(config, n_layers=0, vocab_size=1, lora_rank=0))
        self._tables = tables.cos.numpy(), tables.sin.numpy()
        self._scratch: tuple[Any, ...] = ()
        self._room = (0, 0, 0, 0)
        with announced():
            self(torch.zeros((1, 1), dtype=torch.long))

    # ------------------------------------------------------------ weights

    def _gather(self, weights: Weights) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """One aligned block with every tile, and where each matrix begins."""
        matrices: list[tuple[tuple[int, int], Packed]] = []
        for i, layer in enumerate(weights.layers):
            matrices += [((i, j), packed) for j, packed in enumerate(layer)]
        last = len(weights.layers)
        matrices.append(((last, 0), weights.head))
        if weights.embedding is not weights.head:
            matrices.append(((last, 1), weights.embedding))
        total = sum(-(-p.data.nbytes // 64) * 64 for _, p in matrices)
        raw = np.empty(total + 64, np.uint8)
        memory = raw[-raw.ctypes.data % 64 :][:total]
        places = np.zeros((last + 1, 4), np.int64)
        weights.layers.clear()
        at = 0
        while matrices:
            place, packed = matrices.pop(0)
            memory[at : at + packed.data.nbytes] = packed.data.reshape(-1)
            places[place] = at
            self._shapes[place] = (packed.bits, packed.rows, packed.cols, packed.data.nbytes)
            at += -(-packed.data.nbytes // 64) * 64
            del packed
        if (last, 1) not in self._shapes:
            places[last, 1] = places[last, 0]
            self._shapes[last, 1] = self._shapes[last, 0]
        return memory, places

    def matrix(self, layer: int, which: int) -> NDArray[np.float32]:
        """A matrix as float32 (0: wq, wk, wv stacked; 1: wo; 2: w1, w3 by tiles; 3: w2)."""
        bits, rows, cols, size = self._shapes[layer, which]
        at = int(self._places[layer, which])
        tiles = self._memory[at : at + size].reshape(
            -1, cols // GROUP, size // (-(-rows // 16) * (cols // GROUP))
        )
        return Packed(bits, rows, cols, tiles).dequantise()

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that the decoder stands for, dequantised, in the names of `Llama`."""
        c = self.config
        q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        state: dict[str, Any] = {}
        for i in range(c.n_layers):
            stacked, pairs = self.matrix(i, 0), self.matrix(i, 2).reshape(-1, 2, 16, c.dim)
            weights = {
                "attention.wq": stacked[:q],
                "attention.wk": stacked[q : q + kv],
                "attention.wv": stacked[q + kv :],
                "attention.wo": self.matrix(i, 1),
                "feed_forward.w1": pairs[:, 0].reshape(-1, c.dim),
                "feed_forward.w3": pairs[:, 1].reshape(-1, c.dim),
                "feed_forward.w2": self.matrix(i, 3),
                "attention_norm": self._norms[2 * i],
                "ffn_norm": self._norms[2 * i + 1],
            }
            state |= {f"layers.{i}.{name}.weight": value for name, value in weights.items()}
        state["norm.weight"] = self._norms[-1]
        state["tok_embeddings.weight"] = self.matrix(c.n_layers, 1)
        if not c.tied:
            state["output.weight"] = self.matrix(c.n_layers, 0)
        return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}

    @property
    def nbytes(self) -> int:
        """Memory of the packed weights."""
        return self._memory.nbytes

    # ------------------------------------------------------------ the protocol

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache in float32."""
        return KVCache(self.config, batch, capacity)

    def attention_condition(self, vectors: Tensor, gates: Tensor) -> Tensor:
        """What a condition adds behind each layer's attention; see `AttentionConditioned`."""
        c = self.config
        kv = c.n_kv_heads * c.head_dim
        out: list[Tensor] = []
        for i in range(c.n_layers):
            vector = vectors[:, i].float()
            value = vector @ torch.from_numpy(self.matrix(i, 0)[-kv:]).T
            if i in self._updates:
                low, high = self._updates[i]
                value = value - (vector @ low.float().T) @ high.float().T
            value = value.view(-1, c.n_kv_heads, c.head_dim)
            value = value.repeat_interleave(c.n_heads // c.n_kv_heads, 1)
            value = (value * gates[i].float()[None, :, None]).flatten(1)
            out.append(value @ torch.from_numpy(self.matrix(i, 1)).T)
        return torch.stack(out, 1)

    def __call__(
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
        """Logits [B, T or 1, vocab]; arguments as for `Llama.forward`.

        Raises:
            ModelError: a token, a position or a size that the decoder does not have.
        """
        batch, time = tokens.shape
        if cache is None:
            cache = self.new_cache(batch, time)
        ids, places = self._checked(tokens, cache, positions)
        extra = _floats(inject) if inject is not None else np.zeros((1, 1, 1), np.float32)
        if inject is not None and extra.shape[1:] != (self.config.n_layers, self.config.dim):
            raise ModelError(
                f"The condition is {extra.shape}; the decoder takes [rows, "
                f"{self.config.n_layers}, {self.config.dim}]."
            )
        if extra.shape[0] not in (1, batch):
            raise ModelError(f"{extra.shape[0]} conditions for {batch} rows.")
        where = 0 if inject is None else 1 if site == "residual" else 2
        seen = None
        if mask is not None:
            seen = np.ascontiguousarray(mask[:, 0].to(torch.bool).numpy())
            if seen.shape[0] not in (1, batch) or seen.shape[1:] != (time, cache.length + time):
                raise ModelError(f"The mask is {tuple(mask.shape)}: [B or 1, 1, T, S] is wanted.")
        vocab = self.config.vocab_size
        padded = -(-vocab // 16) * 16
        logits = np.empty((batch, 1 if last_only else time, padded), np.float32)
        # A mask may let a position see a later one: then all go together.
        block = max(1, BLOCK // batch) if seen is None else time
        for begin in range(0, time, block):
            end = min(begin + block, time)
            self._run(
                ids[:, begin:end], places[:, begin:end], cache, extra, where, seen,
                logits, begin, last_only, end == time,
            )  # fmt: skip
        return torch.from_numpy(logits)[..., :vocab]

    # ------------------------------------------------------------ inside

    def _checked(
        self, tokens: Tensor, cache: KVCache, positions: Tensor | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        batch, time = tokens.shape
        end = cache.length + time
        if end > cache.capacity:
            raise ModelError(f"{end} positions, but the cache holds {cache.capacity}.")
        if cache.keys.dtype != torch.float32 or cache.keys.shape[1] != batch:
            raise ModelError("The cache was made for another decoder or another batch.")
        ids = tokens.to(torch.int64).numpy()
        if ids.size and not (0 <= ids.min() and ids.max() < self.config.vocab_size):
            raise ModelError(f"Token ids lie in 0..{self.config.vocab_size - 1}.")
        if positions is None:
            places = np.arange(cache.length, end)[None]
            if cache.padded:
                places = np.maximum(places - cache.start.numpy()[:, None], 0)
        else:
            places = positions.to(torch.int64).numpy()
        places = np.broadcast_to(places, ids.shape)
        if places.size and not (0 <= places.min() and places.max() < self.config.context_length):
            raise ModelError(
                f"Position {places.max()} lies outside the context of "
                f"{self.config.context_length} tokens."
            )
        return ids, places

    def _run(
        self,
        ids: NDArray[np.int64],
        places: NDArray[np.int64],
        cache: KVCache,
        inject: NDArray[np.float32],
        site: int,
        mask: NDArray[np.bool_] | None,
        logits: NDArray[np.float32],
        begin: int,
        last_only: bool,
        last_block: bool,
    ) -> None:
        """One block of positions through all layers and into the cache."""
        c = self.config
        batch, time = ids.shape
        rows, end = batch * time, cache.length + time
        if last_only:
            some = [b * time + time - 1 for b in range(batch)] if last_block else []
        else:
            some = range(rows)
        outputs = np.array(some, np.int64)
        made = np.empty((len(outputs), logits.shape[2]), np.float32)
        starts = cache.start.numpy() if cache.padded else np.zeros(batch, np.int64)
        with TEAM.lock:
            threads = max(1, min(torch.get_num_threads(), cpu_count()))
            chunks = 1
            if rows * c.n_kv_heads < 4 * threads and end > _SHARE and threads > 1:
                chunks = min(threads, -(-end // _SHARE))
            scratch = self._space(rows, threads, chunks, cache.capacity)
            sizes = (
                c.n_layers, c.dim, c.n_heads, c.n_kv_heads, c.head_dim, c.ffn_dim,
                int(c.rope_layout == "half"), self._has_bias, site, cache.length, time, chunks,
            )  # fmt: skip
            TEAM.run(
                self._kernel.forward, threads, self.isa, self.bits, sizes, c.norm_eps,
                self._memory, self._places, self._norms, self._biases, self._tables,
                np.ascontiguousarray(ids).reshape(-1), rows,
                np.ascontiguousarray(places).reshape(-1), starts, inject,
                np.zeros((1, 1, 0), np.bool_) if mask is None else np.ascontiguousarray(mask),
                cache.keys.numpy(), cache.values.numpy(), scratch, outputs, made,
            )  # fmt: skip
        cache.length = end
        if len(outputs):
            width = made.shape[0] // batch
            at = 0 if last_only else begin
            logits[:, at : at + width] = made.reshape(batch, width, -1)

    def _space(self, rows: int, threads: int, chunks: int, capacity: int) -> tuple[Any, ...]:
        """Working memory, kept between calls."""
        room = (rows, threads, chunks, -(-capacity // 256))
        if room != self._room:
            c = self.config
            q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
            wide = max(c.dim, q)

            def floats(*shape: int) -> NDArray[np.float32]:
                return np.empty(shape, np.float32)

            def quantised(cols: int) -> tuple[Any, ...]:
                groups = cols // GROUP
                codes = np.empty((rows, 2 * cols), np.int8)
                return codes, floats(rows, groups), floats(rows, groups)

            self._scratch = (
                floats(rows, c.dim), floats(rows, c.dim), floats(rows, -(-(q + 2 * kv) // 16) * 16),
                floats(rows, q), floats(rows, c.n_heads, chunks, c.head_dim + 2),
                floats(threads, room[3] * 256 + 16), floats(threads, rows, 64),
                quantised(wide), quantised(c.ffn_dim),
            )  # fmt: skip
            self._room = room
        return self._scratch


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).numpy())
