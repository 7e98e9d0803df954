"""ImageBind from a safetensors file: only the chosen modalities, mapped from disk, all names accounted for.

Knows the file's header, what tensor shapes say about the sizes, and what must be told besides
(heads, strides). Every load gives a `LoadReport`. Does not read pickles
(`anybind.core_model.convert.imagebind` turns those into such a file once) and does not run the model.

Nothing is read that is not asked for: the tensors of a chosen modality are views into the mapped
file, paged in when they are first used. Only another precision or device makes a copy, tensor by
tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.encoders.imagebind import ImageBind
from anybind.core_model.encoders.imagebind_config import (
    OFFICIAL,
    TOWERS,
    ImageBindConfig,
    TowerConfig,
)
from anybind.core_model.encoders.mapped import MappedFile
from anybind.core_model.encoders.point_bert import PointConfig
from anybind.errors import ModelError

FORMAT = "anybind-imagebind-1"
"""`format` in the metadata of files that our converters write."""

Shapes = Mapping[str, tuple[int, ...]]
Settings = Mapping[str, Mapping[str, Any]]
"""Per modality, what shapes can't tell: heads, stride, size; groups and group_size of points."""

_TOLD = ("heads", "stride", "size", "groups", "group_size")
_PLACE = re.compile(r"modality_(?:preprocessors|trunks|heads|postprocessors)\.([a-z]+)\.")
_WIDEST, _DEEPEST = 1 << 16, 1000
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Element types that weights may have."""

_KEPT_FLOAT32 = "log_logit_scale"


@dataclass(frozen=True)
class LoadReport:
    """What a load did with the tensors of a file, by name."""

    file: str
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Needed by a chosen modality, but not in the file."""
    unexpected: tuple[str, ...] = ()
    """In the file, but belonging to nothing that is known."""
    ignored: tuple[str, ...] = ()
    """Known, but of modalities that were not chosen."""
    bytes: int = 0
    """Of the loaded tensors, as they lie in the file."""

    def __str__(self) -> str:
        parts = [f"{self.file}: {len(self.loaded)} tensors, {self.bytes / 1e6:.1f} MB loaded"]
        for what in ("missing", "unexpected", "ignored"):
            if names := getattr(self, what):
                parts.append(f"{len(names)} {what} ({_some(names)})")
        return "; ".join(parts)


def read_header(path: Path) -> Header:
    """Names, shapes and settings of a safetensors file; no tensor is read.

    Raises:
        ModelError: not a readable safetensors file, or settings that make no sense.
    """
    return _header(MappedFile(path))


@dataclass(frozen=True)
class Header:
    """What a file says about itself before any tensor is read."""

    shapes: Shapes
    settings: Settings
    source: str = ""
    """Which official file it came from, if a converter of ours wrote it."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it holds tensors of, from `TOWERS`."""
        held = {tower_of(name) for name in self.shapes}
        return tuple(name for name in TOWERS if name in held)


def _header(file: MappedFile) -> Header:
    settings: Any = {}
    if file.metadata.get("format") == FORMAT:
        try:
            settings = json.loads(file.metadata.get("config", "{}"))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{file.name}: the config in its metadata is no JSON.") from error
    if not isinstance(settings, dict) or not all(
        isinstance(value, dict) for value in settings.values()
    ):
        raise ModelError(f"{file.name}: the config in its metadata is no table of tables.")
    return Header(file.shapes, settings, file.metadata.get("source", ""))


def tower_of(name: str) -> str | None:
    """The modality (from `TOWERS`) that a tensor belongs to; None for a strange name."""
    if name.startswith("point_trunk."):
        return "point"
    match = _PLACE.match(name)
    return match[1] if match and match[1] in TOWERS else None


# ---------------------------------------------------------------- sizes from shapes


def infer_config(
    shapes: Shapes, modalities: Iterable[str], settings: Settings | None = None
) -> ImageBindConfig:
    """The sizes of some modalities, from shapes; heads are those of the release or as told.

    Raises:
        ModelError: a tensor is missing or has a shape that fits nothing, or the number of heads of
            a size that was never released was not told.
    """
    told = settings or {}
    towers: dict[str, TowerConfig] = {}
    point = None
    for modality in modalities:
        mine = {key: value for key, value in told.get(modality, {}).items() if key in _TOLD}
        if modality == "point":
            point = _point_sizes(shapes, mine)
        else:
            towers[modality] = _tower_sizes(modality, shapes, mine)
    dims = {_shape(shapes, _head_name(m), 2)[0] for m in (*towers, *(["point"] if point else []))}
    if len(dims) != 1:
        raise ModelError(f"The heads do not agree on the width of the joint space: {sorted(dims)}.")
    return ImageBindConfig(_sane(dims.pop(), "the joint space"), towers, point)


