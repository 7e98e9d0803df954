"""Link the six folders together as one package tree, for tools that read source, not installs.

`anybind.agent` lives in agent/, `anybind` in anybind/ and so on; pip follows the mapping in
pyproject.toml, pyright and import-linter do not. This writes .typing/anybind: folders, with a link
for each Python file (import-linter does not walk into linked folders).
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Make the tree anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    mapping: dict[str, str] = project["tool"]["setuptools"]["package-dir"]
    tree = ROOT / ".typing"
    shutil.rmtree(tree, ignore_errors=True)
    for package, folder in mapping.items():
        for file in (ROOT / folder).rglob("*.py"):
            link = tree / package.replace(".", "/") / file.relative_to(ROOT / folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(file, link.parent))
    (tree / "anybind" / "py.typed").touch()


if __name__ == "__main__":
    main()
