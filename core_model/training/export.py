"""What comes out of a run, for others: adapter, bind network, Hugging Face and peft folders.

Knows names and layouts of weights. GGUF is in `export_gguf.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.adapters import Adapter, save_bind, write_released
from anybind.core_model.checkpoints import load_with_fields
from anybind.core_model.identity import identity, same
from anybind.core_model.llama import ATTENTION_LINEARS, FFN_LINEARS, LlamaConfig
from anybind.core_model.rope_rows import relaid_all
from anybind.core_model.training.state import About, about, checkpoint_of, read_adapter
from anybind.errors import MissingWeights, ModelError, UserError

KINDS = ("adapter", "bind", "hf", "gguf", "merged")
HF = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
"""Our names of the parts of a layer, and Hugging Face's."""
_TOP = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
              "merges.txt", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")  # fmt: skip


@dataclass
class Exported:
    """What was written, and what a person should know of it."""

    files: list[Path] = field(default_factory=list[Path])
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds."""

    adapter: Adapter
    about: About
    checkpoint: Path

    @property
    def record(self) -> dict[str, Any]:
        """What is written into the header of what is exported."""
        a = self.about
        return {
            "stage": a.stage, "checkpoint": self.checkpoint.name, "seed": a.seed, "space": a.space,
            "chat": a.chat, "config": asdict(a.bind), "source": f"{a.stage} {self.checkpoint.name}",
        }  # fmt: skip


def read_trained(path: Path) -> Trained:
    """The checkpoint at a path, or the last one of a run.

    Raises:
        UserError: there is none.
        ModelError: it is damaged.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no run and no checkpoint.")
    checkpoint = checkpoint_of(path)
    return Trained(read_adapter(checkpoint), about(checkpoint), checkpoint)


def export(
    path: Path, kind: str, out: Path, *, decoder: Path | None = None, condition: Path | None = None
) -> Exported:
    """Write what a run trained in the form `kind` (one of `KINDS`).

    Args:
        path: A run, or a checkpoint.
        kind: "adapter" and "bind" write a file, the others a folder.
        out: Where.
        decoder: Of the base, if it does not lie where it lay in training.
        condition: For "gguf": embeddings [N, C] as `anybind embed --out` writes them; each becomes
            a control vector.

    Raises:
        UserError: the target exists, or the kind can't hold what was trained; says which can.
        ModelError: the decoder is another one.
    """
    if kind not in KINDS:
        raise UserError(f"--as is one of {', '.join(KINDS)}, not {kind!r}.")
    trained = read_trained(path)
    file = kind in ("adapter", "bind")
    if file and out.suffix != ".safetensors":
        raise UserError(f"An exported {kind} is a .safetensors file, not {out.name}.")
    if out.exists():
        raise UserError(f"{out} is there already; give another --out.")
    if kind == "gguf":
        from anybind.core_model.training.export_gguf import export_gguf

        return export_gguf(trained, out, decoder=decoder, condition=condition)
    (out.parent if file else out).mkdir(parents=True, exist_ok=True)
    if kind == "adapter":
        return _adapter(trained, out, decoder)
    if kind == "bind":
        return _bind(trained, out)
    return _peft(trained, out, decoder) if kind == "hf" else _merged(trained, out, decoder)


# ---------------------------------------------------------------- our own forms


def _adapter(trained: Trained, out: Path, decoder: Path | None) -> Exported:
    a = trained.adapter
    tuned = dict(a.decoder)
    if a.layout != "interleaved" and a.decoder:
        config = read_sizes(trained, base_path(trained.about, decoder))
        tuned = relaid_all(config, tuned, a.layout, "interleaved")
    write_released(a.bind, tuned, out, about=trained.record, base=a.base)
    return Exported([out])


def _bind(trained: Trained, out: Path) -> Exported:
    a = trained.adapter
    save_bind(a.bind, out, trained.record, base=a.base, tuned=a.decoder, layout=a.layout)
    done = Exported([out])
    if a.decoder:
        done.notes.append("The file holds what the run tuned of the decoder, too.")
    return done


