"""Decoders from GGUF files of architecture `llama`, any quantisation that the `gguf` package knows.

Tensors are dequantised one by one out of a memory map, straight into the type that is wanted.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anybind.core_model.checkpoints.gguf_header import TensorInfo, open_map, read_header
from anybind.core_model.llama import LINEARS, LlamaConfig
from anybind.errors import ModelError

_LAYER = {
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
_TOP = {"token_embd": "tok_embeddings", "output_norm": "norm", "output": "output"}
_ROPE = "rope_freqs.weight"
_EXACT = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""GGML type numbers of tensors that are not quantised."""


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF holds, in our terms."""

    config: LlamaConfig
    state: dict[str, Tensor]
    ignored: tuple[str, ...]
    fields: dict[str, Any]
    exact: bool
    """Every matrix is stored as trained (F32, F16, BF16), not quantised."""


@dataclass(frozen=True)
class OpenGguf:
    """A GGUF of which header and rotary factors were read, and no weights yet."""

    path: Path
    data: mmap.mmap
    fields: dict[str, Any]
    tensors: dict[str, TensorInfo]
    """By our names."""
    config: LlamaConfig
    ignored: tuple[str, ...]

    def read(self, name: str, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """One tensor by our name, dequantised.

        Raises:
            ModelError: it does not lie in the file, or can't be read.
        """
        with _told(self.path):
            return _read(self.data, self.tensors[name], dtype)


def open_gguf(path: Path) -> OpenGguf:
    """Read what a GGUF says of itself.

    Raises:
        ModelError: damaged, another architecture, or a setting that is not supported.
    """
    tensors: dict[str, TensorInfo] = {}
    ignored: list[str] = []
    with _told(path):
        data = open_map(path)
        fields, infos = read_header(data)
        config = _config(fields)
        for info in infos:
            name = _name(info.name)
            if name is not None:
                tensors[name] = info
                continue
            factors = _read(data, info, torch.float32).flatten().tolist()
            if all(f == 1.0 for f in factors):
                ignored.append(info.name)
            elif all(math.isfinite(f) and f > 0 for f in factors):
                config = replace(config, rope_factors=tuple(factors))
            else:
                raise ModelError(f"{info.name} holds factors that are no positive numbers")
        # Llama 3 files say so only by the factors; other kinds of scaling have none.
        scaling = fields.get("llama.rope.scaling.type", "none")
        if scaling != "none":
            raise ModelError(f"it uses the rotary scaling {scaling!r}, which is not supported")
    biases = tuple(n for n in LINEARS if any(name.endswith(f".{n}.bias") for name in tensors))
    config = replace(config, tied="output.weight" not in tensors, biases=biases)
    return OpenGguf(path, data, fields, tensors, config, tuple(ignored))


def read_gguf(
    path: Path, *, dtype: torch.dtype | None = torch.float32
) -> tuple[LlamaConfig, dict[str, Tensor], tuple[str, ...]]:
    """Config, tensors (dequantised, our names) and ignored names of a GGUF of arch `llama`."""
    return read_gguf_with_fields(path, dtype=dtype)[:3]


def read_gguf_with_fields(
    path: Path, *, dtype: torch.dtype | None = torch.float32
) -> tuple[LlamaConfig, dict[str, Tensor], tuple[str, ...], dict[str, Any]]:
    """As `read_gguf`, and the metadata (tokenizer and all), so that the file is read once."""
    file = read_gguf_file(path, dtype=dtype)
    return file.config, file.state, file.ignored, file.fields


def read_gguf_file(path: Path, *, dtype: torch.dtype | None = torch.float32) -> GgufFile:
    """All that a GGUF says.

    Raises:
        ModelError: damaged, another architecture, or a setting that is not supported.
    """
    file = open_gguf(path)
    state = {name: file.read(name, dtype) for name in file.tensors}
    exact = all(info.kind in _EXACT for info in file.tensors.values())
    return GgufFile(file.config, state, file.ignored, file.fields, exact)


def read_gguf_fields(path: Path) -> dict[str, Any]:
    """The metadata alone.

    Raises:
        ModelError: it can't be read.
    """
    try:
        return read_header(open_map(path))[0]
    except (ModelError, OSError, ValueError) as error:
        raise ModelError(f"{path.name} can't be read as GGUF: {error}") from error


def gguf_fields(reader: Any) -> dict[str, Any]:
    """The metadata of a `gguf.GGUFReader` as plain Python values."""
    return {name: field.contents() for name, field in reader.fields.items()}


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Whatever a damaged file makes go wrong becomes one error that names the file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path.name} can't be read as GGUF: {error}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{path.name} can't be read as GGUF: {error!r}") from error


def _read(data: mmap.mmap, info: TensorInfo, dtype: torch.dtype | None) -> Tensor:
    """One tensor, dequantised; a copy, for the map is read-only."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        kind = GGMLQuantizationType(info.kind)
        block, size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise ModelError(f"{info.name} has the unknown type {info.kind}") from None
    count = math.prod(info.shape)
    if not count or info.shape[-1] % block:
        raise ModelError(f"{info.name} has the shape {info.shape}, which its type can't have")
    length = count // block * size
    if info.offset + length > len(data):
        raise ModelError(f"{info.name} lies outside the file")
    if info.kind in _EXACT:
        raw = np.frombuffer(data, np.uint8, length, info.offset).copy()
        plain = torch.from_numpy(raw).view(_EXACT[info.kind]).view(info.shape)
        return plain if dtype is None else plain.to(dtype)
    rows = np.frombuffer(data, np.uint8, length, info.offset)
    rows = rows.reshape(*info.shape[:-1], info.shape[-1] // block * size)
    try:
        array = dequantize(rows, kind)
    except NotImplementedError:
        raise ModelError(f"{info.name} is quantised as {kind.name}, which can't be read") from None
    made = torch.from_numpy(np.require(array, np.float32, ["C", "W", "O"])).view(info.shape)
    return made if dtype is None else made.to(dtype)


def _config(fields: Mapping[str, Any]) -> LlamaConfig:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise ModelError(f"it holds a {architecture!r} model; only 'llama' is supported")
    heads = int(fields["llama.attention.head_count"])
    dim = int(fields["llama.embedding_length"])
    if heads <= 0:
        raise ModelError(f"it has {heads} attention heads")
    head_dim = int(fields.get("llama.attention.key_length", dim // heads))
    for name in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if int(fields.get(name, head_dim)) != head_dim:
            raise ModelError(f"{name} is {fields[name]}, but the heads are {head_dim} wide")
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        dim=dim,
        n_layers=int(fields["llama.block_count"]),
        n_heads=heads,
        n_kv_heads=int(fields.get("llama.attention.head_count_kv", heads)),
        ffn_dim=int(fields["llama.feed_forward_length"]),
        norm_eps=float(fields["llama.attention.layer_norm_rms_epsilon"]),
        rope_theta=float(fields.get("llama.rope.freq_base", 10_000.0)),
        rope_layout="interleaved",  # llama.cpp's converter permutes q and k to Meta's order
        context_length=int(fields["llama.context_length"]),
        head_dim=head_dim,
    )


def _name(name: str) -> str | None:
    """Our name of a GGUF tensor; None for the rotary factors."""
    if name == _ROPE:
        return None
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and stem in _TOP:
        return f"{_TOP[stem]}.weight"
    block, number, rest = (*stem.split(".", 2), "", "")[:3]
    if block == "blk" and rest in _LAYER and number.isdigit():
        ours = _LAYER[rest]
        if kind == "weight" or (kind == "bias" and not ours.endswith("norm")):
            return f"layers.{int(number)}.{ours}.{kind}"
    raise ModelError(f"it holds a tensor that no LLaMA has: {name}")
