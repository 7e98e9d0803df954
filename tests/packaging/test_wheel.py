"""The built wheel holds all of anybind, and nothing outside the one import root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

CODE = """
import importlib, json, pathlib, sys
import anybind
root = pathlib.Path(anybind.__file__).parent
assert str(root).startswith(sys.argv[1]), root
names = []
for file in sorted(root.rglob("*.py")):
    if file.name == "__main__.py":
        continue
    parts = file.relative_to(root.parent).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    importlib.import_module(name)
    assert str(sys.modules[name].__file__).startswith(sys.argv[1]), name
    names.append(name)
print(json.dumps(names))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, root: Path, project: dict[str, Any]) -> Path:
    """Built from a copy of what a release holds, so that the tree stays clean."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(root / name, copy / name)
    for folder in project["tool"]["setuptools"]["package-dir"].values():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / folder, copy / folder, ignore=ignore)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(out)],
        cwd=copy,
        check=True,
        capture_output=True,
        text=True,
    )
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own, as pip installs it."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run(
        [*command, "--no-compile", "--target", str(target), str(wheel)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return target


def test_one_import_root(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"anybind", "anybind-0.1.0.dist-info"}


def test_every_file_is_in(wheel: Path, rooms: dict[str, Path]) -> None:
    wanted = {
        f"{package.replace('.', '/')}/{file.relative_to(folder)}"
        for package, folder in rooms.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        there = {n for n in archive.namelist() if not n.startswith("anybind-")}
        inside = archive.namelist()
    assert there == wanted
    assert {"anybind/py.typed", "anybind/bundles/nano/bundle.json"} <= there
    licences = "anybind-0.1.0.dist-info/licenses/"
    assert {f"{licences}LICENSE", f"{licences}NOTICE"} <= set(inside)


def test_every_module_imports_from_the_wheel(run: Any, installed: Path, tmp_path: Path) -> None:
    done = run("-c", CODE, str(installed), path=[installed], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"anybind.agent.loop"' in done.stdout


def test_no_bare_room_is_importable(run: Any, installed: Path, tmp_path: Path) -> None:
    code = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    rooms = ["agent", "core_model", "experts", "generators", "tools"]
    done = run("-c", code, *rooms, path=[installed], cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_the_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    script = installed / "bin" / "anybind"
    env = os.environ | {"PYTHONPATH": str(installed)}
    for arguments, expected in ((["--help"], "Usage"), (["bundles"], "nano")):
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True, text=True, env=env, cwd=tmp_path, check=True, timeout=120,
        )  # fmt: skip
        assert expected in done.stdout
