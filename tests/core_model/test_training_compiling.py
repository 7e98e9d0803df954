"""`compile: true`: the same curve, the same names, and a word where no compiler is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from anybind.core_model.training.progress import read_metrics
from anybind.core_model.training.state import checkpoints, read
from anybind.core_model.training.trainer import train
from anybind.errors import UserError
from tests.core_model.train_tiny import TinyBatches, stage, write_base


@pytest.mark.skipif(not shutil.which("g++"), reason="takes a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's compiler touches what its own warnings are about
def test_compiled_layers_learn_the_same(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    base = write_base(tmp_path / "base")
    curves: list[list[float]] = []
    names: list[set[str]] = []
    for compiled in (False, True):
        run = tmp_path / f"run-{compiled}"
        train(stage(base, steps=4, compile=compiled), run, batches=TinyBatches(), live=False)
        curves.append([float(row["loss"]) for row in read_metrics(run / "metrics.csv")])
        names.append(set(read(checkpoints(run)[-1]).trainables))
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert names[0] == names[1]


def test_without_a_compiler_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    config = stage(write_base(tmp_path / "base"), steps=1, compile=True)
    with pytest.raises(UserError, match=r"compile=false"):
        train(config, tmp_path / "run", batches=TinyBatches(), live=False)
