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
from anybind.generators.unclip import UnclipGenerator, load_pipeline, saved_options

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


def test_the_network_denoises_its_start(known: Starts) -> None:
    """At 0.6 of the schedule noise outweighs the start; most of it is gone in the picture."""
    pipeline = load_pipeline(FOLDER, "cpu")
    options = saved_options(FOLDER) | {"size": 0}
    share = float(pipeline.scheduler.alphas_cumprod[round(1000 * options["strength"]) - 1])
    noise = (1 - share) / share
    errors: list[float] = []
    for row in ROWS:
        start = Starts(known.keys[row : row + 1], known.latents[row : row + 1])
        made = UnclipGenerator(pipeline, starts=start, **options)
        key = Embedding.of(known.keys[row].numpy())
        drawn = made.generate(dataclasses.replace(key, space=made.space), None, seed=row).data
        errors.append(float((_latent(made, drawn) - known.latents[row]).square().mean()))
    assert noise > 1.5
    assert np.mean(errors) < noise / 5, errors


def test_the_network_listens_it_does_not_only_copy_the_start(known: Starts) -> None:
    """From one and the same start, the right embedding leads nearer to its picture."""
    pipeline = load_pipeline(FOLDER, "cpu")
    options = saved_options(FOLDER) | {"size": 0, "noise_level": 0}
    gains: list[float] = []
    for row, other in zip(ROWS, reversed(ROWS), strict=True):
        start = Starts(known.keys[row : row + 1], known.latents[row : row + 1])
        made = UnclipGenerator(pipeline, starts=start, **options)
        errors: list[float] = []
        for wanted in (row, other):
            key = Embedding.of(known.keys[wanted].numpy())
            drawn = made.generate(dataclasses.replace(key, space=made.space), None, seed=row).data
            errors.append(float((_latent(made, drawn) - known.latents[row]).square().mean()))
        gains.append(errors[1] - errors[0])
    assert np.mean(gains) > 0, gains
    assert sum(gain > 0 for gain in gains) >= 7, gains
