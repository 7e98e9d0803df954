"""Factory of the language model: decoder file, tokenizer and bind network into one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anybind.contracts import Build, Profile
from anybind.core_model.adapters import load_bind
from anybind.core_model.bind import BindNetwork
from anybind.core_model.checkpoints import assemble, load_decoder, read_gguf_with_fields
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.tokenizer import Tokenizer, from_folder, from_gguf
from anybind.errors import ModelError


def build(build: Build) -> InjectedLanguageModel:
    """Weights: `decoder` (GGUF file or HF folder), `bind` (optional safetensors).

    Options: `name`, `chat` ("chatml" or "alpaca"), `space`.

    Raises:
        ModelError: the bind network was trained for a decoder of other sizes.
    """
    path = Path(build.weights["decoder"])
    decoder, tokenizer = _load(path)
    bind = load_bind(build.weights["bind"]).eval() if "bind" in build.weights else None
    if bind is not None:
        bind.requires_grad_(False)
        _check(bind, decoder.config.dim, decoder.config.n_layers, path.name)
    options: dict[str, Any] = dict(build.options)
    profile = Profile(
        name=options.get("name", path.stem),
        chat=options.get("chat", "chatml"),
        injection=bind.config.injection if bind is not None else "none",
        space=options.get("space", "") if bind is not None else "",
        context_length=decoder.config.context_length,
        grammar=True,
        batch=True,
    )
    return InjectedLanguageModel(decoder, tokenizer, bind, profile)


def _load(path: Path) -> tuple[Any, Tokenizer]:
    if path.is_dir():
        return load_decoder(path)[0], from_folder(path)
    config, state, ignored, fields = read_gguf_with_fields(path)
    return assemble(config, state, ignored)[0], from_gguf(fields)


def _check(bind: BindNetwork, dim: int, layers: int, name: str) -> None:
    c = bind.config
    if (c.model_dim, c.n_layers) != (dim, layers):
        raise ModelError(
            f"The bind network is for a decoder of width {c.model_dim} with {c.n_layers} layers; "
            f"{name} has width {dim} and {layers} layers. Use the decoder it was trained with."
        )