def _tower_sizes(modality: str, shapes: Shapes, told: Mapping[str, Any]) -> TowerConfig:
    stem = f"modality_preprocessors.{modality}."
    trunk = f"modality_trunks.{modality}."
    known = OFFICIAL[modality]
    if modality == "text":
        vocabulary, width = _shape(shapes, stem + "token_embedding.weight", 2)
        context = _shape(shapes, stem + "pos_embed", 3)[1]
        config = replace(
            known,
            vocabulary=_sane(vocabulary, "the vocabulary", 1 << 22),
            context=_sane(context, "the context", 1 << 10),
        )
    else:
        width = _shape(shapes, stem + "cls_token", 3)[-1]
        config = known
        if modality != "imu":
            rank = 5 if modality == "vision" else 4
            kernel = _shape(shapes, stem + _PATCHES[modality], rank)[-1]
            config = replace(config, kernel=_sane(kernel, "a patch", 224))
    width = _sane(width, modality)
    heads = told.get("heads", known.heads if width == known.width else None)
    config = replace(
        config,
        width=width,
        blocks=_count(shapes, trunk + "blocks."),
        heads=_heads(modality, heads, width),
        bias_kv=trunk + "blocks.0.attn.bias_k" in shapes,
        stride=_told(modality, told, "stride", known.stride),
        size=_size(modality, told, known.size),
    )
    if modality != "text" and min(config.grid) < 1:
        raise ModelError(f"{modality}: patches of {config.kernel} do not fit {config.size}.")
    return config


_PATCHES = {
    "vision": "rgbt_stem.proj.1.weight",
    "audio": "rgbt_stem.proj.weight",
    "thermal": "rgbt_stem.proj.weight",
    "depth": "depth_stem.proj.weight",
}


def _point_sizes(shapes: Shapes, told: Mapping[str, Any]) -> PointConfig:
    trunk, known = "point_trunk.point_encoder.", PointConfig()
    width = _sane(_shape(shapes, trunk + "cls_token", 3)[-1], "point")
    released = width == known.width
    if not released and not {"groups", "group_size"} <= set(told):
        raise ModelError(f"A point encoder {width} wide was never released: tell its groups.")
    return PointConfig(
        width=width,
        blocks=_count(shapes, trunk + "blocks.blocks."),
        heads=_heads("point", told.get("heads", known.heads if released else None), width),
        groups=_told("point", told, "groups", known.groups),
        group_size=_told("point", told, "group_size", known.group_size),
        features=_sane(_shape(shapes, trunk + "reduce_dim.weight", 2)[1], "point"),
        projection=_sane(_shape(shapes, "point_trunk.pc_projection", 2)[1], "point"),
    )


def _head_name(modality: str) -> str:
    place = {"text": "proj.1", "imu": "3"}.get(modality, "2")
    return f"modality_heads.{modality}.{place}.weight"


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    if name not in shapes:
        raise ModelError(f"The tensor {name} is missing.")
    if len(shapes[name]) != rank:
        raise ModelError(f"The tensor {name} has shape {list(shapes[name])}, not {rank} axes.")
    return shapes[name]


def _sane(value: int, what: str, most: int = _WIDEST) -> int:
    if not 0 < value <= most:
        raise ModelError(f"A width of {value} for {what} makes no sense.")
    return value


def _told(modality: str, told: Mapping[str, Any], key: str, default: int) -> int:
    value = told.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _WIDEST:
        raise ModelError(f"{modality}: {key} {value!r} is no sensible number.")
    if value == 0 and default:
        raise ModelError(f"{modality}: {key} can't be 0.")
    return value


def _size(modality: str, told: Mapping[str, Any], default: tuple[int, int]) -> tuple[int, int]:
    value = told.get("size", default)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ModelError(f"{modality}: size {value!r} is not [height, width].")
    high, wide = (_told(modality, {"size": side}, "size", 0) for side in value)
    return high, wide


