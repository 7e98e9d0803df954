"""Helpers of the tests of training data: files, and an encoder that needs no weights."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pil

from anybind.core_model.training.data import FeatureMaker, Mixer, open_sources
from anybind.core_model.training.data.config import read_data_config
from anybind.core_model.training.samples import TrainingSample

DIM = 8


class Colours:
    """An encoder whose embedding is the mean colour of a picture."""

    modalities = frozenset({"image"})
    space = "colours"
    dim = DIM

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, parts: Any) -> Any:
        self.batches.append(len(parts))
        rows = np.ones((len(parts), DIM), np.float32)
        for row, part in zip(rows, parts, strict=True):
            row[:3] = np.asarray(part.data, np.float32).mean((0, 1)) + 1
        return type("Made", (), {"unit": rows / np.linalg.norm(rows, axis=1, keepdims=True)})

    def close(self) -> None:
        return None


def maker(encoder: Colours | None = None) -> FeatureMaker:
    one = encoder or Colours()
    return FeatureMaker(lambda kind: one, "colours", DIM, batch=4)


def picture(path: Path, colour: tuple[int, int, int] = (200, 10, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pil.new("RGB", (12, 10), colour).save(path)
    return path


def mixer(base: Path, told: list[str] | None = None, /, **source: Any) -> Mixer:
    config = read_data_config(
        {"sources": [{"shuffle": "none", **source}], "epochs": 1}, base, "test"
    )
    report = (lambda line: None) if told is None else told.append
    return open_sources(config, maker=maker(), space="colours", dim=DIM, report=report)


def read(base: Path, told: list[str] | None = None, /, **source: Any) -> list[TrainingSample]:
    return list(mixer(base, told, **source))


def talk(sample: TrainingSample) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in sample.messages]


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def png(colour: tuple[int, int, int] = (200, 10, 10)) -> bytes:
    sink = io.BytesIO()
    pil.new("RGB", (8, 8), colour).save(sink, "PNG")
    return sink.getvalue()


def npy(row: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, row)
    return sink.getvalue()
