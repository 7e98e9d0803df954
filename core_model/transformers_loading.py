"""Reads a Hugging Face model folder through `transformers` and makes a language model of it.

Local folders and safetensors only: no hub, no code from the folder, no pickled weights. What is
inside the model is the business of `anybind.core_model.transformers_decoder`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anybind.contracts import Build, Profile
from anybind.core_model.adapters import base_identity, load_bind
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.chat_template import ChatTemplate
from anybind.core_model.identity import same
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.tokenizer import from_folder
from anybind.core_model.transformers_decoder import TransformersDecoder
from anybind.errors import ModelError, UserError
from anybind.optional import require

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OPTIONS = (
    "name", "space", "chat", "chat_options", "dtype", "context_length", "check_base", "joint_dim",
    "hidden_dim",
)  # fmt: skip
_BUFFERS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")


def build(build: Build) -> InjectedLanguageModel:
    """Weights: `decoder` (a Hugging Face folder), `bind` (optional safetensors).

    Options: `name`; `space`; `chat` (a layout of `anybind.core_model.prompts`, or "template", the
    folder's own, which is also taken if none is named); `chat_options` (variables for that
    template, such as `enable_thinking`); `dtype` ("float32", "bfloat16", "float16");
    `context_length` (to use less than the model knows); `check_base` (false: take a bind network
    that was trained with other weights of the same sizes); `joint_dim` and `hidden_dim` (an untrained
    bind network of these widths where there is none to load: its gates are 0, so that the model
    answers as it would alone until the network is trained).

    Raises:
        ModelError: the folder can't be a base, or the bind network belongs to another decoder.
        UserError: the options make no sense.
    """
    folder = Path(build.weights["decoder"])
    options: dict[str, Any] = dict(build.options)
    if odd := sorted(set(options) - set(_OPTIONS)):
        raise UserError(f"The model takes the options {', '.join(_OPTIONS)}, not {', '.join(odd)}.")
    name = str(options.get("name", folder.name))
    dtype = str(options.get("dtype", "float32"))
    if dtype not in _DTYPES:
        raise UserError(f"dtype is one of {', '.join(_DTYPES)}, not {dtype!r}.")
    decoder = load_decoder(folder, dtype=_DTYPES[dtype], device=build.device)
    tokenizer = from_folder(folder)
    if tokenizer.size > decoder.config.vocab_size:
        raise ModelError(
            f"The tokenizer of {folder.name} has {tokenizer.size} tokens, its decoder only "
            f"{decoder.config.vocab_size}."
        )
    bind = _bind(build, options, decoder, folder.name)
    chat = options.get("chat")
    template = ChatTemplate.from_folder(folder, tokenizer, dict(options.get("chat_options") or {}))
    if chat is None:
        chat = "template"
        if template is None:
            raise UserError(
                f"{folder.name} holds no chat template; name a layout in the bundle "
                f'("options": {{"chat": ...}}): {", ".join(LAYOUTS)}.'
            )
    if chat not in LAYOUTS and chat != "template":
        raise UserError(f"chat is 'template' or one of {', '.join(LAYOUTS)}, not {chat!r}.")
    if chat == "template" and template is None:
        raise UserError(f"{folder.name} holds no chat template (chat_template.jinja).")
    known = decoder.config.context_length
    limit = min(known, int(options.get("context_length", known)))
    if limit < 16:
        raise UserError(f"context_length is 16 or more, not {limit}.")
    decoder.config = replace(decoder.config, context_length=limit)
    profile = Profile(
        name=name,
        chat=chat,
        injection=bind.config.injection if bind is not None else "none",
        space=str(options.get("space", "")) if bind is not None else "",
        context_length=limit,
        grammar=True,
        batch=True,
    )
    layout = template if chat == "template" else None
    return InjectedLanguageModel(decoder, tokenizer, bind, profile, layout)


def load_decoder(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> TransformersDecoder:
    """A decoder from a Hugging Face folder.

    Raises:
        ModelError: no such folder, no safetensors, an architecture that transformers does not
            know by itself, tensors that don't account for it, or a structure that can't be a base.
    """
    library = require("transformers", "transformers")
    _check_folder(folder)
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = library.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        model, report = library.AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=_attention(config),
            output_loading_info=True,
        )
    except Exception as error:  # the library raises many kinds on folders that don't fit
        raise ModelError(f"{folder.name} can't be loaded by transformers: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    left = sorted(k for k in report["unexpected_keys"] if not k.endswith(_BUFFERS))
    missing = sorted(report["missing_keys"])
    wrong = sorted(str(k) for k in report["mismatched_keys"])
    if missing or left or wrong:
        raise ModelError(
            f"{folder.name} does not fit its config.json: missing {missing[:5]}, unexpected "
            f"{left[:5]}, of another shape {wrong[:5]}."
        )
    return TransformersDecoder(model.requires_grad_(False).to(device))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no Hugging Face model folder: it holds no config.json.")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder.name} holds no safetensors; pickled weights (.bin) are not read. Take a "
            "version of the model in safetensors."
        )
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = data["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: config.json can't be read: {error!r}") from error
    known = require("transformers", "transformers").CONFIG_MAPPING
    if kind not in known:
        raise ModelError(
            f"The installed transformers does not know {kind!r} models, and code from a model "
            "folder is never run. Update transformers, or take another base."
        )


def _attention(config: Any) -> str:
    """Fused attention, except where a model caps its attention logits, which that leaves out."""
    text = config.get_text_config(decoder=True)
    return "eager" if getattr(text, "attn_logit_softcapping", None) else "sdpa"


def _bind(
    build: Build, options: dict[str, Any], decoder: TransformersDecoder, name: str
) -> BindNetwork | None:
    c = decoder.config
    if "bind" in build.weights:
        bind = load_bind(build.weights["bind"])
    elif "joint_dim" in options:
        bind = untrained_bind(decoder, int(options["joint_dim"]), int(options.get("hidden_dim", 0)))
    else:
        return None
    b = bind.config
    if (b.model_dim, b.n_layers) != (c.dim, c.n_layers):
        raise ModelError(
            f"The bind network is for a decoder of width {b.model_dim} with {b.n_layers} layers; "
            f"{name} has width {c.dim} and {c.n_layers} layers. Use the decoder it was trained with."
        )
    decoder.check_site(b.injection)
    known = base_identity(Path(build.weights["bind"])) if "bind" in build.weights else ""
    if options.get("check_base", True) and same(known, decoder.identity) is False:
        raise ModelError(
            f"The bind network was trained with other weights than those of {name}. Use the "
            'decoder it was trained with, or set "check_base": false in the options of the model.'
        )
    bind.requires_grad_(False)
    return bind.eval()


def untrained_bind(
    decoder: TransformersDecoder, joint_dim: int, hidden_dim: int = 0
) -> BindNetwork:
    """A fresh `residual` bind network for a decoder; its gates are 0, so it changes nothing yet.

    `hidden_dim` 0 means four times the width of the decoder (paper 3.1).
    """
    if joint_dim < 1 or hidden_dim < 0:
        raise UserError("joint_dim is 1 or more, hidden_dim 0 or more.")
    c = decoder.config
    return BindNetwork(
        BindConfig(
            joint_dim=joint_dim,
            model_dim=c.dim,
            hidden_dim=hidden_dim or 4 * c.dim,
            n_layers=c.n_layers,
            input_scale=joint_dim**0.5,
        )
    )
