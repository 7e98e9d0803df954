"""Commands that docs and model cards quote are there, with the options that they are quoted with."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_COMMAND = re.compile(r"python3? -m (anybind[\w.]*)((?:\\\n|[^\n`])*)")
_PROGRAM = re.compile(r"`((?:agent|core_model|experts|generators|benchmarks|scripts)/[\w/]+\.py)\b")
_FOLDERS = ("", "docs", "anybind/bundles", "benchmarks", "core_model", "generators", "experts")


def commands(text: str) -> list[tuple[str, str]]:
    """Module and the rest of each command in a page."""
    # A name for the beginning of a command, as in T="python -m anybind.x", and `code` over lines.
    for name, begin in re.findall(r'^(\w+)="(python3? -m [\w.]+)"$', text, re.M):
        text = text.replace(f'{name}="{begin}"', "").replace(f"${name}", begin)
    text = re.sub(r"(?<!`)`(?!`)[^`]+`(?!`)", lambda m: m[0].replace("\n", " "), text)
    return _COMMAND.findall(text)


def pages(root: Path) -> Iterator[Path]:
    """Docs, model cards and other texts."""
    for folder in _FOLDERS:
        yield from (root / folder).rglob("*.md") if folder else root.glob("*.md")


def quoted(root: Path) -> Iterator[tuple[str, str, str]]:
    """File, module and the rest of each command."""
    for page in pages(root):
        for module, rest in commands(page.read_text(encoding="utf-8")):
            yield str(page.relative_to(root)), module, rest


def test_quoted_modules_are_programs_with_these_options(root: Path) -> None:
    found = list(quoted(root))
    assert len(found) >= 10
    for page, module, rest in found:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, f"{page}: there is no {module}"
        file = Path(spec.origin)
        if file.name == "__init__.py":
            file = file.with_name("__main__.py")
            assert file.is_file(), f"{page}: {module} can't be run"
        source = file.read_text(encoding="utf-8")
        assert "__main__" in source or file.name == "__main__.py", f"{page}: {module} can't be run"
        options = set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest))
        missing = sorted(o for o in options if f'"{o}"' not in source)
        assert not missing, f"{page}: {module} has no {', '.join(missing)}"


def test_named_programs_are_there(root: Path) -> None:
    found = {
        (page.name, name)
        for page in pages(root)
        for name in _PROGRAM.findall(page.read_text(encoding="utf-8"))
    }
    assert len(found) >= 10
    assert not {(page, name) for page, name in found if not (root / name).is_file()}


@pytest.mark.parametrize(
    "text",
    [
        "python -m anybind.gone --x",
        "a `python -m anybind.gone --y\n --x` b",
        "python -m anybind.gone \\\n  --x\nlater --z",
        'T="python -m anybind"\n$T.gone --x',
    ],
)
def test_a_command_in_a_text_is_found(text: str) -> None:
    ((module, rest),) = commands(text)
    assert module == "anybind.gone" and "--x" in rest and "--z" not in rest