# ---------------------------------------------------------------- Hugging Face


def _peft(trained: Trained, out: Path, decoder: Path | None) -> Exported:
    """Low-rank updates as peft lays them out; the rest of the adapter beside them."""
    from safetensors.torch import save_file

    a = trained.adapter
    if not a.rank:
        raise UserError("The run has no low-rank updates; `--as merged` or `--as bind` holds it.")
    base = base_path(trained.about, decoder)
    config = read_sizes(trained, base)
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in relaid_all(config, a.decoder, a.layout, "half").items():
        stem, _, half = name.rpartition(".")
        if half in ("lora_a", "lora_b"):
            letter = half[-1].upper()
            tensors[f"base_model.model.{_hf_stem(stem)}.lora_{letter}.weight"] = tensor
        else:
            rest[hf_tensor(name)] = tensor
    done = Exported()
    save_file(_plain(tensors), out / "adapter_model.safetensors", {"format": "pt"})
    on = [HF[_part(n)].rpartition(".")[2] for n in a.lora_on]
    table = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": a.rank, "lora_alpha": a.rank,
        "lora_dropout": 0.0, "target_modules": on, "bias": "none", "inference_mode": True,
        "base_model_name_or_path": str(base), "fan_in_fan_out": False,
    }  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(table, indent=2), "utf-8")
    done.files += [out / "adapter_model.safetensors", out / "adapter_config.json"]
    if rest:
        save_file(_plain(rest), out / "tuned.safetensors", {"format": "pt"})
        done.files.append(out / "tuned.safetensors")
        done.notes.append(
            "peft has no place for tuned norms and biases: tuned.safetensors holds them under "
            "Hugging Face's names. `--as merged` writes a folder that has everything."
        )
    save_bind(a.bind, out / "bind.safetensors", trained.record, base=a.base)
    done.files.append(out / "bind.safetensors")
    return done


