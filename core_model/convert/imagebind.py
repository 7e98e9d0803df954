"""ImageBind and Point-Bind checkpoints (`.pth`, `.pt`) into one safetensors file.

Knows the names inside `imagebind_huge.pth`, `imagebind_w3D.pth`, `pointbind_pointbert.pt`,
`pointbind_i2pmae.pt` and full training checkpoints of LLaMA-Adapter; what comes out has the names of
`imagebind_w3D.pth`. Only tensors are read from the pickle (`weights_only`); nothing in it is run. The
tensors are mapped from the source and written one after the other, so memory stays near that of the
largest one.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.convert.pickles import reason
from anybind.core_model.convert.writing import write_safetensors
from anybind.core_model.encoders.imagebind_config import OFFICIAL, TOWERS
from anybind.core_model.encoders.imagebind_sizes import is_hierarchy
from anybind.core_model.encoders.imagebind_weights import (
    FLOATS,
    FORMAT,
    account,
    check_mask,
    tower_of,
)
from anybind.core_model.encoders.point_bert import PointConfig
from anybind.core_model.encoders.point_hierarchy import HierarchyConfig
from anybind.errors import ModelError

_POINTBIND = {
    "pc_projection": "point_trunk.pc_projection",
    "point_encoder.": "point_trunk.point_encoder.",
    "bind.modality_head_point.": "modality_heads.point.",
    "bind.modality_postprocessor_point.": "modality_postprocessors.point.",
    "bind.": "",
}
"""Beginnings of names in Point-Bind's own files and what they become; the first that fits."""

_TRAINING = "image_bind."


@dataclass(frozen=True)
class Plan:
    """What a conversion will write."""

    tensors: Mapping[str, Tensor]
    """With the names of `imagebind_w3D.pth`; still where they lie in the source."""
    metadata: Mapping[str, str]
    ignored: tuple[str, ...]
    """Names of the source that are left out."""


def convert(source: Path, target: Path) -> None:
    """Write `target` from `imagebind_huge.pth`, `imagebind_w3D.pth` or a full training checkpoint.

    Raises:
        ModelError: not such a file.
    """
    _write(source, target, plan(source))


def convert_pointbind(source: Path, target: Path) -> None:
    """Write `target` from `pointbind_pointbert.pt` or `pointbind_i2pmae.pt`, ImageBind included.

    Raises:
        ModelError: not such a file.
    """
    _write(source, target, plan_pointbind(source))


def plan(source: Path) -> Plan:
    """Account for every tensor of an ImageBind checkpoint; nothing is written.

    Raises:
        ModelError: a tensor is missing, strange or of the wrong shape; it is named.
    """
    state = read_state(source)
    if any(name.startswith("bind.") for name in state):
        raise ModelError(f"{source.name} is a Point-Bind file: use the converter pointbind.")
    if any(name.startswith(_TRAINING) for name in state):
        # A full training checkpoint: the encoder frozen inside, the rest belongs to others.
        return _plan(source, state, lambda name: name.startswith(_TRAINING), {_TRAINING: ""})
    return _plan(source, state, lambda name: True, {"": ""})


def plan_pointbind(source: Path) -> Plan:
    """Account for every tensor of a standalone Point-Bind checkpoint; nothing is written.

    Raises:
        ModelError: as `plan`.
    """
    state = read_state(source)
    if "pc_projection" not in state:
        raise ModelError(f"{source.name} is no Point-Bind file: it has no pc_projection.")
    # The temperature of its training loss; no part of the embedding.
    return _plan(source, state, lambda name: name != "logit_scale", _POINTBIND)


def read_state(source: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` by name, mapped from disk; a wrapper `{"model": ...}` is opened.

    Raises:
        ModelError: no readable checkpoint, or no table of tensors.
    """
    try:
        # Files of torch before 1.6 are no zip archives and can't be mapped.
        mapped = zipfile.is_zipfile(source)
        state: Any = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever damaged bytes make the reader raise
        raise ModelError(f"{source.name} is not a readable checkpoint: {reason(error)}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{source.name} holds {type(state).__name__}, not a table of tensors.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{source.name}: {name!r} is {type(value).__name__}, not a tensor.")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise ModelError(f"{source.name}: {name} is no plain tensor on the CPU.")
    return state


def _plan(
    source: Path,
    state: Mapping[str, Tensor],
    wanted: Callable[[str], bool],
    names: Mapping[str, str],
) -> Plan:
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not wanted(name):
            continue
        start = next((old for old in names if name.startswith(old)), None)
        new = name if start is None else names[start] + name[len(start) :]
        if new in tensors:
            raise ModelError(f"{source.name}: two tensors would be named {new}.")
        counted = new.endswith("num_batches_tracked")
        if value.dtype not in ((torch.int64,) if counted else FLOATS):
            raise ModelError(f"{source.name}: the tensor {name} is {value.dtype}, not a float.")
        tensors[new] = value
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    present = {tower_of(name) for name in shapes}
    held = [name for name in TOWERS if name in present]
    if not held:
        raise ModelError(f"{source.name} holds nothing of ImageBind.")
    config = _official(shapes, held)
    # Sizes never released lack their heads here; the loader asks for them. Any number that divides
    # does for the accounting, since heads change no shape.
    filler = {"heads": 1, "groups": 1, "group_size": 1}
    settings = {name: config.get(name, filler) for name in held}
    account(source.name, shapes, held, settings)
    if "text" in held:
        check_mask(source.name, tensors["modality_preprocessors.text.mask"])
    metadata = {
        "format": FORMAT,
        "source": _recognise(state, held, len(tensors), len(config) == len(held)),
        "config": json.dumps(config),
    }
    return Plan(tensors, metadata, tuple(name for name in state if not wanted(name)))


def _official(shapes: Mapping[str, tuple[int, ...]], held: list[str]) -> dict[str, dict[str, Any]]:
    """Settings of the modalities whose width is the released one."""
    found: dict[str, dict[str, Any]] = {}
    for name in held:
        if name == "point" and is_hierarchy(shapes):
            found[name] = asdict(HierarchyConfig())
            continue
        if name == "point":
            width, known = shapes.get("point_trunk.point_encoder.cls_token"), asdict(PointConfig())
        else:
            stem = f"modality_preprocessors.{name}."
            token = "token_embedding.weight" if name == "text" else "cls_token"
            width, known = shapes.get(stem + token), asdict(OFFICIAL[name])
        if width and width[-1] == known["width"]:
            found[name] = known
    return found


def _recognise(names: Iterable[str], held: list[str], tensors: int, official: bool) -> str:
    if "pc_projection" in names:
        deep = any(name.startswith("point_encoder.h_encoder.") for name in names)
        return "pointbind_i2pmae" if deep else "pointbind_pointbert"
    if official and (len(held), tensors) == (6, 1311):
        return "imagebind_huge"
    if official and (len(held), tensors) == (7, 1476):
        return "imagebind_w3D"
    return "other"


def _write(source: Path, target: Path, made: Plan) -> None:
    size = sum(t.numel() * t.element_size() for t in made.tensors.values())
    if size > source.stat().st_size:
        # Views may claim any size over few bytes; written out, they would fill the disk.
        raise ModelError(f"{source.name}: its tensors claim {size} bytes, more than the file has.")
    write_safetensors(target, made.tensors, made.metadata)
