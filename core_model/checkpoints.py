"""Decoder weights from files: GGUF and Hugging Face LLaMA folders, mapped to our names.

Every loader accounts for all tensors: one missing, unexpected or of the wrong shape is a
`ModelError` that names it, never a silently half-initialised model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anybind.core_model.llama import Llama, LlamaConfig, RopeScaling
from anybind.errors import ModelError

_GGUF_LAYER = {
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "attn_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
}
_GGUF_TOP = {"token_embd": "tok_embeddings", "output_norm": "norm", "output": "output"}
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


@dataclass(frozen=True)
class LoadReport:
    """What a load did with the tensors of a file."""

    loaded: int
    ignored: tuple[str, ...]


def load_decoder(path: Path, *, dtype: torch.dtype = torch.float32) -> tuple[Llama, LoadReport]:
    """A decoder from a `.gguf` file or a Hugging Face folder.

    Raises:
        ModelError: not a LLaMA, or the tensors don't account for it.
    """
    if path.is_dir():
        config, state, ignored = read_hf(path)
    elif path.suffix == ".gguf":
        config, state, ignored = read_gguf(path)
    else:
        raise ModelError(f"{path.name}: give a .gguf file or a Hugging Face model folder.")
    return assemble(config, state, ignored, dtype=dtype)


def assemble(
    config: LlamaConfig,
    state: Mapping[str, Tensor],
    ignored: tuple[str, ...] = (),
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Llama, LoadReport]:
    """Build the decoder around tensors in our names, without a second copy of them."""
    with torch.device("meta"):
        model = Llama(config)
    wanted = dict(model.state_dict())
    if config.tied:
        wanted.pop("output.weight")
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise ModelError(
            f"The file does not fit: missing {missing[:5]}, unexpected {unexpected[:5]}."
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"{name} is {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}."
            )
    cast = {name: tensor.to(dtype) for name, tensor in state.items()}
    if config.tied:
        cast["output.weight"] = cast["tok_embeddings.weight"]
    model.load_state_dict(cast, strict=True, assign=True)
    if config.tied:
        model.output.weight = model.tok_embeddings.weight
    # The rotary tables were made on the meta device and are not part of the state.
    tables = Llama(_one_layer(config))
    model.cos, model.sin = tables.cos, tables.sin
    model.requires_grad_(False)
    return model.eval(), LoadReport(len(state), ignored)


def _one_layer(config: LlamaConfig) -> LlamaConfig:
    from dataclasses import replace

    return replace(config, n_layers=0, vocab_size=1)


# ---------------------------------------------------------------- GGUF


def read_gguf(path: Path) -> tuple[LlamaConfig, dict[str, Tensor], tuple[str, ...]]:
    """Config, tensors (dequantised, our names) and ignored names of a GGUF of arch `llama`."""
    return read_gguf_with_fields(path)[:3]


def read_gguf_with_fields(
    path: Path,
) -> tuple[LlamaConfig, dict[str, Tensor], tuple[str, ...], dict[str, Any]]:
    """As `read_gguf`, and the metadata (tokenizer and all), so that the file is read once."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    try:
        reader = GGUFReader(path)
        fields = gguf_fields(reader)
        config = _gguf_config(fields)
        state: dict[str, Tensor] = {}
        ignored: list[str] = []
        for tensor in reader.tensors:
            name = _gguf_name(tensor.name)
            array = dequantize(tensor.data, tensor.tensor_type)
            if name is None:
                if not np.all(array == 1.0):
                    # Llama 3.1 files carry their frequency scaling this way.
                    raise ModelError(
                        f"{path.name} scales its rotary frequencies ({tensor.name}), which is not "
                        "supported from GGUF."
                    )
                ignored.append(tensor.name)
                continue
            # A copy where the reader hands out its read-only memory map.
            state[name] = torch.from_numpy(np.require(array, np.float32, ["C", "W", "O"]))
    except ModelError:
        raise
    except Exception as error:  # the reader raises many kinds on damaged files
        raise ModelError(f"{path.name} can't be read as GGUF: {error}") from error
    tied = "output.weight" not in state
    return _with(config, tied=tied), state, tuple(ignored), fields


