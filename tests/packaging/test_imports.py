"""What an import costs: no heavy library, no wait."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "cv2", "transformers", "diffusers", "whisper", "nltk", "faiss", "scipy", "numba")
CODE = (
    "import {0}, sys, json; print(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
)


@pytest.mark.parametrize(
    "module",
    [
        "anybind",
        "anybind.agent",
        "anybind.agent.cli",
        "anybind.agent.protocol",
        "anybind.agent.session",
        "anybind.assembly",
        "anybind.bundles",
        "anybind.content",
        "anybind.contracts",
        "anybind.core_model",
        "anybind.core_model.plugin",
        "anybind.drawing",
        "anybind.experts.plugin",
        "anybind.generators.plugin",
        "anybind.hooks",
        "anybind.media",
        "anybind.plugins",
        "anybind.tooling",
        "anybind.tools.plugin",
        "anybind.weights",
        "anybind_example",
    ],
)
def test_importing_loads_no_heavy_library(run: Any, module: str) -> None:
    done = run("-c", CODE.format(module))
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) & set(HEAVY) == set()


def test_the_registry_loads_no_heavy_library(run: Any) -> None:
    code = CODE.format("anybind.plugins").replace("; print", "; anybind.plugins.registry(); print")
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) & set(HEAVY) == set()


def test_help_answers_at_once() -> None:
    """Under 0.3 s; the best of ten, for the machine may be busy with other things."""
    command = [str(Path(sys.executable).with_name("anybind")), "--help"]
    times: list[float] = []
    for _ in range(10):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        times.append(time.perf_counter() - began)
        assert "Commands" in done.stdout
        if times[-1] < 0.3:
            break
    assert min(times) < 0.3, times


@pytest.mark.parametrize("command", ["ask", "batch", "chat", "embed", "tools", "doctor"])
def test_help_of_commands_loads_no_torch(run: Any, command: str) -> None:
    code = (
        "import sys; sys.argv = ['anybind', sys.argv[1], '--help']\n"
        "from anybind.agent.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = run("-c", code, command)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
