"""ImageBind as an encoder: parts of up to eight kinds into the joint space "imagebind".

Knows which kind goes to which tower and through which preparation. Each tower is mapped from its
file when its first part comes; a question about a sound never touches the weights of pictures.
Does not open files of users (`anybind.media`) and does not know what an embedding is used for.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.content import AnyPart
from anybind.contracts import Build, Encoding
from anybind.core_model.encoders.imagebind import ImageBind, Outputs
from anybind.core_model.encoders.imagebind_sizes import Settings, infer_config
from anybind.core_model.encoders.imagebind_weights import (
    LoadReport,
    load_imagebind,
    read_header,
)
from anybind.errors import ModelError, UserError

SPACE = "imagebind"

KINDS = {
    "image": "vision",
    "video": "vision",
    "text": "text",
    "audio": "audio",
    "depth": "depth",
    "thermal": "thermal",
    "imu": "imu",
    "point": "point",
}
"""Kind of part -> tower."""

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_OPTIONS = frozenset({"modalities", "precision", "batch", "settings", "preparation"})
_BATCH = 8


class ImageBindEncoder:
    """Pictures, films, texts, sounds, depth, thermal, IMU and points (`anybind.contracts.Encoder`)."""

    def __init__(
        self,
        model: Path,
        *,
        bpe: Path | None = None,
        point: Path | None = None,
        modalities: Iterable[str] | None = None,
        precision: str = "float32",
        device: str = "cpu",
        batch: int = _BATCH,
        settings: Settings | None = None,
        preparation: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Look at the files; nothing of a tower is loaded yet.

        Args:
            model: safetensors with the official names (`anybind convert imagebind`).
            bpe: CLIP's vocabulary, `bpe_simple_vocab_16e6.txt.gz`; needed for texts.
            point: a Point-Bind file of its own (`anybind convert pointbind`); its point encoder is
                taken instead of one in `model`.
            modalities: kinds of parts to take, from `KINDS`; all that the files allow if None.
            precision: a key of `PRECISIONS`. Another one than that of the file is a copy in memory.
            device: where to run.
            batch: parts that run at once (films: always one, which is 15 clips).
            settings: what shapes can't tell about sizes that were never released.
            preparation: kind -> arguments of its function in `anybind.core_model.preprocess`, such
                as `{"depth": {"baseline": 0.095}}`.

        Raises:
            UserError: a modality or option that there is not.
            ModelError: a file that can't be read or does not hold a modality.
        """
        if precision not in PRECISIONS:
            raise UserError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}.")
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise UserError(f"batch is a number of parts from 1 on, not {batch!r}.")
        self._precision, self._device, self._batch = PRECISIONS[precision], device, batch
        self._settings = settings
        self._bpe = bpe
        held: dict[str, Path] = dict.fromkeys(read_header(model).modalities, model)
        if point is not None:
            if "point" not in read_header(point).modalities:
                raise ModelError(f"{point.name} holds no point encoder.")
            held["point"] = point
        self._files = held
        self._modalities = self._choose(modalities, model)
        self._prepare = _preparations(preparation or {})
        self._dim = self._width()
        self._towers: dict[str, ImageBind] = {}
        self._tokenizer: Any = None
        self._lock = threading.Lock()
        self.reports: dict[str, LoadReport] = {}
        """What each load did with the tensors of its file, by tower; towers in use only."""

    def _choose(self, wanted: Iterable[str] | None, model: Path) -> frozenset[str]:
        offered = {kind for kind, tower in KINDS.items() if tower in self._files}
        if wanted is None:
            return frozenset(offered - ({"text"} if self._bpe is None else set()))
        chosen = frozenset([wanted] if isinstance(wanted, str) else wanted)
        if strange := sorted(chosen - set(KINDS)):
            raise UserError(f"ImageBind has no {', '.join(strange)}; it has {', '.join(KINDS)}.")
        if absent := sorted(chosen - offered):
            raise ModelError(f"{model.name} does not hold {', '.join(absent)}.")
        if "text" in chosen and self._bpe is None:
            raise UserError("Texts need the weights `bpe`: bpe_simple_vocab_16e6.txt.gz of CLIP.")
        if not chosen:
            raise UserError("Choose at least one modality for ImageBind.")
        return chosen

    def _width(self) -> int:
        widths = {
            infer_config(header.shapes, [tower], self._merged(header.settings)).dim
            for tower in {KINDS[kind] for kind in self._modalities}
            for header in [read_header(self._files[tower])]
        }
        if len(widths) != 1:
            raise ModelError(f"The files do not share a joint space: widths {sorted(widths)}.")
        return widths.pop()

    def _merged(self, told: Settings) -> Settings:
        mine = self._settings or {}
        return {name: {**told.get(name, {}), **mine.get(name, {})} for name in {*told, *mine}}

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of parts it takes."""
        return self._modalities

    @property
    def space(self) -> str:
        """The joint space of ImageBind and all that was aligned with it."""
        return SPACE

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return self._dim

    def encode(self, parts: Sequence[AnyPart]) -> Encoding:
        """Embed parts of one kind: `unit`, `scaled` and `raw` as `imagebind.Outputs` has them.

        Raises:
            UserError: a kind it does not take, several kinds at once, or a part that can't be used.
            ModelError: the tower does not fit its file, or its output is not finite.
        """
        kinds = {part.kind for part in parts}
        if len(kinds) > 1:
            raise UserError(f"One batch is of one kind, not {', '.join(sorted(kinds))}.")
        if not kinds:
            empty = np.zeros((0, self._dim), np.float32)
            return Encoding(unit=empty, raw=empty, scaled=empty)
        kind = kinds.pop()
        if kind not in self._modalities:
            taken = ", ".join(sorted(self._modalities))
            raise UserError(f"This ImageBind takes {taken}; not {kind}.")
        tower = self._tower(KINDS[kind])
        step = 1 if kind == "video" else self._batch
        outputs = [
            self._run(kind, tower, [part.data for part in parts[start : start + step]])
            for start in range(0, len(parts), step)
        ]
        unit, scaled, raw = (_array(torch.cat(rows)) for rows in zip(*outputs, strict=True))
        if not np.isfinite(raw).all():
            raise ModelError(
                f"ImageBind's {kind} gives numbers that are not finite; if its precision is "
                "float16, use bfloat16 or float32."
            )
        return Encoding(unit=unit, raw=raw, scaled=scaled)

    @torch.inference_mode()
    def _run(self, kind: str, tower: ImageBind, data: list[Any]) -> Outputs:
        if kind == "text":
            ids = self._words().encode(data)
            # Attention only looks back and the head reads the end: what follows it is dead weight.
            inputs = ids[:, : int(ids.argmax(-1).max()) + 1]
        else:
            prepare = self._prepare[kind]
            inputs = torch.stack([torch.as_tensor(prepare(item)) for item in data])
        return tower(KINDS[kind], inputs.to(self._device))

    def _tower(self, name: str) -> ImageBind:
        with self._lock:
            if name not in self._towers:
                model, report = load_imagebind(
                    self._files[name],
                    [name],
                    dtype=self._precision,
                    device=self._device,
                    settings=self._settings,
                )
                self._towers[name], self.reports[name] = model, report
            return self._towers[name]

    def _words(self) -> Any:
        if self._tokenizer is None:
            from anybind.core_model.preprocess.text import ClipTokenizer

            assert self._bpe is not None
            tokenizer = ClipTokenizer(self._bpe)
            vocabulary = self._tower("text").config.towers["text"].vocabulary
            if tokenizer.size != vocabulary:
                raise ModelError(
                    f"{self._bpe.name} has {tokenizer.size} ids, the text encoder {vocabulary}."
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def close(self) -> None:
        """Give back the towers; they are mapped again if another part comes."""
        with self._lock:
            self._towers.clear()
            self.reports.clear()


def _preparations(arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[..., Tensor]]:
    """What turns the data of a part into the input of its tower, by kind."""
    from anybind.core_model.preprocess import audio, depth, image, imu, points, thermal, video

    made: dict[str, Callable[..., Tensor]] = {
        "image": image.image_tensor,
        "video": video.video_clips,
        "audio": audio.audio_clips,
        "depth": depth.depth_tensor,
        "thermal": thermal.thermal_tensor,
        "imu": imu.imu_tensor,
        "point": points.point_tensor,
    }
    for kind, given in arguments.items():
        if kind not in made:
            raise UserError(f"There is no preparation of {kind!r}; there is {', '.join(made)}.")
        known = list(inspect.signature(made[kind]).parameters)[1:]
        if not isinstance(given, Mapping) or not set(given) <= set(known):
            raise UserError(f"The preparation of {kind} takes {', '.join(known)}; not {given!r}.")
        made[kind] = partial(made[kind], **given)
    return made


def _array(rows: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows.float().cpu().numpy(), dtype=np.float32)


def build(build: Build) -> ImageBindEncoder:
    """Factory: weights "model", and "bpe" and "point" where wanted; options as the arguments.

    Raises:
        UserError: an option that there is not.
    """
    if strange := sorted(set(build.options) - _OPTIONS):
        raise UserError(
            f"The encoder imagebind has no option {', '.join(strange)}; "
            f"it has {', '.join(sorted(_OPTIONS))}."
        )
    return ImageBindEncoder(
        build.weights["model"],
        bpe=build.weights.get("bpe"),
        point=build.weights.get("point"),
        device=build.device,
        **build.options,
    )
