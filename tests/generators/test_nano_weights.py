"""The weights that nano ships: they load, are small, and draw what the embedding says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from anybind.bundles import FOLDER as BUNDLES
from anybind.content import Embedding
from anybind.contracts import Build
from anybind.generators.starts import Starts
from anybind.generators.unclip import UnclipGenerator

FOLDER = BUNDLES / "nano" / "generator"
#: Rows of the memory spread over its groups: faces, animals, food, places, things, signs.
ROWS = tuple(range(40, 1440, 140))


@pytest.fixture(scope="module")
def known() -> Starts:
    return Starts.load(FOLDER / "starts.safetensors")


def _latent(made: UnclipGenerator, picture: PILImage.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return made._pipeline.vae.encode(pixels).latent_dist.mean


def _ranks(known: Starts, **options: float) -> list[int]:
    """For each row: how many other known pictures the drawn one is nearer to."""
    made = UnclipGenerator.from_build(Build({"pipeline": FOLDER}, {"size": 0, **options}))
    found: list[int] = []
    for row in ROWS:
        key = Embedding.of(known.keys[row].numpy())
        drawn = made.generate(dataclasses.replace(key, space=made.space), None, seed=row).data
        far = (known.latents - _latent(made, drawn)).square().mean((1, 2, 3))
        found.append(int((far < far[row]).sum()))
    return found


def test_the_folder_is_small_and_has_a_card() -> None:
    files = [f for f in FOLDER.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 14_000_000
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert "MIT" in Path(FOLDER / "MODEL_CARD.md").read_text("utf-8")


def test_what_is_drawn_is_what_the_embedding_says(known: Starts) -> None:
    ranks = _ranks(known)
    assert sum(rank == 0 for rank in ranks) >= len(ROWS) // 2, ranks


def test_the_network_listens_without_a_start_too(known: Starts) -> None:
    ranks = _ranks(known, strength=1.0)
    # By chance the median would be half of the memory.
    assert np.median(ranks) < len(known.keys) / 5, ranks
