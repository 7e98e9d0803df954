"""Adapters on disk: our bind networks, and released checkpoints with their decoder part.

Ours is safetensors with the configuration in the header. A released one (converted once by
`imagebind-llm`) is safetensors under the released names; everything about it is told by the shapes
of its tensors. Whether it belongs to a base is checked in `base_check.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anybind.core_model.adapter_names import gate_name, ours, released
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import LoadReport, UnfitError, compare
from anybind.core_model.checkpoints.tensors import read_safetensors
from anybind.core_model.llama import LINEARS, Llama, RopeLayout
from anybind.core_model.lora import MergedLinear, equip, merge_lora
from anybind.core_model.rope_rows import relaid_all
from anybind.errors import ModelError

FORMAT = "anybind-adapter-1"
"""Value of `format` in the metadata of a converted or exported adapter."""
_TUNED = "decoder."
"""Before the names of the decoder's tensors in a file of a bind network."""


def save_bind(
    bind: BindNetwork,
    path: Path,
    about: dict[str, Any] | None = None,
    *,
    base: str = "",
    tuned: Mapping[str, Tensor] | None = None,
    layout: RopeLayout = "interleaved",
) -> None:
    """Write a bind network in float16, its configuration in the metadata.

    Args:
        bind: The network.
        path: The safetensors file.
        about: Recorded as it is.
        base: Identity of the decoder it was trained with.
        tuned: Updates, biases and norms of the decoder that belong to it, by our names.
        layout: How their rows lie that belong to wq and wk.
    """
    from safetensors.torch import save_file

    state = bind.state_dict() | {f"{_TUNED}{n}": t for n, t in (tuned or {}).items()}
    tensors = {k: v.detach().to(torch.float16).contiguous() for k, v in state.items()}
    metadata = {"bind": json.dumps(asdict(bind.config)), "about": json.dumps(about or {})}
    metadata |= {"base_identity": base} if base else {}
    save_file(tensors, path, metadata | ({"layout": layout} if tuned else {}))


def load_bind(path: Path) -> BindNetwork:
    """Read what `save_bind` wrote, in float32.

    Raises:
        ModelError: not a bind network, its tensors don't fit its configuration, or it comes with
            a tuned decoder (see `load_tuned`).
    """
    found = load_tuned(path)
    if found.decoder:
        raise ModelError(f"{path.name} tunes the decoder too; a bind network alone was asked for.")
    return found.bind


def load_tuned(path: Path) -> Adapter:
    """Read what `save_bind` wrote, in float32, with what it tunes of the decoder.

    Raises:
        ModelError: not a bind network, or its tensors don't fit its configuration.
    """
    try:
        tensors, metadata = read_safetensors(path)
        config = BindConfig(**json.loads(metadata["bind"]))
        bind = BindNetwork(config)
        own = {k: v.float() for k, v in tensors.items() if not k.startswith(_TUNED)}
        bind.load_state_dict(own, strict=True)
        layout = metadata.get("layout", "interleaved")
        if layout not in ("interleaved", "half"):
            raise ValueError(f"rows in the layout {layout!r}")
    except (ModelError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path.name} is not a bind network: {error}") from error
    names = [n.removeprefix(_TUNED) for n in tensors if n.startswith(_TUNED)]
    decoder = {n: tensors[_TUNED + n].float() for n in names}
    return tuned_adapter(
        bind, decoder, path.name, layout=layout, base=metadata.get("base_identity", "")
    )


def tuned_metadata(path: Path) -> dict[str, str]:
    """The header of a file of a bind network; {} if it can't be read."""
    try:
        return read_safetensors(path)[1]
    except ModelError:
        return {}  # who loads it says why


