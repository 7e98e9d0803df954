"""Rows of the projections that are rotated (wq, wk): in pairs as Meta and GGUF have them, or in halves
of a head as Hugging Face does. Same numbers, other order; what is added to such a projection must be
in the order of the base. Knows names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from anybind.core_model.llama import LlamaConfig, RopeLayout


def relaid(
    config: LlamaConfig, name: str, tensor: Tensor, old: RopeLayout, new: RopeLayout
) -> Tensor:
    """A tensor with the rows [out, ...] of the linear layer `name` in another order.

    Args:
        config: Heads and their width.
        name: Of the layer, or of its weight, bias or update; others than wq and wk are given back.
        tensor: Rows are its first dimension; the first factor of an update has none of them.
        old: How they lie.
        new: How they shall lie.
    """
    words = name.split(".")
    heads = config.n_heads if "wq" in words else config.n_kv_heads if "wk" in words else 0
    if not heads or old == new or words[-1] == "lora_a":
        return tensor
    half = config.head_dim // 2
    inner = (2, half) if new == "interleaved" else (half, 2)
    return tensor.unflatten(0, (heads, *inner)).transpose(1, 2).flatten(0, 2)


def relaid_all(
    config: LlamaConfig, tensors: Mapping[str, Tensor], old: RopeLayout, new: RopeLayout
) -> dict[str, Tensor]:
    """Every tensor of a table by name."""
    return {n: relaid(config, n, t, old, new) for n, t in tensors.items()}
