"""Damaged and hostile files, thousands of each kind: nothing but our own errors, and no memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNTS = dict.fromkeys(("ply", "obj", "pcd", "stl", "npy", "wav", "video", "imu"), 5000)
COUNTS |= dict.fromkeys(("off", "glb", "xyz", "depth"), 1000)


@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_give_user_errors_and_take_no_memory(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fuzzing.py")), kind, str(COUNTS[kind])],
        capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    result = json.loads(done.stdout)
    assert result["other"] == []
    assert result["opened"] + result["refused"] == COUNTS[kind]
    # Some damage is harmless, most is not: otherwise nothing was tried.
    assert result["opened"] > 0.01 * COUNTS[kind] and result["refused"] > 0.3 * COUNTS[kind]
    assert result["grown_mb"] < 200
    assert result["slowest"] < 5.0
