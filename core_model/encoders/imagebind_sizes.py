"""What the shapes of ImageBind's tensors say about its sizes, and what must be told besides.

Knows shapes and the released sizes. Heads, strides and neighbourhoods change no shape: they are
those of the release where the width is, and must be told where it is not. No tensor is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from anybind.core_model.encoders.imagebind_config import (
    OFFICIAL,
    ImageBindConfig,
    TowerConfig,
)
from anybind.core_model.encoders.point_bert import PointConfig
from anybind.core_model.encoders.point_hierarchy import HierarchyConfig
from anybind.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]
Settings = Mapping[str, Mapping[str, Any]]
"""Per modality, what shapes can't tell: heads, stride, size; groups and group_size of points."""

_TOLD = ("heads", "stride", "size", "groups", "group_size")
_WIDEST, _DEEPEST = 1 << 16, 1000


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


def is_hierarchy(shapes: Iterable[str]) -> bool:
    """Whether the point encoder among these names is I2P-MAE's, not Point-BERT."""
    return any(name.startswith("point_trunk.point_encoder.h_encoder.") for name in shapes)


def _hierarchy_sizes(shapes: Shapes) -> HierarchyConfig:
    # Only the released sizes: nothing of it can be told.
    trunk, known = "point_trunk.point_encoder.h_encoder.", HierarchyConfig()
    width, blocks = [], []
    for level in range(len(known.width)):
        name = f"{trunk}encoder_pos_embeds.{level}.2.weight"
        width.append(_sane(_shape(shapes, name, 2)[0], "point"))
        blocks.append(_count(shapes, f"{trunk}encoder_blocks.{level}.blocks."))
    if tuple(width) != known.width:
        raise ModelError(f"A hierarchical point encoder {width} wide was never released.")
    return replace(
        known,
        blocks=tuple(blocks),
        projection=_sane(_shape(shapes, "point_trunk.pc_projection", 2)[1], "point"),
    )


def _point_sizes(shapes: Shapes, told: Mapping[str, Any]) -> PointConfig | HierarchyConfig:
    if is_hierarchy(shapes):
        return _hierarchy_sizes(shapes)
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
        raise ModelError(f"The blocks {prefix}* are not numbered 0, 1, ...: {some(sorted(found))}")
    return len(found)


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
