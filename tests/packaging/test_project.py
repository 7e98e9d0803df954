"""pyproject.toml says what the tree holds: packages, extras, contracts, pins."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement


def sources(rooms: dict[str, Path]) -> Iterator[tuple[Path, ast.Module]]:
    for folder in rooms.values():
        for path in folder.rglob("*.py"):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def in_extra(project: dict[str, Any], extra: str) -> set[str]:
    """Every distribution that an extra names, its references to other extras followed."""
    found = {normal(Requirement(r).name) for r in project["project"]["dependencies"]}
    for text in project["project"]["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "anybind":
            for other in requirement.extras:
                found |= in_extra(project, other)
        else:
            found.add(normal(requirement.name))
    return found


def provides(module: str, distributions: set[str]) -> bool:
    top = module.partition(".")[0]
    return any(normal(d) in distributions for d in packages_distributions().get(top, ()))


def test_every_package_is_listed(project: dict[str, Any], rooms: dict[str, Path]) -> None:
    found = {
        ".".join((package, *init.parent.relative_to(folder).parts))
        for package, folder in rooms.items()
        for init in folder.rglob("__init__.py")
    }
    assert found == set(project["tool"]["setuptools"]["packages"])


def test_every_folder_with_code_is_a_package(rooms: dict[str, Path]) -> None:
    folders = {path.parent for folder in rooms.values() for path in folder.rglob("*.py")}
    assert [f for f in folders if not (f / "__init__.py").exists()] == []


def test_required_extras_exist_and_bring_their_module(
    project: dict[str, Any], rooms: dict[str, Path]
) -> None:
    seen = 0
    for path, tree in sources(rooms):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require"):
                continue
            arguments = [a.value for a in node.args if isinstance(a, ast.Constant)]
            arguments += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
            module, extra = arguments
            where = f"{path}:{node.lineno}"
            assert extra in project["project"]["optional-dependencies"], where
            assert provides(module, in_extra(project, extra)), where
            seen += 1
    assert seen > 10


def test_extras_that_messages_name_exist(project: dict[str, Any], rooms: dict[str, Path]) -> None:
    for path, _ in sources(rooms):
        for extra in re.findall(r"anybind\[([a-z_,]+)\]", path.read_text(encoding="utf-8")):
            assert set(extra.split(",")) <= set(project["project"]["optional-dependencies"]), path


def test_specs_name_extras_that_bring_what_they_need(project: dict[str, Any]) -> None:
    from anybind.plugins import registry

    offers = registry()
    specs = [
        spec
        for table in (offers.encoders, offers.models, offers.experts, offers.generators)
        for spec in table.values()
        if spec.factory.__module__.startswith("anybind.")
    ]
    assert specs
    for spec in specs:
        if spec.needs:
            distributions = in_extra(project, spec.extra)
            assert [m for m in spec.needs if not provides(m, distributions)] == [], spec.name


def test_pins_are_exact_and_cover_the_extras(project: dict[str, Any], root: Path) -> None:
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = {}
    for line in lines:
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line)
        assert match, line
        pins[match[1]] = match[2]
    assert pins["torch"] == "2.13.0"
    assert not {"triton", "torchvision", "torchaudio"} & set(pins)
    for extra in ("all", "dev"):
        assert in_extra(project, extra) <= set(pins)
    for texts in (
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
    ):
        for requirement in map(Requirement, texts):
            if requirement.name in pins:
                assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_contracts_name_every_module(project: dict[str, Any], rooms: dict[str, Path]) -> None:
    """A new module of hallway or agent must be put under its import contract."""
    contracts = {c["name"]: c for c in project["tool"]["importlinter"]["contracts"]}

    def modules(room: str) -> set[str]:
        inner = [p for p in rooms[room].iterdir() if p.name not in ("__init__.py", "__pycache__")]
        return {f"{room}.{p.stem}" for p in inner if p.suffix == ".py" or p.is_dir()}

    assert set(contracts["The hallway imports no room"]["source_modules"]) == modules("anybind")
    doors = set(contracts["The loop knows no front door"]["forbidden_modules"])
    loop = set(contracts["The loop knows no front door"]["source_modules"])
    assert loop == modules("anybind.agent") - doors


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_papers_are_there(root: Path, name: str) -> None:
    assert len((root / name).read_text(encoding="utf-8")) > 500


def test_nothing_in_the_tree_names_the_machine(rooms: dict[str, Path], root: Path) -> None:
    own = Path(__file__)
    files = [p for folder in rooms.values() for p in folder.rglob("*.py")]
    files += [p for p in (root / "tests").rglob("*.py") if p != own]
    files += [
        *root.glob("*.md"),
        *root.glob("docs/*.md"),
        root / "Makefile",
        root / "constraints.txt",
    ]
    bad = re.compile(r"/work/|/root/|/home/\w+/|files\.pythonhosted|registry\.npmjs")
    assert [p for p in files if p.exists() and bad.search(p.read_text(encoding="utf-8"))] == []
