"""`scripts/nano.py`: what is there is not made again, and every step can be asked for by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/nano.py"


@pytest.fixture(scope="module")
def nano() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nano_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False
    )


def test_it_lists_what_there_is_to_do(tmp_path: Path, nano: ModuleType) -> None:
    said = _run("--work", str(tmp_path), "--list").stdout.splitlines()
    assert [line.split()[0] for line in said] == [s.name for s in nano.steps()]
    assert all("to do" in line for line in said)


def test_what_is_there_is_not_made_again(tmp_path: Path, nano: ModuleType) -> None:
    for step in nano.steps():
        for made in step.makes:
            (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / made).touch()
    done = _run("--work", str(tmp_path))
    assert done.returncode == 0 and done.stdout.count("done") == len(nano.steps())


def test_the_bundle_begins_without_what_is_trained(tmp_path: Path) -> None:
    assert _run("--work", str(tmp_path), "--only", "bundle").returncode == 0
    made = {p.name for p in (tmp_path / "bundle").iterdir()}
    assert "bundle.json" in made and "tagger" in made
    assert not made & {"bind.safetensors", "image_hub.safetensors"}


def test_unknown_steps_are_named(tmp_path: Path) -> None:
    said = _run("--work", str(tmp_path), "--only", "haed")
    assert said.returncode == 2 and "haed" in said.stderr and "head" in said.stderr


def test_the_stages_are_shipped_and_modules_exist(nano: ModuleType) -> None:
    from anybind.core_model.training.config import load_config, shipped

    assert set(nano.STAGES) <= set(shipped())
    inits = [load_config(stage).model.init for stage in nano.STAGES]
    assert [Path(str(i)).name for i in inits[1:]] == list(nano.STAGES[:-1])
    for step in nano.steps():
        if "-m" in step.command:
            assert importlib.util.find_spec(step.command[step.command.index("-m") + 1])
