"""Tensors in our names become a decoder, without a second copy of them. Knows no file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

import torch
from torch import Tensor

from anybind.core_model.checkpoints.report import LoadReport, compare
from anybind.core_model.llama import Llama, LlamaConfig
from anybind.errors import ModelError

MAX_LAYERS = 1000
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 22
MAX_ROTARY = 1 << 25
"""Most entries of the rotary tables (context length x head width), 128 MB of each."""


def check_sizes(config: LlamaConfig) -> None:
    """Refuse sizes that no LLaMA has, before anything of that size is made.

    Raises:
        ModelError: a size is not a positive number or is out of all proportion.
    """
    limits = {
        "n_layers": MAX_LAYERS, "dim": MAX_WIDTH, "ffn_dim": MAX_WIDTH, "n_heads": MAX_WIDTH,
        "n_kv_heads": MAX_WIDTH, "head_dim": MAX_WIDTH, "vocab_size": MAX_VOCABULARY,
        "context_length": MAX_ROTARY,
    }  # fmt: skip
    for name, most in limits.items():
        size = getattr(config, name)
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= most:
            raise ModelError(f"{name} is {size!r}; a LLaMA has a whole number from 1 to {most}.")
    if config.context_length * config.head_dim > MAX_ROTARY:
        raise ModelError(
            f"Rotary tables for {config.context_length} positions of {config.head_dim} are too "
            "large; lower the context length in the configuration of the model."
        )
    if config.head_dim % 2:
        raise ModelError(f"head_dim is {config.head_dim}; rotary positions need an even number.")
    numbers = {name: getattr(config, name) for name in ("norm_eps", "rope_theta")}
    if config.rope_scaling is not None:
        numbers |= {f"rope scaling: {n}": v for n, v in asdict(config.rope_scaling).items()}
        if config.rope_scaling.low_freq_factor == config.rope_scaling.high_freq_factor:
            raise ModelError("The low and the high factor of the rotary scaling are the same.")
    for name, value in numbers.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < 1e15:
            raise ModelError(f"{name} is {value!r}; it must be a number above 0.")


def assemble(
    config: LlamaConfig,
    state: Mapping[str, Tensor],
    ignored: tuple[str, ...] = (),
    *,
    dtype: torch.dtype | None = torch.float32,
    name: str = "The checkpoint",
    identity: str = "",
) -> tuple[Llama, LoadReport]:
    """Build the decoder around tensors in our names.

    Args:
        config: The sizes.
        state: Every weight; tensors that have `dtype` already are taken over, not copied.
        ignored: For the report.
        dtype: float32, bfloat16 or float16; None keeps what the file has.
        name: Of the file, for errors.
        identity: For the report.

    Raises:
        ModelError: a size is senseless (`check_sizes`), or the tensors don't fit (`UnfitError`).
    """
    check_sizes(config)
    numbers = (n.split(".", 2)[1] for n in state if n.startswith("layers."))
    found = 1 + max((int(n) for n in numbers if n.isdigit()), default=-1)
    if found < config.n_layers:
        # Said here, for building the rest would only give a longer list of names.
        raise ModelError(f"{name} has {found} of {config.n_layers} layers: the rest are missing.")
    with torch.device("meta"):
        model = Llama(config)
    wanted = {n: t.shape for n, t in model.state_dict().items()}
    if config.tied:
        wanted.pop("output.weight")
    report = compare(name, {n: t.shape for n, t in state.items()}, wanted, ignored)
    cast = {n: t if dtype is None else t.to(dtype) for n, t in state.items()}
    if config.tied:
        cast["output.weight"] = cast["tok_embeddings.weight"]
    model.load_state_dict(cast, strict=True, assign=True)
    if config.tied:
        model.output.weight = model.tok_embeddings.weight
    # The rotary tables were made on the meta device and are not part of the state.
    tables = Llama(replace(config, n_layers=0, vocab_size=1))
    model.cos, model.sin = tables.cos, tables.sin
    model.requires_grad_(False)
    return model.eval(), replace(report, identity=identity)
