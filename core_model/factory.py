"""Factory of the language model: decoder, tokenizer and bind network or adapter into one.

The decoder is a GGUF file, a Hugging Face folder or a converted Meta checkpoint; the condition
comes through a bind network of ours or a released adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anybind.contracts import Build, Profile
from anybind.core_model import base_check
from anybind.core_model.adapters import base_identity, load_adapter, load_tuned, tuned_metadata
from anybind.core_model.bind import BindNetwork
from anybind.core_model.chat_template import ChatTemplate
from anybind.core_model.checkpoints import LoadReport, load_with_fields
from anybind.core_model.decoder import Decoder
from anybind.core_model.fast import with_precision
from anybind.core_model.identity import same
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.llama import Llama
from anybind.core_model.tokenizer import (
    SentencePieceTokenizer,
    Tokenizer,
    from_folder,
    from_gguf,
)
from anybind.errors import ModelError, UserError

PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": None,
    "int4": None,
}
"""Option `precision` -> type of the weights; None is as stored, then quantised."""
_QUANTISED = ("int8", "int4")


@dataclass(frozen=True)
class _Options:
    """The options of a bundle entry, checked."""

    name: str
    chat: str = "chatml"
    space: str = ""
    precision: str = "float32"
    merge: bool = False
    check_base: bool = True
    context_length: int | None = None


def build(build: Build) -> InjectedLanguageModel:
    """The language model of a bundle.

    Weights: `decoder` (GGUF file, HF folder, or what `llama-meta` wrote); `tokenizer` (a
    `tokenizer.model` or a folder; by default what lies with the decoder); `bind` (a bind network
    of ours, with what it tunes of the decoder if it does) or `adapter` (a released adapter that `imagebind-llm` converted).

    Options: `name`; `chat` (prompt layout, or "template", the folder's own); `space` (whose embeddings condition it); `precision`
    ("float32", "bfloat16", "float16", "int8", "int4"; the last two merge updates); `merge` (take
    the low-rank updates of the adapter into the weights); `check_base` (false: take an adapter
    for any base of its sizes); `context_length` (where the file doesn't say it, or to use less).

    Raises:
        ModelError: files don't fit together: sizes, names of tensors, vocabulary, or an adapter
            of another base.
        UserError: the options make no sense.
    """
    path = Path(build.weights["decoder"])
    options = _options(build, path)
    if _quantised_as_stored(path, build, options):
        from anybind.core_model.fast import from_gguf as quantised_from_gguf

        ready, fields = quantised_from_gguf(path, options.precision)
        tokenizer = tokenizer_of(build, path, fields)
        _check_vocabulary(tokenizer, ready, path)
        # A quantised base has no identity that could refuse a bind network, so none is made.
        bind = _bind(build, options, ready, "")
    else:
        ready, tokenizer, bind = _from_floats(build, options, path)
    profile = Profile(
        name=options.name,
        chat=options.chat,  # pyright: ignore[reportArgumentType]
        injection=bind.config.injection if bind is not None else "none",
        space=options.space if bind is not None else "",
        context_length=ready.config.context_length,
        grammar=True,
        batch=True,
    )
    return InjectedLanguageModel(ready, tokenizer, bind, profile, _layout(options, path, tokenizer))


def _layout(options: _Options, path: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The folder's own template, if the bundle asks for it."""
    if options.chat != "template":
        return None
    found = ChatTemplate.from_folder(path, tokenizer) if path.is_dir() else None
    if found is None:
        raise UserError(f"{path.name} holds no chat template; name a layout in the bundle.")
    return found


def _quantised_as_stored(path: Path, build: Build, options: _Options) -> bool:
    """Whether the blocks of a GGUF can be taken over without a float copy of the model."""
    return (
        path.suffix == ".gguf"
        and options.precision in _QUANTISED
        and "adapter" not in build.weights
        and not _tunes_decoder(build)
        and options.context_length is None
    )


def _from_floats(
    build: Build, options: _Options, path: Path
) -> tuple[Decoder, Tokenizer, BindNetwork | None]:
    """The decoder in floats, tuned by an adapter if there is one, then quantised if wished."""
    dtype = PRECISIONS[options.precision]
    if path.suffix == ".gguf" and dtype is None:
        dtype = torch.float32  # parts of one GGUF have different types
    decoder, report, fields = load_with_fields(
        path, dtype=dtype, context_length=options.context_length
    )
    decoder.to(build.device)
    tokenizer = tokenizer_of(build, path, fields)
    _check_vocabulary(tokenizer, decoder, path)
    bind = _condition(build, options, decoder, tokenizer, report)
    return with_precision(decoder, options.precision, build.device), tokenizer, bind


def _options(build: Build, path: Path) -> _Options:
    given: dict[str, Any] = dict(build.options)
    given.setdefault("name", path.stem)
    try:
        options = _Options(**given)
    except TypeError as error:
        raise UserError(
            f"The model takes the options {', '.join(_Options.__dataclass_fields__)}; "
            f"given: {', '.join(sorted(given))}."
        ) from error
    if options.precision not in PRECISIONS:
        raise UserError(f"precision is one of {', '.join(PRECISIONS)}, not {options.precision!r}.")
    if {"bind", "adapter"} <= set(build.weights):
        raise UserError("Give the model either a bind network or an adapter, not both.")
    return options


def tokenizer_of(build: Build, path: Path, fields: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a decoder at `path`: as given, or what lies with it (see `build`)."""
    given = build.weights.get("tokenizer")
    if given is not None:
        given = Path(given)
        if given.is_dir():
            return from_folder(given)
        return (
            from_folder(given.parent) if given.suffix == ".json" else SentencePieceTokenizer(given)
        )
    if path.is_dir():
        return from_folder(path)
    if path.suffix == ".gguf":
        return from_gguf(fields)
    for place in (path.parent, path.parent.parent):  # beside, or one level up as Meta has it
        if (place / "tokenizer.model").is_file():
            return SentencePieceTokenizer(place / "tokenizer.model")
    raise ModelError(
        f"There is no tokenizer.model beside {path} or one level up; put Meta's there, or name it "
        "in the bundle as the weights `tokenizer`."
    )


def _check_vocabulary(tokenizer: Tokenizer, decoder: Decoder, path: Path) -> None:
    rows = decoder.config.vocab_size
    exact = path.suffix == ".safetensors"  # Meta's models have no spare rows
    if tokenizer.size > rows or (exact and tokenizer.size != rows):
        raise ModelError(
            f"The tokenizer has {tokenizer.size} tokens, {path.name} {rows}: they don't belong "
            "together."
        )


def _condition(
    build: Build, options: _Options, decoder: Llama, tokenizer: Tokenizer, report: LoadReport
) -> BindNetwork | None:
    """What turns an embedding into a condition; an adapter tunes the decoder on the way."""
    if "adapter" in build.weights:
        adapter = load_adapter(Path(build.weights["adapter"]))
    else:
        bind = _bind(build, options, decoder, report.identity)
        if bind is None or not _tunes_decoder(build):
            return bind
        # `residual` has no heads, and its files may say 1.
        bind.config = replace(bind.config, n_heads=decoder.config.n_heads)
        adapter = replace(load_tuned(Path(build.weights["bind"])), bind=bind)
    base_check.attach(
        decoder, adapter, tokenizer, identity=report.identity,
        name=Path(build.weights["decoder"]).name,
        merge=options.merge or options.precision in _QUANTISED, check=options.check_base,
    )  # fmt: skip
    return adapter.bind.to(build.device)


def _bind(build: Build, options: _Options, decoder: Decoder, identity: str) -> BindNetwork | None:
    """Our bind network for a decoder of this identity ("" is unknown), if the bundle names one."""
    c, name = decoder.config, Path(build.weights["decoder"]).name
    if "bind" not in build.weights:
        return None
    path = Path(build.weights["bind"])
    bind = load_tuned(path).bind.eval().requires_grad_(False)
    b = bind.config
    if (b.model_dim, b.n_layers) != (c.dim, c.n_layers):
        raise ModelError(
            f"The bind network is for a decoder of width {b.model_dim} with {b.n_layers} layers; "
            f"{name} has width {c.dim} and {c.n_layers} layers. Use the decoder it was trained "
            "with."
        )
    if options.check_base and same(base_identity(path), identity) is False:
        raise ModelError(
            f"{path.name} was trained with other weights than those of {name}. Use the decoder it "
            'was trained with, or set "check_base": false in the options of the model.'
        )
    return bind.to(build.device)


def _tunes_decoder(build: Build) -> bool:
    """Whether our bind network comes with a tuned decoder. Looks at the header only."""
    return "bind" in build.weights and "layout" in tuned_metadata(Path(build.weights["bind"]))
