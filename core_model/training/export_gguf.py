"""GGUF for llama.cpp and its relatives: low-rank updates as a LoRA, a condition as a control vector.

A control vector is added to the stream at the end of block l, for l from 1 to L-1, at every token.
Our `residual` injection enters at the input of layer l+1, which is the same place; so it can be said
exactly where layers 0 and 1 get nothing (`first_layer` of 2 or more). One control vector is one
condition. Knows the names of both formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.core_model.bind import BindNetwork
from anybind.core_model.checkpoints.tensors import read_safetensors
from anybind.core_model.rope_rows import relaid_all
from anybind.core_model.training.export import Exported, Trained, base_path, read_sizes
from anybind.errors import UserError
from anybind.optional import require

LORA = "lora.gguf"
_PARTS = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}


def export_gguf(
    trained: Trained, out: Path, *, decoder: Path | None, condition: Path | None
) -> Exported:
    """Write what llama.cpp can take beside its base; arguments as for `export`.

    Raises:
        UserError: the run holds what neither form can say.
    """
    a, done = trained.adapter, Exported()
    if rest := [n for n in a.decoder if not n.endswith(("lora_a", "lora_b"))]:
        raise UserError(
            f"The run tuned norms or biases ({rest[0]} ...), which a GGUF LoRA can't hold. Use "
            "`--as merged`, and llama.cpp's own converter on that folder."
        )
    vectors: list[NDArray[np.float32]] = []
    if condition is not None:
        vectors = [directions(a.bind, row) for row in read_condition(condition)]
    elif not a.rank:
        raise UserError(
            "A control vector is one condition: give --condition EMBEDDINGS.safetensors "
            "(anybind embed FILE --out EMBEDDINGS.safetensors)."
        )
    out.mkdir(parents=True, exist_ok=True)
    if a.rank:
        write_lora(trained, out / LORA, decoder)
        done.files.append(out / LORA)
    for i, vector in enumerate(vectors):
        path = out / f"control-{i}.gguf"
        write_control(vector, path)
        done.files.append(path)
    if not vectors:
        done.notes.append("No --condition, so no control vector: the LoRA alone is of no picture.")
    return done


def read_condition(path: Path) -> Tensor:
    """Embeddings [N, C] of a file (`embeddings`, or its only tensor).

    Raises:
        UserError: it holds none.
        ModelError: it can't be read.
    """
    tensors = read_safetensors(path)[0]
    found = tensors.get("embeddings", next(iter(tensors.values())) if len(tensors) == 1 else None)
    if found is None or found.dim() not in (1, 2):
        raise UserError(f"{path} holds no `embeddings` [N, C].")
    return found.float().reshape(-1, found.shape[-1])


@torch.no_grad()
def directions(bind: BindNetwork, feature: Tensor) -> NDArray[np.float32]:
    """What is added at the end of blocks 0 to L-1 under a condition [C]: [L, dim].

    Raises:
        UserError: a control vector can't say it.
    """
    c = bind.config
    if c.injection != "residual":
        raise UserError(
            "The bind network injects by `attention_output`, which a control vector can't say; "
            "train with injection residual and first_layer 2 for llama.cpp."
        )
    if c.first_layer < 2:
        raise UserError(
            f"The bind network injects from layer {c.first_layer} on; a control vector begins at the "
            "input of layer 2. Train with first_layer 2 for llama.cpp."
        )
    if feature.shape[-1] != c.joint_dim:
        raise UserError(f"The condition has {feature.shape[-1]} numbers, not {c.joint_dim}.")
    inject = bind(feature.reshape(1, -1).float())[0]
    ends = torch.zeros_like(inject)
    ends[:-1] = inject[1:]
    return ends.float().numpy()


def write_control(ends: NDArray[np.float32], path: Path) -> None:
    """Write a control vector; `ends` [L, dim] as `directions` gives them."""
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(ends) - 1)
    for layer in range(1, len(ends)):
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(ends[layer]))
    _finish(writer)


def write_lora(trained: Trained, path: Path, decoder: Path | None) -> None:
    """Write the low-rank updates as a GGUF LoRA, rows of wq and wk in GGUF's order."""
    a = trained.adapter
    config = read_sizes(trained, base_path(trained.about, decoder))
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # The engine scales by alpha / rank; ours are not scaled.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(a.rank))
    for name, tensor in relaid_all(config, a.decoder, a.layout, "interleaved").items():
        stem, _, half = name.rpartition(".")
        _, number, part = stem.split(".", 2)
        array = tensor.float().contiguous().numpy()
        writer.add_tensor(f"blk.{number}.{_PARTS[part]}.weight.{half}", array)
    _finish(writer)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf() -> Any:
    return require("gguf", "model")