@torch.no_grad()
def _merged(trained: Trained, out: Path, decoder: Path | None) -> Exported:
    """The decoder as a Hugging Face folder, with all that was trained in its weights."""
    from safetensors.torch import save_file

    a = trained.adapter
    base = base_path(trained.about, decoder)
    config, state, fields = _base(trained, base)
    merged = merge(state, relaid_all(config, a.decoder, a.layout, config.rope_layout))
    if config.rope_factors:
        raise ModelError(
            "The rotary factors of this GGUF can't be written into a Hugging Face folder; train "
            "from the model's own folder to export it so."
        )
    biases = {n.split(".")[-2] for n in merged if n.endswith(".bias")}
    whole = {f: any(n in biases for n in part) for f, part in _BIASED.items()}
    halves = relaid_all(config, merged, config.rope_layout, "half")
    named = {hf_tensor(n): t for n, t in halves.items()}
    for flag, part in _BIASED.items():
        for i in range(config.n_layers if whole[flag] else 0):
            for linear in part:  # Hugging Face has a bias on all of them or on none
                name = f"model.layers.{i}.{HF[_part(linear)]}"
                rows = named[f"{name}.weight"].shape[0]
                named.setdefault(f"{name}.bias", named[f"{name}.weight"].new_zeros(rows))
    if config.tied:
        named.pop("lm_head.weight", None)
    save_file(_plain(named), out / "model.safetensors", {"format": "pt"})
    dtype = str(named["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    (out / "config.json").write_text(json.dumps(_hf_config(config, whole, dtype, fields, base), indent=2), "utf-8")  # fmt: skip
    done = Exported([out / "model.safetensors", out / "config.json"])
    _copy_tokenizer(Path(trained.about.tokenizer) if trained.about.tokenizer else base, out, done)
    if a.bind.config.injection == "attention_output" and "wv" in a.lora_on:
        done.notes.append(
            "No bind network is written: the condition passes the value projection as it was before "
            "its update, which a merged decoder has no more. Use `--as adapter` for pictures."
        )
    else:
        save_bind(a.bind, out / "bind.safetensors", trained.record, base=identity(merged))
        done.files.append(out / "bind.safetensors")
    return done


_BIASED = {"attention_bias": ATTENTION_LINEARS, "mlp_bias": FFN_LINEARS}


def merge(state: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base's tensors with updates taken in (W + B A, summed in float32), biases and norms set."""
    out = dict(state)
    for name, tensor in tuned.items():
        stem, _, half = name.rpartition(".")
        if half == "lora_a":
            weight = out[f"{stem}.weight"]
            update = tuned[f"{stem}.lora_b"].float() @ tensor.float()
            out[f"{stem}.weight"] = (weight.float() + update).to(weight.dtype)
        elif half != "lora_b":
            out[name] = tensor.to(out["tok_embeddings.weight"].dtype)
    return out


def base_path(known: About, given: Path | None) -> Path:
    """Where the decoder lies.

    Raises:
        MissingWeights: nowhere that is known.
    """
    path = given or Path(known.decoder)
    if not path.exists():
        raise MissingWeights(f"The decoder is not at {path}; name it with --decoder.")
    return path


def read_sizes(trained: Trained, path: Path) -> LlamaConfig:
    """Sizes of the base; its tensors are mapped, not read."""
    return _base(trained, path)[0]


def _base(trained: Trained, path: Path) -> tuple[LlamaConfig, dict[str, Tensor], dict[str, Any]]:
    """Sizes, tensors (ours, in the types they are stored in) and GGUF metadata of the base.

    Raises:
        ModelError: it is another one than that trained on.
    """
    dtype = torch.float32 if path.suffix == ".gguf" else None  # parts of a GGUF differ
    decoder, report, fields = load_with_fields(path, dtype=dtype)
    if same(trained.about.base, report.identity) is False:
        raise ModelError(f"{path} holds other weights than those that the run was trained on.")
    return decoder.config, decoder.state_dict(), fields


def hf_tensor(name: str) -> str:
    """Hugging Face's name of one of our tensors."""
    stem, _, kind = name.rpartition(".")
    return f"{_hf_stem(stem)}.{kind}"


def _hf_stem(stem: str) -> str:
    if stem in _TOP:
        return _TOP[stem]
    _, number, part = stem.split(".", 2)
    return f"model.layers.{number}.{HF[part]}"


def _part(linear: str) -> str:
    return f"{'attention' if linear in ATTENTION_LINEARS else 'feed_forward'}.{linear}"


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().contiguous() for n, t in tensors.items()}


def _hf_config(
    config: LlamaConfig, biased: Mapping[str, bool], dtype: str, fields: Mapping[str, Any], base: Path
) -> dict[str, Any]:  # fmt: skip
    rope: dict[str, Any] = {"rope_type": "default"}
    if (s := config.rope_scaling) is not None:
        rope = {
            "rope_type": "llama3", "factor": s.factor, "low_freq_factor": s.low_freq_factor,
            "high_freq_factor": s.high_freq_factor,
            "original_max_position_embeddings": s.original_context,
        }  # fmt: skip
    table: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": config.vocab_size, "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads, "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim, "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.context_length, "rope_theta": config.rope_theta,
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
        "tie_word_embeddings": config.tied, "torch_dtype": dtype, **biased,
    }  # fmt: skip
    for ours, key in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        if f"tokenizer.ggml.{ours}" in fields:
            table[ours] = int(fields[f"tokenizer.ggml.{ours}"])
        elif (base / "config.json").is_file():
            found = json.loads((base / "config.json").read_text("utf-8")).get(f"{key}_token_id")
            table |= {ours: found} if found is not None else {}
    return table


def _copy_tokenizer(source: Path, out: Path, done: Exported) -> None:
    """The tokenizer's files, as they are."""
    folder = source if source.is_dir() else source.parent
    found = [folder / n for n in _TOKENIZER if (folder / n).is_file()]
    if source.suffix == ".gguf" or not found:
        done.notes.append("No tokenizer is written: it does not lie with the base as files.")
        return
    for file in found:
        shutil.copyfile(file, out / file.name)
        done.files.append(out / file.name)
