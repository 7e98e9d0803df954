"""Decoders in Meta's naming: `params.json` and tensors as the original LLaMA release has them.

The release itself is a pickle (`consolidated.*.pth`), which the converter `llama-meta` turns once
into one safetensors file with `params.json` in its metadata; that file is read here. Knows the
size rules of Meta's code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anybind.core_model.checkpoints.assemble import check_sizes
from anybind.core_model.checkpoints.tensors import read_safetensors
from anybind.core_model.llama import LlamaConfig, RopeScaling
from anybind.errors import ModelError

FORMAT = "anybind-llama-1"
"""Value of `format` in the metadata of a converted file."""
_KNOWN = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier",
    "norm_eps", "rope_theta", "use_scaled_rope", "rope_scaling_factor", "rope_high_freq_factor",
    "max_seq_len", "max_batch_size",
}  # fmt: skip
_LLAMA32_DIMS = (2048, 3072)


def ffn_dim(dim: int, multiple_of: int, multiplier: float | None = None) -> int:
    """Width of the feed-forward layer: two thirds of 4 dim, scaled, rounded up to a multiple."""
    hidden = int(2 * 4 * dim / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)


def meta_config(params: Mapping[str, Any], vocab_size: int) -> LlamaConfig:
    """Our config from the dictionary of a `params.json`.

    Args:
        params: As in the file; an unknown key is an error, for it may change the model.
        vocab_size: What replaces a `vocab_size` of -1: the rows of the token embedding.

    Raises:
        ModelError: a key is unknown or missing, or a size is senseless.
    """
    if not isinstance(params, Mapping):
        raise ModelError("params.json holds no table of sizes.")
    if unknown := sorted(set(params) - _KNOWN):
        raise ModelError(f"params.json holds {unknown}, which no LLaMA 1 to 3 has.")
    try:
        dim, heads = params["dim"], params["n_heads"]
        stated = params.get("vocab_size", -1)
        if dim <= 0 or heads <= 0 or dim % heads or params["multiple_of"] <= 0:
            raise ModelError(f"params.json has the width {dim} and {heads} heads.")
        config = LlamaConfig(
            vocab_size=vocab_size if stated == -1 else stated,
            dim=dim,
            n_layers=params["n_layers"],
            n_heads=heads,
            n_kv_heads=params.get("n_kv_heads") or heads,
            ffn_dim=ffn_dim(dim, params["multiple_of"], params.get("ffn_dim_multiplier")),
            norm_eps=params["norm_eps"],
            rope_theta=params.get("rope_theta") or 10_000.0,
            rope_layout="interleaved",
            rope_scaling=_scaling(params),
            context_length=_context(params),
        )
        check_sizes(config)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"params.json can't be used: {error!r}") from error
    return config


def _scaling(params: Mapping[str, Any]) -> RopeScaling | None:
    if not params.get("use_scaled_rope"):
        return None
    if params["dim"] in _LLAMA32_DIMS and "rope_scaling_factor" not in params:
        raise ModelError(
            "The params.json of LLaMA 3.2 does not say its rotary scaling; use the Hugging Face "
            "folder of the model."
        )
    factor = float(params.get("rope_scaling_factor") or 8.0)
    return RopeScaling(factor, 1.0, float(params.get("rope_high_freq_factor") or 4.0), 8192)


def _context(params: Mapping[str, Any]) -> int:
    """What the models were trained at: params.json seldom says it."""
    if params.get("max_seq_len"):
        return params["max_seq_len"]
    if params.get("use_scaled_rope"):
        return 131_072
    return 8192 if (params.get("rope_theta") or 0) >= 500_000 else 2048


def is_meta_file(path: Path) -> bool:
    """Whether a safetensors file is a converted Meta checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_meta(path: Path) -> tuple[LlamaConfig, dict[str, Tensor], tuple[str, ...]]:
    """Config, tensors and ignored names of a file that the converter `llama-meta` wrote.

    Raises:
        ModelError: not such a file, or damaged.
    """
    state, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path.name} is not a converted LLaMA. Make one from Meta's files with: "
            "anybind convert llama-meta FOLDER TARGET.safetensors"
        )
    try:
        params = json.loads(metadata["params"])
        ignored = tuple(str(n) for n in json.loads(metadata.get("ignored", "[]")))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path.name}: its metadata can't be read: {error!r}") from error
    rope = tuple(n for n in state if is_rope(n))
    for name in rope:
        del state[name]
    embedding = state.get("tok_embeddings.weight")
    if embedding is None or embedding.dim() != 2:
        raise ModelError(f"{path.name} holds no token embedding.")
    return meta_config(params, embedding.shape[0]), state, (*ignored, *rope)


def is_rope(name: str) -> bool:
    """Whether a tensor is a rotary buffer, which every loader recomputes."""
    return "rope" in name.split(".")
