"""`scripts/nano.py`: what is there is not made again, and every step can be asked for by name."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


def _run(*options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False, **more
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
    weights = json.loads((tmp_path / "bundle/bundle.json").read_text())["weights"]
    own = {w["ref"].removeprefix("file:") for w in weights.values() if w["ref"].startswith("file:")}
    assert own & made == {"sound_words.txt", "tagger", "generator"}
    assert [p.name for p in (tmp_path / "bundle/generator").iterdir()] == ["MODEL_CARD.md"]


def test_the_bundle_ends_with_all_that_ships(tmp_path: Path, nano: ModuleType) -> None:
    nano.bundle_without_trained(tmp_path)
    begins = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    made = {m.removeprefix("bundle/") for s in nano.steps() for m in s.makes if "bundle/" in m}
    ships = {p.relative_to(nano.NANO).as_posix() for p in nano.NANO.rglob("*") if p.is_file()}
    assert begins | {m for m in made if not m.endswith(".new")} == ships


def test_what_is_needed_is_made_before(nano: ModuleType) -> None:
    steps = nano.steps()
    maker = {made: number for number, step in enumerate(steps) for made in step.makes}
    for number, step in enumerate(steps):
        before = dict(zip(step.command[1:], step.command, strict=False))
        late = [w for w in before if before[w] != "--out" and maker.get(w, 0) > number]
        assert not late, f"{step.name} needs {late}"
    names = [s.name for s in steps]
    assert names.index("eye") < names.index("drawings") < names.index("conversations")
    assert names.index("ears") < names.index("sounds") < names.index("conversations")


@pytest.mark.parametrize("program", ["fluidsynth", "espeak-ng", "npm", "dpkg-deb"])
def test_missing_programs_are_named_before_anything_starts(tmp_path: Path, program: str) -> None:
    said = _run("--work", str(tmp_path), env={"PATH": str(tmp_path)})
    assert said.returncode == 2 and f"needs {program} " in said.stderr
    assert not said.stdout and not list(tmp_path.iterdir())


def test_programs_of_steps_that_are_done_are_not_asked_for(tmp_path: Path) -> None:
    said = _run("--work", str(tmp_path), "--only", "bundle", env={"PATH": str(tmp_path)})
    assert said.returncode == 0


def test_a_command_that_ends_leaves_a_mark(tmp_path: Path, nano: ModuleType) -> None:
    (tmp_path / "runs").mkdir()
    step = nano.Step("x", ("runs/x.done",), (sys.executable, "-c", "raise SystemExit(1)"), 1)
    with pytest.raises(subprocess.CalledProcessError):
        nano.run(step, tmp_path)
    assert not (tmp_path / "runs/x.done").exists()
    nano.run(nano.Step("x", step.makes, (sys.executable, "-c", ""), 1), tmp_path)
    assert (tmp_path / "runs/x.done").exists()


class _Parsed(Exception):
    """The options were understood."""


def test_every_command_is_understood(nano: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, *_: Any) -> None:
        parse(self)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    tried = 0
    for step in nano.steps():
        if "-m" not in step.command:
            continue
        _, _, name, *options = step.command
        program = importlib.import_module(name)
        if hasattr(program, "__path__"):
            program = importlib.import_module(f"{name}.__main__")
        monkeypatch.setattr(sys, "argv", [name, *options])
        try:
            program.main()
        except _Parsed:
            tried += 1
        except SystemExit:
            pytest.fail(f"{step.name}: {name} does not understand {options}")
    assert tried >= 15


def test_the_packages_fetched_have_parts(nano: ModuleType, tmp_path: Path) -> None:
    """The parts that the steps ask for are those of the script that fetches."""
    script = str(ROOT / "scripts/nano_sources.py")
    asked = {s.command[s.command.index("--part") + 1] for s in nano.steps() if script in s.command}
    assert asked == {"drawings", "sounds", "emoji"}
    wrong = subprocess.run(
        [sys.executable, script, "--out", str(tmp_path), "--part", "none"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 2 and all(part in wrong.stderr for part in asked)


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
