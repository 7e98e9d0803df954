"""The project file as data, and runs of fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def rooms(project: dict[str, Any]) -> dict[str, Path]:
    """Package name -> folder, for the six roots."""
    mapping = project["tool"]["setuptools"]["package-dir"]
    return {package: ROOT / folder for package, folder in mapping.items()}


class Run(Protocol):
    def __call__(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        path: Sequence[Path] = (),
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def run() -> Run:
    """Run python with arguments; folders of `path` come first on its module path."""

    def go(
        *command: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        path: Sequence[Path] = (),
    ) -> subprocess.CompletedProcess[str]:
        full = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if path:
            full["PYTHONPATH"] = os.pathsep.join(map(str, path))
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=full | dict(env or {}),
            cwd=cwd or ROOT / "tests",
        )

    return go
