"""Starting near known pictures: the memory file, the mix of neighbours, the late schedule."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anybind.content import Embedding
from anybind.contracts import Build
from anybind.generators.starts import LateDDIM, Starts
from anybind.generators.unclip import UnclipGenerator


def _starts() -> Starts:
    generator = torch.Generator().manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(6, 16, generator=generator), dim=1)
    return Starts(keys, torch.randn(6, 4, 4, 4, generator=generator))


def test_the_memory_survives_four_bits(tmp_path: Path) -> None:
    known = _starts()
    known.save(tmp_path / "starts.safetensors")
    read = Starts.load(tmp_path / "starts.safetensors")
    assert (read.keys * known.keys).sum(1).min() > 0.99
    step = 4 / 7 * known.latents.std((0, 2, 3)).max()
    assert (read.latents - known.latents).abs().max() < step / 2 + 1e-4
    size = (tmp_path / "starts.safetensors").stat().st_size
    assert size < 6 * (16 + 64) / 2 + 600


def test_the_nearest_key_wins_when_the_mix_is_sharp() -> None:
    known = _starts()
    for index in range(6):
        near = known.near(known.keys[index : index + 1] * 3, (4, 4), top_k=3, temperature=1e4)
        assert torch.allclose(near[0], known.latents[index], atol=1e-4)
    soft = known.near(known.keys[:1], (8, 8), top_k=6, temperature=0.0)
    assert soft.shape == (1, 4, 8, 8)
    assert torch.allclose(soft.mean((2, 3)), known.latents.mean((0, 2, 3))[None], atol=1e-4)


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 20), (0.75, 15), (0.01, 1)])
def test_the_late_schedule_runs_the_last_steps(strength: float, steps: int) -> None:
    late = LateDDIM(timestep_spacing="trailing")
    late.set_timesteps(20)
    whole = late.timesteps.tolist()
    late.strength = strength
    late.set_timesteps(20)
    assert late.timesteps.tolist() == whole[20 - steps :]


def test_a_start_shows_in_the_picture_less_the_more_is_denoised(
    hub_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(hub_folder, folder)
    vector = np.zeros(16, np.float32)
    vector[0] = 1
    condition = Embedding(lazy=Embedding.of(vector).lazy, space="letters")

    def draw(level: float, strength: float) -> np.ndarray:
        Starts(torch.eye(16)[:1], level * _starts().latents[:1]).save(folder / "starts.safetensors")
        options = {"space": "letters", "steps": 10, "strength": strength, "guidance": 1.0}
        made = UnclipGenerator.from_build(Build({"pipeline": folder}, options))
        return np.asarray(made.generate(condition, None).data, np.float32)

    late = np.abs(draw(3.0, 0.1) - draw(-3.0, 0.1)).mean()
    early = np.abs(draw(3.0, 0.9) - draw(-3.0, 0.9)).mean()
    never = np.abs(draw(3.0, 1.0) - draw(-3.0, 1.0)).mean()
    assert late > early > never == 0