def tuned_adapter(
    bind: BindNetwork,
    decoder: Mapping[str, Tensor],
    name: str,
    *,
    layout: RopeLayout,
    base: str = "",
    about: Mapping[str, Any] | None = None,
) -> Adapter:
    """An adapter of a bind network and tensors of the decoder by our names.

    Raises:
        ModelError: its updates differ in rank.
    """
    ranks = {t.shape[0] for n, t in decoder.items() if n.endswith("lora_a")}
    if len(ranks) > 1:
        raise ModelError(f"{name} has updates of different ranks: {sorted(ranks)}.")
    on = {n.split(".")[-2] for n in decoder if n.endswith("lora_a")}
    biased = {n.split(".")[-2] for n in decoder if n.endswith(".bias")}
    return Adapter(
        bind=bind,
        decoder=decoder,
        rank=ranks.pop() if ranks else 0,
        lora_on=tuple(n for n in LINEARS if n in on),
        biases=tuple(n for n in LINEARS if n in biased),
        about=about or {},
        base=base,
        layout=layout,
    )


def base_identity(path: Path) -> str:
    """The identity of the base that a bind network or adapter records; "" if none."""
    return read_safetensors(path)[1].get("base_identity", "")


@dataclass(frozen=True)
class Adapter:
    """A released adapter: what becomes of a joint embedding, and what the decoder is tuned by."""

    bind: BindNetwork
    decoder: Mapping[str, Tensor]
    """Low-rank updates, biases and norms, in our names; empty for a bind network alone."""
    rank: int = 0
    lora_on: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the converter recorded: source, its SHA-256, stage, a hint at the base."""
    base: str = ""
    """Identity of the base, if recorded."""
    report: LoadReport = field(default_factory=lambda: LoadReport(0))
    layout: RopeLayout = "interleaved"
    """How the rows of what belongs to wq and wk lie; released adapters have them as Meta has."""

    @property
    def base_hint(self) -> str:
        """In words, which base it belongs to."""
        c = self.bind.config
        known = self.about.get("base")
        sizes = f"a decoder of width {c.model_dim} with {c.n_layers} layers and {c.n_heads} heads"
        return f"{known} ({sizes})" if known else sizes


def load_adapter(path: Path) -> Adapter:
    """An adapter that `imagebind-llm` converted or `export_adapter` wrote.

    Raises:
        ModelError: damaged, or a tensor is missing, unknown or of the wrong shape.
    """
    state, metadata = read_safetensors(path)
    try:
        about = json.loads(metadata.get("adapter", "{}"))
        ignored = tuple(str(n) for n in json.loads(metadata.get("ignored", "[]")))
        if not isinstance(about, dict):
            raise ValueError("no table")
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path.name}: its metadata can't be read: {error!r}") from error
    made = adapter_from_state(state, path.name, ignored)
    return replace(made, about=about, base=metadata.get("base_identity", ""))


def adapter_from_state(
    state: Mapping[str, Tensor], name: str = "The adapter", ignored: tuple[str, ...] = ()
) -> Adapter:
    """An adapter of tensors under their released names; float32 ones are taken over, not copied.

    Raises:
        ModelError: a tensor is missing, unknown or of the wrong shape (`UnfitError`).
    """
    placed = {n: ours(n) for n in state}
    if unknown := tuple(n for n, place in placed.items() if place is None):
        raise UnfitError(name, LoadReport(len(state) - len(unknown), ignored, (), unknown))
    decoder = {p[1]: state[n] for n, p in placed.items() if p and p[0] == "decoder"}
    config = _bind_config(state, name)
    wanted = _wanted_bind(config) | _wanted_decoder(decoder, config.n_layers)
    report = compare(name, {n: t.shape for n, t in state.items()}, wanted, ignored)
    bind_state = {p[1]: state[n].float() for n, p in placed.items() if p and p[0] == "bind"}
    gates = [state[gate_name(i)].flatten() for i in range(config.n_layers)]
    bind_state["gate"] = torch.stack(gates).float()
    with torch.device("meta"):
        bind = BindNetwork(config)
    bind.load_state_dict(bind_state, strict=True, assign=True)
    made = tuned_adapter(bind.eval().requires_grad_(False), decoder, name, layout="interleaved")
    return replace(made, report=report)


def _bind_config(state: Mapping[str, Tensor], name: str) -> BindConfig:
    """Sizes from shapes; tensors that they are read from must be there."""
    sources = ("prefix_query.weight", "image_bind_proj.weight", "image_bind_f1_1.weight")
    needed = (*sources, gate_name(0))
    if missing := tuple(n for n in needed if n not in state):
        raise UnfitError(name, LoadReport(len(state), (), missing))
    odd = tuple(
        f"{n} is {tuple(state[n].shape)}, expected {k} dimensions"
        for n, k in zip(needed, (2, 2, 2, 4), strict=True)
        if state[n].dim() != k or not state[n].numel()
    )
    if odd:
        raise UnfitError(name, LoadReport(len(state) - len(odd), wrong_shape=odd))
    queries, dim = state["prefix_query.weight"].shape
    layers = sum(n.endswith(".attention.gate") for n in state)
    if queries != layers:
        raise ModelError(
            f"{name} has {queries} prefix queries for {layers} gates; only one query a layer, in "
            "every layer, is supported (as in all released checkpoints)."
        )
    blocks = sum(n.startswith("image_bind_f1_") and n.endswith(".weight") for n in state)
    return BindConfig(
        joint_dim=state["image_bind_proj.weight"].shape[1],
        model_dim=dim,
        hidden_dim=state["image_bind_f1_1.weight"].shape[0],
        n_layers=layers,
        n_heads=state[gate_name(0)].shape[1],
        n_blocks=blocks,
        injection="attention_output",
        norm="layer" if "image_bind_norm_1.bias" in state else "rms",
    )


def _wanted_bind(config: BindConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in BindNetwork(config).state_dict().items()}
    shapes.pop("gate")
    wanted = {released(n): s for n, s in shapes.items()}
    return wanted | {gate_name(i): (1, config.n_heads, 1, 1) for i in range(config.n_layers)}


def _wanted_decoder(found: Mapping[str, Tensor], layers: int) -> dict[str, tuple[int, ...]]:
    """What one layer has, all must have; an update has both halves; norms are tuned all or none."""
    kinds: dict[str, tuple[int, ...]] = {}
    for name, tensor in found.items():
        if name.startswith("layers."):
            kinds.setdefault(name.split(".", 2)[2], tuple(tensor.shape))
    for kind in list(kinds):
        stem, _, half = kind.rpartition(".")
        if half in ("lora_a", "lora_b"):
            other = f"{stem}.{'lora_b' if half == 'lora_a' else 'lora_a'}"
            kinds.setdefault(other, ())
    if "norm.weight" in found or any(k.endswith("norm.weight") for k in kinds):
        shape = next(tuple(t.shape) for n, t in found.items() if n.endswith("norm.weight"))
        for kind in ("attention_norm.weight", "ffn_norm.weight"):
            kinds.setdefault(kind, shape)
        top = {released("norm.weight"): shape}
    else:
        top = {}
    return top | {released(f"layers.{i}.{k}"): s for i in range(layers) for k, s in kinds.items()}


@torch.no_grad()
def check_sizes(decoder: Llama, adapter: Adapter) -> None:
    """Refuse a base of other sizes.

    Raises:
        ModelError: says which base the adapter belongs to.
    """
    c, b = decoder.config, adapter.bind.config
    if (c.dim, c.n_layers, c.n_heads) != (b.model_dim, b.n_layers, b.n_heads):
        raise ModelError(
            f"The adapter belongs to {adapter.base_hint}; this one has width {c.dim}, "
            f"{c.n_layers} layers and {c.n_heads} heads."
        )


def apply_adapter(decoder: Llama, adapter: Adapter, *, merge: bool = False) -> LoadReport:
    """Tune a base by the decoder part of an adapter, in place.

    Args:
        decoder: The base, as loaded.
        adapter: Its tensors are cast to the type of the decoder.
        merge: Take the low-rank updates into the weights (see `merge_lora`).

    Raises:
        ModelError: the adapter is for a decoder of other sizes, or this one was tuned before;
            the decoder is left as it was.
    """
    c = decoder.config
    check_sizes(decoder, adapter)
    if c.lora_rank or any(isinstance(m, MergedLinear) for m in decoder.modules()):
        raise ModelError("The decoder has an adapter already; load the base afresh.")
    biases = tuple(n for n in LINEARS if n in c.biases or n in adapter.biases)
    tuned = replace(
        c, biases=biases, lora_rank=adapter.rank, lora_on=adapter.lora_on or c.lora_on
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in Llama(tuned).state_dict().items()}
    compare(
        "The adapter",
        {n: t.shape for n, t in adapter.decoder.items()},
        {n: shapes[n] for n in adapter.decoder if n in shapes},
    )
    for layer in decoder.blocks:
        for parent in (layer.attention, layer.feed_forward):
            for name in LINEARS:
                if isinstance(old := getattr(parent, name, None), nn.Linear):
                    rank = adapter.rank if name in adapter.lora_on else 0
                    setattr(parent, name, equip(old, bias=name in adapter.biases, rank=rank))
        layer.attention.config = tuned
    decoder.config = tuned
    weight = decoder.tok_embeddings.weight
    rows = relaid_all(c, adapter.decoder, adapter.layout, c.rope_layout)
    state = {n: t.to(weight.device, weight.dtype) for n, t in rows.items()}
    decoder.load_state_dict(state, strict=False, assign=True)
    decoder.requires_grad_(False).eval()
    if merge and adapter.rank:
        merge_lora(decoder)
        decoder.config = replace(tuned, lora_rank=0)
    return adapter.report


def export_adapter(
    bind: BindNetwork,
    decoder: Llama | None,
    path: Path,
    *,
    about: Mapping[str, Any] | None = None,
    base: str = "",
) -> None:
    """Write an adapter under the released names, in the types it is in.

    Args:
        bind: Of the released kind.
        decoder: Its updates, biases and norms are written too; None for a bind network alone.
        path: The safetensors file.
        about: Recorded as it is.
        base: Identity of the base it was trained with.

    Raises:
        ModelError: the released names can't say it (another injection; merged updates).
    """
    if decoder is not None and any(isinstance(m, MergedLinear) for m in decoder.modules()):
        raise ModelError("The updates were merged into the weights; export before merging.")
    own = ("lora_a", "lora_b", "bias", "norm.weight")
    state = decoder.state_dict() if decoder is not None else {}
    tuned = {n: t for n, t in state.items() if n.endswith(own)}
    if decoder is not None:
        tuned = relaid_all(decoder.config, tuned, decoder.config.rope_layout, "interleaved")
    write_released(bind, tuned, path, about=about, base=base)


def write_released(
    bind: BindNetwork,
    tuned: Mapping[str, Tensor],
    path: Path,
    *,
    about: Mapping[str, Any] | None = None,
    base: str = "",
) -> None:
    """As `export_adapter`, of updates, biases and norms by our names, rows as Meta has them.

    Raises:
        ModelError: the released names can't say it.
    """
    from safetensors.torch import save_file

    c = bind.config
    if c.injection != "attention_output" or c.input_scale != 1.0 or c.first_layer:
        raise ModelError(
            "The released format knows `attention_output` in all layers without input scale only; "
            "write this bind network with save_bind."
        )
    tensors = {released(n): t for n, t in bind.state_dict().items() if n != "gate"}
    for i in range(c.n_layers):
        tensors[gate_name(i)] = bind.gate[i].detach().view(1, -1, 1, 1)
    tensors |= {released(n): t for n, t in tuned.items()}
    metadata = {"format": FORMAT, "adapter": json.dumps(dict(about or {})), "base_identity": base}
    # Clones: safetensors refuses views that share memory, as the rows of the gate do.
    save_file({n: t.detach().contiguous().clone() for n, t in tensors.items()}, path, metadata)
