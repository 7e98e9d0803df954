"""ImageBind-LLM's adapter checkpoints into one safetensors file, under the released names.

Takes `7B.pth`, `7B-pretrained.pth` (also with the early prefix `llma.`), `7B-beta.pth`, and the full
checkpoints that the training script writes, of which only the adapter is kept. The metadata says
what it is, which file it comes from, what was left out and, where the base lies in the same file,
the identity of the base.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.adapter_names import is_base, modern
from anybind.core_model.adapters import FORMAT, Adapter, adapter_from_state
from anybind.core_model.convert.pickles import load_pickle, tensors_of
from anybind.core_model.convert.writing import write_safetensors
from anybind.core_model.identity import identity
from anybind.errors import ModelError
from anybind.weights import sha256_of

_MOST_IGNORED = 200
"""Names listed in the metadata; a full checkpoint has thousands."""


@dataclass(frozen=True)
class Found:
    """The adapter part of a checkpoint, and what lay beside it."""

    state: dict[str, Tensor]
    """Released names."""
    ignored: tuple[str, ...]
    base: str
    """Identity of the base in the same file; "" if there is none."""


def convert(source: Path, target: Path) -> None:
    """Write `target`.

    Raises:
        ModelError: no such checkpoint, or a tensor is missing, unknown or of the wrong shape.
    """
    found = read(source)
    adapter = adapter_from_state(found.state, source.name, found.ignored)
    about = describe(adapter) | {"source": source.name, "source_sha256": sha256_of(source)}
    about["ignored"] = len(found.ignored)
    metadata = {
        "format": FORMAT,
        "adapter": json.dumps(about),
        "ignored": json.dumps(found.ignored[:_MOST_IGNORED]),
        "base_identity": found.base,
    }
    write_safetensors(target, found.state, metadata)


def read(source: Path) -> Found:
    """The adapter in a `.pth` file; tensors stay where they lie.

    Raises:
        ModelError: it holds no such thing.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):  # `args` of the training script
        holder: Any = load_pickle(source)
    if not isinstance(holder, dict):
        raise ModelError(f"{source.name} holds {type(holder).__name__}, not a checkpoint.")
    state = {
        modern(n): t for n, t in tensors_of(source, holder.get("model", holder)).items()
    }  # fmt: skip
    if "prefix_query.weight" not in state and "image_bind_proj.weight" not in state:
        raise ModelError(
            f"{source.name} holds no adapter of ImageBind-LLM (no prefix_query, no image_bind_proj)."
        )
    base = {
        n.removeprefix("llama."): t
        for n, t in state.items()
        if n.startswith("llama.") and is_base(n)
    }
    return Found(
        state={n: t for n, t in state.items() if not is_base(n)},
        ignored=tuple(n for n in state if is_base(n)),
        base=identity(base) if base else "",
    )


def describe(adapter: Adapter) -> dict[str, Any]:
    """Kind, stage and sizes; which base the releases of this kind were trained on, if known."""
    c = adapter.bind.config
    about: dict[str, Any] = {
        "kind": "imagebind-llm",
        "stage": "full" if adapter.rank or adapter.biases else "bind",
        "bridge": c.norm,
        "joint_dim": c.joint_dim,
        "model_dim": c.model_dim,
        "layers": c.n_layers,
        "rank": adapter.rank,
    }
    if (c.model_dim, c.n_layers) == (4096, 32) and about["stage"] == "full":
        about["base"] = "LLaMA-7B" if c.norm == "layer" else "Open-Chinese-LLaMA-7B"
    return about
