"""Whisper from one safetensors file: the module of openai-whisper, our loading.

Knows the file that `anybind.core_model.convert.whisper_ct2` writes. Does not know what the model is
used for: speech-to-text runs all of it, the encoder of sound events only its audio half.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from anybind.errors import ModelError
from anybind.optional import require

if TYPE_CHECKING:
    from whisper.model import ModelDimensions, Whisper

FORMAT = "anybind-whisper-1"
"""`format` in the metadata of the file; others are refused."""

_LIMIT = 1 << 20
"""No dimension of a Whisper model comes near this; a larger one is a broken file."""


def dimensions(metadata: Mapping[str, str] | None, name: str) -> ModelDimensions:
    """`ModelDimensions` from the metadata of the safetensors file `name`.

    Raises:
        ModelError: the metadata is not that of a converted Whisper file.
        MissingExtra: openai-whisper is not installed.
    """
    model = require("whisper.model", "speech")
    metadata = metadata or {}
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{name}: format is {metadata.get('format')!r}, expected {FORMAT!r}")
    try:
        dims = json.loads(metadata.get("dims", ""))
    except json.JSONDecodeError as error:
        raise ModelError(f"{name}: dims in the metadata are not JSON") from error
    wanted = {field.name for field in fields(model.ModelDimensions)}
    if not isinstance(dims, dict) or set(dims) != wanted:
        raise ModelError(f"{name}: dims must hold exactly {sorted(wanted)}")
    if not all(isinstance(value, int) and 0 < value < _LIMIT for value in dims.values()):
        raise ModelError(f"{name}: dims must be positive whole numbers below {_LIMIT}")
    return model.ModelDimensions(**dims)


def _check_sizes(dims: ModelDimensions, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Refuse dims that the tensors do not bear out, before a model of that size is built."""
    wanted = {
        "encoder.conv1.weight": (dims.n_audio_state, dims.n_mels, 3),
        "encoder.positional_embedding": (dims.n_audio_ctx, dims.n_audio_state),
        "decoder.token_embedding.weight": (dims.n_vocab, dims.n_text_state),
        "decoder.positional_embedding": (dims.n_text_ctx, dims.n_text_state),
    }
    wrong = [key for key, shape in wanted.items() if shapes.get(key) != shape]
    for room, layers in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        if f"{room}.blocks.{layers - 1}.mlp_ln.weight" not in shapes:
            wrong.append(f"{room}.blocks")
    if wrong:
        raise ModelError(f"{name}: tensors do not fit the dims: {', '.join(wrong)}")


def load_whisper(path: Path) -> Whisper:
    """The model in float32 on the CPU, in eval mode, gradients off. Loading is strict.

    Raises:
        ModelError: not a converted Whisper file, or its tensors do not fit its dims.
        MissingExtra: openai-whisper is not installed.
    """
    from safetensors import SafetensorError, safe_open

    model_type = require("whisper.model", "speech").Whisper
    try:
        with safe_open(str(path), framework="pt") as file:
            dims = dimensions(file.metadata(), path.name)
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} is not a readable safetensors file: {error}") from error
    _check_sizes(dims, {name: tuple(tensor.shape) for name, tensor in state.items()}, path.name)
    model = model_type(dims)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{path.name}: tensors do not fit the dims: {error}") from error
    return model.eval().requires_grad_(False)