def _heads(modality: str, heads: Any, width: int) -> int:
    if heads is None:
        raise ModelError(
            f"{modality} is {width} wide, which was never released, and shapes do not tell the "
            f"number of heads: name it in the option heads, e.g. {{{modality!r}: 8}}."
        )
    heads = _told(modality, {"heads": heads}, "heads", 1)
    if width % heads:
        raise ModelError(f"{modality}: {heads} heads do not divide a width of {width}.")
    return heads


def _count(shapes: Shapes, prefix: str) -> int:
    found = {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
    if not found or len(found) > _DEEPEST or found != {str(i) for i in range(len(found))}:
        raise ModelError(f"The blocks {prefix}* are not numbered 0, 1, ...: {_some(sorted(found))}")
    return len(found)


# ---------------------------------------------------------------- accounting


def account(
    name: str, shapes: Shapes, modalities: Collection[str], settings: Settings | None = None
) -> tuple[ImageBind, LoadReport]:
    """A model without memory (device "meta") for some modalities, every tensor name accounted for.

    Raises:
        ModelError: a tensor is missing, strange or of the wrong shape; it is named.
    """
    chosen = tuple(modalities)
    strange = [key for key in shapes if tower_of(key) is None]
    try:
        config = infer_config(shapes, chosen, settings)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    with torch.device("meta"):
        model = ImageBind(config)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    mine = [key for key in shapes if tower_of(key) in chosen]
    report = LoadReport(
        file=name,
        loaded=tuple(key for key in mine if key in wanted),
        missing=tuple(key for key in wanted if key not in shapes),
        unexpected=(*strange, *(key for key in mine if key not in wanted)),
        ignored=tuple(key for key in shapes if tower_of(key) not in (None, *chosen)),
    )
    if report.missing or report.unexpected:
        raise ModelError(f"The tensors are not those of an ImageBind. {report}")
    for key, shape in wanted.items():
        if shapes[key] != shape:
            raise ModelError(
                f"{name}: the tensor {key} has shape {list(shapes[key])}, expected {list(shape)}."
            )
    return model.eval().requires_grad_(False), report


def check_mask(name: str, mask: Tensor) -> None:
    """Raise a `ModelError` unless the text's mask is the causal one, which attention takes for granted."""
    wanted = torch.full(mask.shape, float("-inf")).triu(1)
    if not torch.equal(mask.float(), wanted):
        raise ModelError(f"{name}: the mask of text is not causal.")


# ---------------------------------------------------------------- loading


def load_imagebind(
    path: Path,
    modalities: Collection[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    settings: Settings | None = None,
) -> tuple[ImageBind, LoadReport]:
    """Some modalities of an ImageBind, ready to run.

    Args:
        path: a safetensors file with the official names, as `anybind convert` writes it.
        modalities: names from `TOWERS` (pictures and films: "vision"); all that the file holds if
            None.
        dtype: precision of the weights; as in the file if None. Logit scales stay float32.
        device: where to put them.
        settings: what shapes can't tell, per modality, over what the file says (see `Settings`).

    Raises:
        ModelError: the file can't be read, does not hold a modality, or its tensors do not account
            for the model; the tensor is named.
    """
    file = MappedFile(path)
    header = _header(file)
    chosen = tuple(dict.fromkeys(header.modalities if modalities is None else modalities))
    absent = [name for name in chosen if name not in header.modalities]
    if absent or not chosen:
        held = ", ".join(header.modalities) or "nothing of ImageBind"
        raise ModelError(f"{path.name} holds {held}; not {', '.join(absent) or 'any modality'}.")
    merged = {
        name: {**header.settings.get(name, {}), **(settings or {}).get(name, {})} for name in chosen
    }
    model, report = account(path.name, header.shapes, chosen, merged)
    size = 0
    state: dict[str, Tensor] = {}
    for name in report.loaded:
        tensor = file.tensor(name)
        counted = name.endswith("num_batches_tracked")
        if tensor.dtype not in ((torch.int64,) if counted else FLOATS):
            raise ModelError(f"{path.name}: the tensor {name} is {tensor.dtype}, not a float.")
        size += tensor.numel() * tensor.element_size()
        if name.endswith("text.mask"):
            check_mask(path.name, tensor)
        keep = tensor.dtype if counted or dtype is None else dtype
        wanted = torch.float32 if name.endswith(_KEPT_FLOAT32) else keep
        state[name] = tensor.to(device=device, dtype=wanted)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False), replace(report, bytes=size)


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
