"""Decoder weights from files: one module a format, all mapped to our names.

Every loader accounts for all tensors: one missing, unexpected or of the wrong shape is a
`ModelError` that names it, never a silently half-initialised model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anybind.core_model.checkpoints.assemble import assemble, check_sizes
from anybind.core_model.checkpoints.gguf import (
    gguf_fields,
    read_gguf,
    read_gguf_fields,
    read_gguf_file,
    read_gguf_with_fields,
)
from anybind.core_model.checkpoints.hf import hf_config, hf_name, read_hf
from anybind.core_model.checkpoints.meta import meta_config, read_meta
from anybind.core_model.checkpoints.report import LoadReport, UnfitError, compare
from anybind.core_model.identity import identity
from anybind.core_model.llama import Llama
from anybind.errors import ModelError

__all__ = [
    "LoadReport", "UnfitError", "assemble", "check_sizes", "compare", "gguf_fields", "hf_config",
    "hf_name", "load_decoder", "load_with_fields", "meta_config", "read_gguf", "read_gguf_fields", "read_gguf_file",
    "read_gguf_with_fields", "read_hf", "read_meta",
]  # fmt: skip


def load_decoder(
    path: Path, *, dtype: torch.dtype | None = torch.float32, context_length: int | None = None
) -> tuple[Llama, LoadReport]:
    """A decoder from a `.gguf` file, a Hugging Face folder, or a converted Meta checkpoint.

    Args:
        path: File or folder.
        dtype: float32, bfloat16 or float16; None keeps what the file has.
        context_length: Positions, if not what the file says.

    Raises:
        ModelError: not a LLaMA, or the tensors don't account for it (`UnfitError`).
    """
    return load_with_fields(path, dtype=dtype, context_length=context_length)[:2]


def load_with_fields(
    path: Path, *, dtype: torch.dtype | None = torch.float32, context_length: int | None = None
) -> tuple[Llama, LoadReport, dict[str, Any]]:
    """As `load_decoder`, and the metadata of a GGUF ({} for others), read once."""
    exact, fields = True, {}
    if path.is_dir():
        if not (path / "config.json").exists() and (path / "params.json").exists():
            raise ModelError(
                f"{path} is a folder of Meta's. Convert it once with: "
                f"anybind convert llama-meta {path} TARGET.safetensors"
            )
        config, state, ignored = read_hf(path)
    elif path.suffix == ".gguf":
        file = read_gguf_file(path, dtype=dtype)
        config, state, ignored, exact = file.config, file.state, file.ignored, file.exact
        fields = file.fields
    elif path.suffix == ".safetensors":
        config, state, ignored = read_meta(path)
    else:
        raise ModelError(
            f"{path.name}: give a .gguf file, a Hugging Face model folder, or a .safetensors "
            "file that the converter llama-meta wrote."
        )
    if context_length is not None:
        config = replace(config, context_length=context_length)
    mark = identity(state, exact=exact)
    made = assemble(config, state, ignored, dtype=dtype, name=path.name, identity=mark)
    return (*made, fields)