def gguf_fields(reader: Any) -> dict[str, Any]:
    """The metadata of a GGUF as plain Python values."""
    return {name: field.contents() for name, field in reader.fields.items()}


def _gguf_config(fields: Mapping[str, Any]) -> LlamaConfig:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise ModelError(f"The GGUF holds a {architecture!r} model; only 'llama' is supported.")
    if "llama.rope.scaling.type" in fields and fields["llama.rope.scaling.type"] != "none":
        raise ModelError("This GGUF uses rotary scaling, which is not supported from GGUF.")
    heads = int(fields["llama.attention.head_count"])
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        dim=int(fields["llama.embedding_length"]),
        n_layers=int(fields["llama.block_count"]),
        n_heads=heads,
        n_kv_heads=int(fields.get("llama.attention.head_count_kv", heads)),
        ffn_dim=int(fields["llama.feed_forward_length"]),
        norm_eps=float(fields["llama.attention.layer_norm_rms_epsilon"]),
        rope_theta=float(fields.get("llama.rope.freq_base", 10_000.0)),
        rope_layout="interleaved",  # llama.cpp's converter permutes q and k to Meta's order
        context_length=int(fields["llama.context_length"]),
    )


def _gguf_name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if name == "rope_freqs.weight":
        return None
    if kind != "weight":
        raise ModelError(f"The GGUF holds a tensor that no LLaMA has: {name}.")
    if stem in _GGUF_TOP:
        return f"{_GGUF_TOP[stem]}.weight"
    block, number, rest = (*stem.split(".", 2), "", "")[:3]
    if block == "blk" and rest in _GGUF_LAYER:
        return f"layers.{number}.{_GGUF_LAYER[rest]}.weight"
    raise ModelError(f"The GGUF holds a tensor that no LLaMA has: {name}.")


# ---------------------------------------------------------------- Hugging Face


def read_hf(folder: Path) -> tuple[LlamaConfig, dict[str, Tensor], tuple[str, ...]]:
    """Config, tensors (our names) and ignored names of a Hugging Face LLaMA folder."""
    try:
        config = hf_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{folder}: config.json can't be read: {error!r}") from error
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    raw: dict[str, Tensor] = {}
    for file in _hf_files(folder):
        try:
            raw.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} can't be read: {error}") from error
    state: dict[str, Tensor] = {}
    ignored: list[str] = []
    for name, tensor in raw.items():
        ours = hf_name(name)
        if ours is None or (ours == "output.weight" and config.tied):
            ignored.append(name)
        else:
            state[ours] = tensor
    return config, state, tuple(ignored)


def hf_config(data: Mapping[str, Any]) -> LlamaConfig:
    """Our config from the dictionary of a Hugging Face `config.json`."""
    if data.get("model_type") not in ("llama", "mistral"):
        raise ModelError(f"A {data.get('model_type')!r} model is not a LLaMA.")
    if data.get("attention_bias") or data.get("mlp_bias"):
        raise ModelError("LLaMA models with attention or MLP biases are not supported.")
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
        context_length=data.get("max_position_embeddings", 2048),
        head_dim=data.get("head_dim") or 0,
        tied=bool(data.get("tie_word_embeddings", False)),
    )


def hf_name(name: str) -> str | None:
    """Our name of a Hugging Face tensor; None for one that is not a weight (rotary buffers)."""
    stem, _, kind = name.rpartition(".")
    if kind != "weight":
        if "rotary_emb" in name:
            return None
        raise ModelError(f"The folder holds a tensor that no LLaMA has: {name}.")
    if stem in _HF_TOP:
        return f"{_HF_TOP[stem]}.weight"
    if stem.startswith("model.layers."):
        number, _, rest = stem.removeprefix("model.layers.").partition(".")
        if rest in _HF_LAYER:
            return f"layers.{number}.{_HF_LAYER[rest]}.weight"
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
            raise ModelError(f"{file} is missing.")
    return files


def _with(config: LlamaConfig, *, tied: bool) -> LlamaConfig:
    from dataclasses import replace

    return replace(config, tied=tied)
