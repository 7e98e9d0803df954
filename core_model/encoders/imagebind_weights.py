"""ImageBind from a safetensors file: only the chosen modalities, mapped from disk, all names accounted for.

Knows the file's header and which tensor belongs to which modality; what shapes say about the sizes,
`imagebind_sizes` knows. Every load gives a `LoadReport`. Does not read pickles
(`anybind.core_model.convert.imagebind` turns those into such a file once) and does not run the model.

Nothing is read that is not asked for: the tensors of a chosen modality are views into the mapped
file, paged in when they are first used. Only another precision or device makes a copy, tensor by
tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.encoders.imagebind import ImageBind
from anybind.core_model.encoders.imagebind_config import TOWERS
from anybind.core_model.encoders.imagebind_sizes import Settings, Shapes, infer_config, some
from anybind.core_model.encoders.mapped import MappedFile
from anybind.errors import ModelError

FORMAT = "anybind-imagebind-1"
"""`format` in the metadata of files that our converters write."""

_PLACE = re.compile(r"modality_(?:preprocessors|trunks|heads|postprocessors)\.([a-z]+)\.")
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
                parts.append(f"{len(names)} {what} ({some(names)})")
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
