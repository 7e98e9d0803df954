"""Helpers of the tests of augmented pictures: pictures, sources of them, an encoder of colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pil

from anybind.core_model.training.data import FeatureMaker
from anybind.core_model.training.data.augment import AugmentConfig
from anybind.core_model.training.data.config import read_data_config
from tests.core_model.training_files import DIM, Colours

AUGMENT = AugmentConfig(crop=(0.3, 0.9), flip=0.5, brightness=0.4)


def noise(seed: int, size: tuple[int, int] = (30, 20)) -> pil.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    return pil.fromarray(cells).resize(size, pil.Resampling.BICUBIC)


def maker(encoder: Colours | None = None, batch: int = 4) -> FeatureMaker:
    one = encoder or Colours()
    return FeatureMaker(lambda kind: one, "colours", DIM, batch, AUGMENT)  # pyright: ignore


def data(base: Path, count: int = 20) -> dict[str, Any]:
    """Pictures with captions; the source that reads them."""
    (base / "p").mkdir(exist_ok=True)
    lines = ["url\tcaption"]
    for i in range(count):
        noise(i).save(base / f"p/{i}.png")
        lines.append(f"{i}.png\t{'bcdef'[i % 5] * 3}")
    (base / "d.tsv").write_text("\n".join(lines))
    return {"format": "tsv", "path": "d.tsv", "images": "p"}


def config(base: Path, source: dict[str, Any], *, epochs: int = 1, seed: int = 0) -> Any:
    return read_data_config({"sources": [source], "epochs": epochs, "seed": seed}, base)


def by_key(mixer: Any) -> list[tuple[str, bytes]]:
    return [(s.key, s.feature.tobytes()) for s in mixer]
