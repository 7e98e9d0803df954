"""From a stage's config to the module that is trained: base, adapter, what is free, what is frozen.

Knows files of models and names of parameters; no data and no loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anybind.contracts import Build
from anybind.core_model.adapters import Adapter, load_adapter, load_tuned
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import load_with_fields
from anybind.core_model.checkpoints.tensors import read_safetensors
from anybind.core_model.factory import tokenizer_of
from anybind.core_model.llama import LINEARS, Llama, LlamaConfig
from anybind.core_model.lora import equip
from anybind.core_model.rope_rows import relaid_all
from anybind.core_model.tokenizer import Tokenizer
from anybind.core_model.training.config import BindSizes, ModelConfig, Trainables, TrainConfig
from anybind.core_model.training.state import is_run, read_adapter
from anybind.core_model.training.trainee import Trainee
from anybind.errors import ModelError, UserError


@dataclass(frozen=True)
class Parts:
    """A model ready to be trained, and what is known of it."""

    trainee: Trainee
    tokenizer: Tokenizer
    chat: str
    space: str
    base: Path
    """File or folder of the decoder."""
    identity: str
    """Of its weights."""
    own: frozenset[str]
    """Parameters of the decoder that are not the base's: updates, biases, norms that were tuned."""

    @property
    def trainables(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in the trainee."""
        return {n: p for n, p in self.trainee.named_parameters() if p.requires_grad}

    @property
    def kept(self) -> dict[str, Tensor]:
        """What belongs to the adapter and is not trained in this stage."""
        return {
            n: p.detach()
            for n, p in self.trainee.named_parameters()
            if not p.requires_grad and (n.startswith("bind.") or n in self.own)
        }


def build_parts(config: TrainConfig) -> Parts:
    """Build the model of a stage.

    Raises:
        ModelError: files don't fit together.
        UserError: the stage trains what the model doesn't have.
    """
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    sources = _sources(config.model)
    base = sources.build.weights["decoder"]
    decoder, report, fields = load_with_fields(
        Path(base), dtype=dtype, context_length=sources.build.options.get("context_length")
    )
    _check_context(config, decoder.config)
    tokenizer = tokenizer_of(sources.build, Path(base), fields)
    adapter = _start(config.model, sources, decoder, report.identity, tokenizer, config.seed)
    own = {f"decoder.{name}" for name in adapter.decoder}
    trainee = Trainee(
        decoder, adapter.bind, checkpoint=config.activation_checkpointing,
        answers=not config.alignment.alone, align=config.alignment.on,
    )  # fmt: skip
    own |= _equip(decoder, config.trainables)
    free(trainee, config.trainables)
    exact = relaid_all(decoder.config, adapter.decoder, adapter.layout, decoder.config.rope_layout)
    with torch.no_grad():
        for name, parameter in trainee.named_parameters():
            if not parameter.requires_grad:
                continue
            # What is trained is held in float32, also where the base is not; of an adapter that
            # was, as it was before it was cast to the base's type.
            value = exact.get(name.removeprefix("decoder."), parameter)
            parameter.data = value.detach().to(torch.float32).clone()
            own |= {name} if name.startswith("decoder.") else set()
    return Parts(
        trainee=trainee.train(), tokenizer=tokenizer, chat=sources.chat, space=sources.space,
        base=Path(base), identity=report.identity, own=frozenset(own),
    )  # fmt: skip


def build_hollow(config: TrainConfig) -> Trainee:
    """The module of a stage without its tensors, by `model.shape`: what can be counted of it.

    Raises:
        UserError: the config gives no sizes.
    """
    shape = config.model.shape
    if shape is None:
        raise UserError("Without the decoder's file a dry run needs its sizes: model.shape.")
    sizes = shape.model_dump(exclude={"joint_dim", "hidden_dim", "n_kv_heads"})
    kv = shape.n_kv_heads or shape.n_heads
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    bind = config.model.bind or BindSizes(
        joint_dim=shape.joint_dim or shape.dim, hidden_dim=shape.hidden_dim or 4 * shape.dim
    )
    with torch.device("meta"):
        decoder = Llama(LlamaConfig(**sizes, n_kv_heads=kv, context_length=1)).to(dtype)
        trainee = Trainee(decoder, _new_bind(bind, decoder.config, 0))
        _equip(decoder, config.trainables)
    free(trainee, config.trainables)
    return trainee


# ---------------------------------------------------------------- what it starts from


@dataclass(frozen=True)
class _Sources:
    build: Build
    chat: str
    space: str


def _sources(config: ModelConfig) -> _Sources:
    """Files and settings, those of a bundle where the config gives none."""
    weights: dict[str, Path] = {}
    options: dict[str, Any] = {}
    space = ""
    if config.bundle:
        from anybind.assembly import Assembly

        assembly = Assembly(config.bundle)
        model = assembly.bundle.model
        if model.use != "llama":
            raise UserError(
                f"The bundle {config.bundle!r} has a {model.use!r} decoder; only anybind's own "
                "LLaMA is trained."
            )
        options, space = dict(model.options), assembly.bundle.space
        wanted = {"decoder": config.decoder is None, "tokenizer": config.tokenizer is None}
        wanted |= dict.fromkeys(("bind", "adapter"), config.init == "bundle")
        for role, key in model.weights.items():
            if wanted.get(role):
                weights[role] = assembly.weight(key)
    if config.decoder:
        weights["decoder"] = config.decoder
        # The bundle's tokenizer is not that of another decoder.
        weights.pop("tokenizer", None)
    if config.tokenizer:
        weights["tokenizer"] = config.tokenizer
    if not weights["decoder"].exists():
        raise UserError(f"There is no decoder at {weights['decoder']}.")
    chat = config.chat or options.get("chat", "chatml")
    space = config.space or options.get("space", space)
    return _Sources(Build(weights=weights, options=options), chat, space)


def _start(
    config: ModelConfig,
    sources: _Sources,
    decoder: Llama,
    identity: str,
    tokenizer: Tokenizer,
    seed: int,
) -> Adapter:
    """The bind network to start with; an adapter's decoder part is applied on the way."""
    if config.bind is not None:
        return Adapter(_new_bind(config.bind, decoder.config, seed), {})
    path = _init_path(config, sources)
    adapter = _read_start(path)
    if adapter.bind.config.injection == "residual":
        # `residual` has no heads; files of such networks say 1 or what the decoder has.
        adapter.bind.config = replace(adapter.bind.config, n_heads=decoder.config.n_heads)
    from anybind.core_model.base_check import attach

    attach(
        decoder, adapter, tokenizer, identity=identity, check=config.check_base,
        name=sources.build.weights["decoder"].name,
    )  # fmt: skip
    return adapter


def _new_bind(sizes: BindSizes, decoder: LlamaConfig, seed: int) -> BindNetwork:
    if sizes.first_layer >= decoder.n_layers:
        raise UserError(
            f"model.bind.first_layer is {sizes.first_layer}; the decoder has "
            f"{decoder.n_layers} layers, numbered from 0."
        )
    torch.manual_seed(seed)
    return BindNetwork(
        BindConfig(
            **sizes.model_dump(),
            model_dim=decoder.dim, n_layers=decoder.n_layers, n_heads=decoder.n_heads,
        )
    )  # fmt: skip


def _init_path(config: ModelConfig, sources: _Sources) -> Path:
    if config.init != "bundle":
        return Path(str(config.init))
    found = [sources.build.weights[r] for r in ("bind", "adapter") if r in sources.build.weights]
    if not found:
        raise UserError(f"The bundle {config.bundle!r} has neither bind network nor adapter.")
    return found[0]


def _read_start(path: Path) -> Adapter:
    """A run, a checkpoint, a bind network of ours, or an adapter under released names."""
    if is_run(path):
        return read_adapter(path)
    if not path.is_file():
        raise UserError(
            f"model.init: {path} is no run, no checkpoint and no file. Adapters of others are "
            "converted first (anybind convert imagebind-llm)."
        )
    metadata = read_safetensors(path)[1]
    if "bind" in metadata:
        return load_tuned(path)
    return load_adapter(path)


# ---------------------------------------------------------------- what is trained


def _equip(decoder: Llama, trainables: Trainables) -> set[str]:
    """Give a decoder room for what is to be trained, in place; names of what was added."""
    before = {f"decoder.{n}" for n, _ in decoder.named_parameters()}
    rank = trainables.lora.rank if "lora" in trainables.groups else 0
    on = trainables.lora.linears if rank else ()
    biases = trainables.biases if "biases" in trainables.groups else ()
    old = decoder.config
    torch.manual_seed(1)  # of the first factors of the updates
    for layer in decoder.layers:
        for parent in (layer.attention, layer.feed_forward):
            for name in LINEARS:
                if not isinstance(linear := getattr(parent, name, None), nn.Linear):
                    continue
                try:
                    new = equip(linear, bias=name in biases, rank=rank if name in on else 0)
                except ValueError as error:
                    raise UserError(f"trainables.lora: {error}") from error
                setattr(parent, name, new)
    both = tuple(n for n in LINEARS if n in old.biases or n in biases)
    grown = replace(old, biases=both)
    if rank:
        before_on = old.lora_on if old.lora_rank else ()
        on = tuple(n for n in LINEARS if n in before_on or n in on)
        grown = replace(grown, lora_rank=rank, lora_on=on)
    decoder.config = grown
    for layer in decoder.layers:
        layer.attention.config = grown
    return {f"decoder.{n}" for n, _ in decoder.named_parameters()} - before


def group_of(name: str) -> str:
    """Which group a parameter of the trainee belongs to; "base" for the frozen matrices."""
    last = name.rpartition(".")[2]
    if name.startswith("bind."):
        return {"query": "queries", "gate": "gates"}.get(name.removeprefix("bind."), "bind")
    if last in ("lora_a", "lora_b"):
        return "lora"
    if last == "bias":
        return "biases"
    return "norms" if name.endswith("norm.weight") else "base"


def free(trainee: Trainee, trainables: Trainables) -> None:
    """Freeze all but what the stage trains.

    Raises:
        UserError: a group has no parameter.
    """
    found: set[str] = set()
    for name, parameter in trainee.named_parameters():
        group = group_of(name)
        wanted = group in trainables.groups
        if group == "biases":
            wanted = wanted and name.split(".")[-2] in trainables.biases
        if group == "lora":
            wanted = wanted and name.split(".")[-2] in trainables.lora.linears
        parameter.requires_grad_(wanted)
        found |= {group} if wanted else set()
    if missing := [g for g in trainables.groups if g not in found]:
        raise UserError(f"trainables.groups: the model has no {', '.join(missing)} to train.")


def _check_context(config: TrainConfig, decoder: LlamaConfig) -> None:
    if config.batch.max_tokens > decoder.context_length:
        raise ModelError(
            f"batch.max_tokens is {config.batch.max_tokens}; the context of the decoder holds "
            f"{decoder.context_length}."
        )
