"""Names of the released adapter checkpoints and ours, both ways.

A released state dict has `image_bind_*` (the bind network), `prefix_query.weight` (a query a layer)
and, under `llama.`, gates, low-rank updates, biases and tuned norms. A full training checkpoint
holds the base and the encoders too; those names are known here and left out.
"""

from __future__ import annotations

import re
from typing import Literal

_BIND = re.compile(r"image_bind_(f1|f2|f3|norm)_([1-9]\d?)\.(weight|bias)")
_LAYER = re.compile(r"llama\.layers\.(\d{1,4})\.(.+)")
_LORA = re.compile(r"(attention|feed_forward)\.lora_(w[qkvo123])_l([12])\.weight")
_BIAS = re.compile(r"(attention|feed_forward)\.(w[qkvo123])\.bias")
_BASE = re.compile(r"(attention|feed_forward)\.(w[qkvo123])\.weight")
_OURS_BLOCK = re.compile(r"blocks\.(\d+)\.(f1|f2|f3|norm)\.(weight|bias)")
_OURS_LAYER = re.compile(
    r"layers\.(\d+)\.(attention|feed_forward)\.(w[qkvo123])\.(lora_a|lora_b|bias)"
)
_NORMS = ("attention_norm.weight", "ffn_norm.weight")
_PARENT = {"q": "attention", "k": "attention", "v": "attention", "o": "attention"}

Part = Literal["bind", "gate", "decoder"]


def modern(name: str) -> str:
    """The name with the `llma.` of early checkpoints spelled `llama.`."""
    return "llama." + name.removeprefix("llma.") if name.startswith("llma.") else name


def is_base(name: str) -> bool:
    """Whether a name is of the base model, the encoders, or a remnant that nothing uses."""
    if name.startswith(("image_bind.", "prefix_projector_norm.")) or "rope" in name.split("."):
        return True
    if name in ("llama.tok_embeddings.weight", "llama.output.weight"):
        return True
    match = _LAYER.fullmatch(name)
    return bool(match and _fits_parent(_BASE.fullmatch(match[2])))


def ours(name: str) -> tuple[Part, str] | None:
    """Where a released tensor belongs and our name of it; None for one that no adapter has.

    For a gate the name is the number of its layer.
    """
    if name == "prefix_query.weight":
        return "bind", "query"
    if name in ("image_bind_proj.weight", "image_bind_proj.bias"):
        return "bind", name.removeprefix("image_bind_")
    if match := _BIND.fullmatch(name):
        return "bind", f"blocks.{int(match[2]) - 1}.{match[1]}.{match[3]}"
    if name == "llama.norm.weight":
        return "decoder", "norm.weight"
    if not (layer := _LAYER.fullmatch(name)):
        return None
    number, rest = int(layer[1]), layer[2]
    if rest == "attention.gate":
        return "gate", str(number)
    if rest in _NORMS:
        return "decoder", f"layers.{number}.{rest}"
    if _fits_parent(lora := _LORA.fullmatch(rest)) and lora:
        part = "lora_a" if lora[3] == "1" else "lora_b"
        return "decoder", f"layers.{number}.{lora[1]}.{lora[2]}.{part}"
    if _fits_parent(bias := _BIAS.fullmatch(rest)):
        return "decoder", f"layers.{number}.{rest}" if bias else ""
    return None


def _fits_parent(match: re.Match[str] | None) -> bool:
    """Whether a linear layer is named under the part that has it."""
    return match is not None and match[1] == _PARENT.get(match[2][1], "feed_forward")


def released(name: str) -> str:
    """The released name of one of our tensors (bind network or decoder part).

    Raises:
        KeyError: the release has no name for it.
    """
    if name == "query":
        return "prefix_query.weight"
    if name.startswith("proj."):
        return f"image_bind_{name}"
    if match := _OURS_BLOCK.fullmatch(name):
        return f"image_bind_{match[2]}_{int(match[1]) + 1}.{match[3]}"
    if name == "norm.weight" or name.endswith(_NORMS):
        return f"llama.{name}"
    if match := _OURS_LAYER.fullmatch(name):
        number, parent, linear, kind = match.groups()
        if kind == "bias":
            return f"llama.{name}"
        part = "l1" if kind == "lora_a" else "l2"
        return f"llama.layers.{number}.{parent}.lora_{linear}_{part}.weight"
    raise KeyError(name)


def gate_name(layer: int) -> str:
    """The released name of a layer's gate."""
    return f"llama.layers.{layer}.attention.gate"
