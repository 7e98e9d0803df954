"""Quantised decoders from a float decoder or straight from a GGUF file.

Matrix by matrix, so that a second float copy never exists. From a GGUF, matrices that the file
stores in our form already (Q4_1 and Q4_0 for 4 bits, Q8_0 for 8) are taken over bit for bit;
others are dequantised and quantised anew. Embedding and head are always 8 bits: they decide most
about which token wins and are a small part of a large model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from anybind.core_model.fast.decoder import QuantisedLlama, Weights, check
from anybind.core_model.fast.packing import (
    Blocks,
    Packed,
    from_ggml,
    interleave,
    pack,
    quantise,
    stack,
)
from anybind.core_model.llama import Llama, LlamaConfig
from anybind.core_model.lora import LoRALinear, MergedLinear
from anybind.errors import ModelError

if TYPE_CHECKING:
    from anybind.core_model.checkpoints.gguf import OpenGguf

BITS = {"int8": 8, "int4": 4}
_LINEARS = ("wq", "wk", "wv", "wo", "w1", "w3", "w2")


def from_llama(model: Llama, precision: str) -> QuantisedLlama:
    """A quantised twin of a decoder; the decoder itself is left as it is.

    Raises:
        ModelError: sizes or updates that the kernels can't do.
    """
    config = model.config
    check(config)
    if any(isinstance(m, LoRALinear) for m in model.modules()):
        raise ModelError(
            "The decoder has low-rank updates that are not merged; call "
            "anybind.core_model.lora.merge_lora first."
        )
    state = model.state_dict()
    updates: dict[int, tuple[Tensor, Tensor]] = {}
    for i, layer in enumerate(model.blocks):
        value = layer.attention.wv
        if isinstance(value, MergedLinear):
            updates[i] = value.lora_a, value.lora_b

    def read(name: str, bits: int) -> Blocks:
        return quantise(state[name], bits)

    def plain(name: str) -> Tensor | None:
        return state.get(name)

    return QuantisedLlama(config, _weights(config, BITS[precision], read, plain, updates))


def from_gguf(path: Path, precision: str) -> tuple[QuantisedLlama, dict[str, Any]]:
    """A quantised decoder straight from a GGUF file, and the file's metadata.

    Raises:
        ModelError: not a LLaMA, damaged, or sizes that the kernels can't do.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    file = _open(path)
    check(file.config)

    def read(name: str, bits: int) -> Blocks:
        info = file.tensors.get(name)
        if info is None:
            raise ModelError(f"{path.name} does not fit: {name} is missing.")
        kind = GGMLQuantizationType(info.kind)
        rows, cols = info.shape
        block, size = GGML_QUANT_SIZES[kind]
        length = math.prod(info.shape) // block * size
        if info.offset + length <= len(file.data):
            raw = np.frombuffer(file.data, np.uint8, length, info.offset)
            taken = from_ggml(raw, kind.name, rows, cols)
            if taken is not None and taken.bits == bits:
                return taken
        return quantise(file.read(name), bits)

    def plain(name: str) -> Tensor | None:
        return file.read(name) if name in file.tensors else None

    weights = _weights(file.config, BITS[precision], read, plain, {})
    return QuantisedLlama(file.config, weights), file.fields


def _open(path: Path) -> OpenGguf:
    """A GGUF whose sizes and number of layers are sound; no matrix is read."""
    from anybind.core_model.checkpoints.assemble import check_sizes
    from anybind.core_model.checkpoints.gguf import open_gguf

    file = open_gguf(path)
    check_sizes(file.config)
    layers = [int(n.split(".")[1]) for n in file.tensors if n.startswith("layers.")]
    if max(layers, default=-1) >= file.config.n_layers:
        raise ModelError(f"{path.name} has tensors of more than its {file.config.n_layers} layers.")
    return file


def _weights(
    config: LlamaConfig,
    bits: int,
    read: Callable[[str, int], Blocks],
    plain: Callable[[str], Tensor | None],
    updates: dict[int, tuple[Tensor, Tensor]],
) -> Weights:
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    sizes = {
        "wq": (q, config.dim), "wk": (kv, config.dim), "wv": (kv, config.dim), "wo": (config.dim, q),
        "w1": (config.ffn_dim, config.dim), "w3": (config.ffn_dim, config.dim),
        "w2": (config.dim, config.ffn_dim),
    }  # fmt: skip

    def matrix(name: str, shape: tuple[int, int], width: int = bits) -> Blocks:
        made = read(f"{name}.weight", width)
        if made.q.shape != shape:
            raise ModelError(f"{name}.weight is {made.q.shape}, expected {shape}.")
        return made

    def norm(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        found = plain(f"{name}.weight")
        if found is None or found.shape != (config.dim,):
            raise ModelError(f"{name}.weight is missing or not {config.dim} wide.")
        return found.float().numpy()

    layers: list[tuple[Packed, Packed, Packed, Packed]] = []
    norms, biases = [], []
    for i in range(config.n_layers):
        names = {
            n: f"layers.{i}.{'attention' if n in ('wq', 'wk', 'wv', 'wo') else 'feed_forward'}.{n}"
            for n in _LINEARS
        }

        def one(name: str, names: dict[str, str] = names) -> Blocks:
            return matrix(names[name], sizes[name])

        layers.append(
            (
                pack(stack([one("wq"), one("wk"), one("wv")])),
                pack(one("wo")),
                pack(interleave(one("w1"), one("w3"))),
                pack(one("w2")),
            )
        )
        norms += [norm(f"layers.{i}.attention_norm"), norm(f"layers.{i}.ffn_norm")]
        if config.biases:
            row: list[Tensor] = []
            for n in _LINEARS:
                found = plain(f"{names[n]}.bias")
                row.append(torch.zeros(sizes[n][0]) if found is None else found.float())
            biases.append(torch.cat(row).numpy())
    norms.append(norm("norm"))
    vocabulary = (config.vocab_size, config.dim)
    embedding = pack(matrix("tok_embeddings", vocabulary, 8))
    head = embedding if config.tied else pack(matrix("output", vocabulary, 8))
    return Weights(
        bits, layers, embedding, head, np.stack(norms),
        np.stack(biases) if biases else None, updates,
    )  # fmt: skip
