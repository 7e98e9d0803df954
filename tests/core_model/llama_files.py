"""LLaMA and adapter files for tests: official names and shapes without the data, and tiny ones.

The manifests are written from what is published about the files, not from our model: a wrong name
or size in the model fails against them. Files without data hold one number a tensor, shown in
every place (stride 0).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Manifest = dict[str, tuple[int, ...]]

LLAMA_7B: dict[str, Any] = {
    "dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06,
    "vocab_size": -1,
}  # fmt: skip


def llama_7b() -> Manifest:
    """`consolidated.00.pth` of LLaMA-7B without rotary buffers: 291 tensors."""
    out: Manifest = {"tok_embeddings.weight": (32000, 4096), "norm.weight": (4096,)}
    out["output.weight"] = (32000, 4096)
    for i in range(32):
        for name in ("wq", "wk", "wv", "wo"):
            out[f"layers.{i}.attention.{name}.weight"] = (4096, 4096)
        out[f"layers.{i}.feed_forward.w1.weight"] = (11008, 4096)
        out[f"layers.{i}.feed_forward.w2.weight"] = (4096, 11008)
        out[f"layers.{i}.feed_forward.w3.weight"] = (11008, 4096)
        out[f"layers.{i}.attention_norm.weight"] = (4096,)
        out[f"layers.{i}.ffn_norm.weight"] = (4096,)
    return out


def bridge(*, legacy: bool = False) -> Manifest:
    """The bind network: 14 tensors, 26 with the legacy bridge."""
    out: Manifest = {"image_bind_proj.weight": (4096, 1024), "image_bind_proj.bias": (4096,)}
    for i in (1, 2, 3):
        out[f"image_bind_norm_{i}.weight"] = (4096,)
        for f, rows, columns in (("f1", 16384, 4096), ("f2", 4096, 16384), ("f3", 16384, 4096)):
            out[f"image_bind_{f}_{i}.weight"] = (rows, columns)
            if legacy:
                out[f"image_bind_{f}_{i}.bias"] = (rows,)
        if legacy:
            out[f"image_bind_norm_{i}.bias"] = (4096,)
    return out


def gates_and_queries() -> Manifest:
    out: Manifest = {"prefix_query.weight": (32, 4096)}
    return out | {f"llama.layers.{i}.attention.gate": (1, 32, 1, 1) for i in range(32)}


def norms() -> Manifest:
    out: Manifest = {"llama.norm.weight": (4096,)}
    for i in range(32):
        out[f"llama.layers.{i}.attention_norm.weight"] = (4096,)
        out[f"llama.layers.{i}.ffn_norm.weight"] = (4096,)
    return out


def tuning() -> Manifest:
    """LoRA and biases of the second stage."""
    out: Manifest = {}
    for i in range(32):
        attention, ffn = f"llama.layers.{i}.attention", f"llama.layers.{i}.feed_forward"
        for name in ("wq", "wo"):
            out[f"{attention}.{name}.bias"] = (4096,)
        for name in ("wq", "wk", "wv", "wo"):
            out[f"{attention}.lora_{name}_l1.weight"] = (16, 4096)
            out[f"{attention}.lora_{name}_l2.weight"] = (4096, 16)
        for name, rows, columns in (("w1", 11008, 4096), ("w2", 4096, 11008), ("w3", 11008, 4096)):
            out[f"{ffn}.{name}.bias"] = (rows,)
            out[f"{ffn}.lora_{name}_l1.weight"] = (16, columns)
            out[f"{ffn}.lora_{name}_l2.weight"] = (rows, 16)
    return out


def hollow(manifest: Manifest, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors of these shapes over one number each."""
    return {n: torch.full((1,) * len(s), 0.5, dtype=dtype).expand(s) for n, s in manifest.items()}


# ---------------------------------------------------------------- tiny files

PARAMS: dict[str, Any] = {
    "dim": 32, "multiple_of": 8, "n_heads": 4, "n_layers": 3, "norm_eps": 1e-5, "vocab_size": -1,
}  # fmt: skip


def tiny_base(seed: int = 0, vocab: int = 40, **changes: Any) -> dict[str, Tensor]:
    """A whole tiny LLaMA in Meta's naming, float16, with a rotary buffer."""
    p = PARAMS | changes
    dim, ffn = p["dim"], 88
    kv = dim // p["n_heads"] * p.get("n_kv_heads", p["n_heads"])
    shapes: Manifest = {"tok_embeddings.weight": (vocab, dim), "norm.weight": (dim,)}
    shapes["output.weight"] = (vocab, dim)
    for i in range(p["n_layers"]):
        for name, rows in (("wq", dim), ("wk", kv), ("wv", kv), ("wo", dim)):
            shapes[f"layers.{i}.attention.{name}.weight"] = (rows, dim)
        for name in ("w1", "w3"):
            shapes[f"layers.{i}.feed_forward.{name}.weight"] = (ffn, dim)
        shapes[f"layers.{i}.feed_forward.w2.weight"] = (dim, ffn)
        for name in ("attention_norm", "ffn_norm"):
            shapes[f"layers.{i}.{name}.weight"] = (dim,)
    rng = torch.Generator().manual_seed(seed)
    state = {n: (torch.randn(s, generator=rng) * 0.3).half() for n, s in shapes.items()}
    return state | {"rope.freqs": torch.ones(dim // p["n_heads"] // 2)}


BY_ROWS = ("wq", "wk", "wv", "w1", "w3", "output")
BY_COLUMNS = ("wo", "w2", "tok_embeddings")


def shards(
    state: dict[str, Tensor], count: int, *, llama3: bool = False
) -> list[dict[str, Tensor]]:
    """The state as model parallelism splits it."""
    out: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, tensor in state.items():
        kind = name.split(".")[-2]
        rows = kind in BY_ROWS or (llama3 and kind == "tok_embeddings")
        split = tensor.chunk(count, 0) if rows else None
        if not rows and kind in BY_COLUMNS:
            split = tensor.chunk(count, 1)
        for i in range(count):
            out[i][name] = (split[i] if split else tensor).clone()
    return out


def write_meta(
    folder: Path, parts: list[dict[str, Tensor]], params: dict[str, Any] | None = None
) -> Path:
    """A folder as Meta gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{i:02d}.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS if params is None else params))
    return folder
