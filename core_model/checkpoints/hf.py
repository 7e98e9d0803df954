"""Decoders from Hugging Face folders: LLaMA 1 to 3, Vicuna, SmolLM2, Mistral, Qwen2.

Reads `config.json` and safetensors files, memory-mapped: what has the wanted type already is not
copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anybind.core_model.checkpoints.assemble import check_sizes
from anybind.core_model.checkpoints.tensors import read_safetensors
from anybind.core_model.llama import ATTENTION_LINEARS, FFN_LINEARS, LlamaConfig, RopeScaling
from anybind.errors import ModelError

_HF_LAYER = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
_HF_TOP = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}


def read_hf(folder: Path) -> tuple[LlamaConfig, dict[str, Tensor], tuple[str, ...]]:
    """Config, tensors (our names) and ignored names of a Hugging Face LLaMA folder."""
    try:
        config = hf_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        check_sizes(config)
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError
    ) as error:  # fmt: skip
        raise ModelError(f"{folder}: config.json can't be read: {error!r}") from error
    state: dict[str, Tensor] = {}
    ignored: list[str] = []
    raw: dict[str, Tensor] = {}
    for file in _hf_files(folder):
        raw |= read_safetensors(file)[0]
    for name, tensor in raw.items():
        ours = hf_name(name)
        if ours is None or (ours == "output.weight" and config.tied):
            ignored.append(name)
        else:
            state[ours] = tensor
    return config, state, tuple(ignored)


def hf_config(data: Mapping[str, Any]) -> LlamaConfig:
    """Our config from the dictionary of a Hugging Face `config.json`."""
    kind = data.get("model_type")
    if kind not in ("llama", "mistral", "qwen2"):
        raise ModelError(f"A {kind!r} model is not a LLaMA.")
    biases: tuple[str, ...] = ("wq", "wk", "wv") if kind == "qwen2" else ()
    biases += ATTENTION_LINEARS if data.get("attention_bias") else ()
    biases += FFN_LINEARS if data.get("mlp_bias") else ()
    context = data.get("max_position_embeddings", 2048)
    window = data.get("sliding_window")
    if kind == "qwen2" and not data.get("use_sliding_window"):
        window = None
    if window:
        # Attention to a window is plain attention for as long as the text fits into it.
        context = min(context, window)
    if data.get("hidden_act", "silu") != "silu":
        raise ModelError(f"The activation {data['hidden_act']!r} is not that of a LLaMA (silu).")
    # transformers 5 writes rotary settings as `rope_parameters`, older ones as two keys.
    rope = dict(data.get("rope_parameters") or data.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    scaling = None
    if kind == "llama3":
        scaling = RopeScaling(
            rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )  # fmt: skip
    elif kind not in ("default", None):
        raise ModelError(f"Rotary scaling {kind!r} is not supported.")
    heads = data["num_attention_heads"]
    return LlamaConfig(
        vocab_size=data["vocab_size"],
        dim=data["hidden_size"],
        n_layers=data["num_hidden_layers"],
        n_heads=heads,
        n_kv_heads=data.get("num_key_value_heads") or heads,
        ffn_dim=data["intermediate_size"],
        norm_eps=data["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", data.get("rope_theta", 10_000.0)),
        rope_layout="half",
        rope_scaling=scaling,
        context_length=context,
        biases=tuple(dict.fromkeys(biases)),
        head_dim=data.get("head_dim") or 0,
        tied=bool(data.get("tie_word_embeddings", False)),
    )


def hf_name(name: str) -> str | None:
    """Our name of a Hugging Face tensor; None for one that is not a weight (rotary buffers)."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        if "rotary_emb" in name:
            return None
        raise ModelError(f"The folder holds a tensor that no LLaMA has: {name}.")
    if stem in _HF_TOP and kind == "weight":
        return f"{_HF_TOP[stem]}.weight"
    if stem.startswith("model.layers."):
        number, _, rest = stem.removeprefix("model.layers.").partition(".")
        if rest in _HF_LAYER and number.isdigit():
            return f"layers.{int(number)}.{_HF_LAYER[rest]}.{kind}"
    raise ModelError(f"The folder holds a tensor that no LLaMA has: {name}.")


def _hf_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} can't be read: {error!r}") from error
        if any(Path(n).name != n for n in names):
            raise ModelError(f"{index.name} names files outside its folder.")
        files = [folder / n for n in names]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if not file.exists():
            foreign = "".join(f" {f.name} is not read." for f in sorted(folder.glob("*.bin"))[:1])
            raise ModelError(f"{file} is missing.{foreign}")
    return files
