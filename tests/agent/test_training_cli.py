"""`anybind train`, `export` and `plot` by the command line, end to end on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from anybind.core_model.training.progress import read_metrics
from tests.core_model.train_tiny import JOINT, settings, write_base

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_base(folder / "base")
    tree = settings(Path("base"), model__chat="chatml", model__bind__first_layer=2)
    tree["data"] = {"sources": [{"format": "jsonl", "path": "data.jsonl"}]}
    tree["batch"] = {"max_tokens": 64, "tokens": 64, "accumulation": 2}
    tree |= {"steps": 6, "save": {"every": 2, "keep": 2}}
    (folder / "stage.yaml").write_text(yaml.safe_dump(tree))
    with (folder / "data.jsonl").open("w") as stream:
        for i in range(40):
            kind = i % JOINT
            messages = [
                {"role": "user", "content": "ab"},
                {"role": "assistant", "content": chr(98 + kind) * 3},
            ]
            feature = [float(j == kind) for j in range(JOINT)]
            stream.write(json.dumps({"messages": messages, "feature": feature}) + "\n")
    return folder


@pytest.fixture
def anybind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the console script in the folder: exit code, what it printed, what it complained of."""
    from anybind.agent.cli.app import main

    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anybind", *words])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_the_shipped_stages_are_listed(anybind: Run, folder: Path) -> None:
    code, out, _ = anybind("train", "--list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["pretrain"]["trainables"] == ["bind", "queries", "gates"]


def test_from_a_config_to_a_picture_and_a_file(anybind: Run, folder: Path) -> None:
    code, out, err = anybind("train", "stage.yaml", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["samples"] == 40
    assert not (folder / "runs").exists()
    code, out, err = anybind("train", "stage.yaml", "--json", "--set", "optimizer.lr=0.02")
    assert code == 0, err
    said: dict[str, Any] = json.loads(out)
    assert said["step"] == 6 and said["run"] == "runs/stage" and not said["stopped"]
    assert "step 6 (100.0 %)" in err
    code, _, err = anybind("train", "stage.yaml")
    assert code == 2 and "--resume" in err
    code, _, err = anybind("plot", "runs/stage", "--out", "curves.png")
    assert code == 0, err
    assert (folder / "curves.png").stat().st_size > 10_000
    code, out, err = anybind(
        "export", "runs/stage", "--as", "bind", "--out", "bind.safetensors", "--json"
    )
    assert code == 0, err
    assert (
        json.loads(out)["files"] == ["bind.safetensors"] and (folder / "bind.safetensors").exists()
    )
    code, _, err = anybind("export", "runs/stage", "--as", "paper", "--out", "x")
    assert code == 2 and "adapter, bind, hf, gguf, merged" in err


def test_two_processes_by_the_launcher(anybind: Run, folder: Path) -> None:
    code, _, err = anybind("train", "stage.yaml", "--out", "one", "--set", "steps=3")
    assert code == 0, err
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "-m", "anybind.agent.cli"]
    command += ["train", "stage.yaml", "--out", "two", "--json", "--set", "steps=3"]
    done = subprocess.run(
        [*command, "--set", "batch.accumulation=1"], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["step"] == 3  # one of the two speaks
    one, two = (read_metrics(folder / n / "metrics.csv") for n in ("one", "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert a["samples"] == b["samples"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_what_is_wrong_is_said_in_a_line(anybind: Run, folder: Path) -> None:
    code, _, err = anybind("train", "stage.yaml", "--set", "optimizer.rate=1", "--dry-run")
    assert code == 2 and "optimizer.rate: no such key" in err and "Traceback" not in err
    code, _, err = anybind("train", "nowhere.yaml")
    assert code == 2 and "nowhere.yaml" in err and "pretrain" in err
    code, _, err = anybind("train")
    assert code != 0 and "CONFIG" in err
