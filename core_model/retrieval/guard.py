"""FAISS reads an index here, and only after the file was checked.

A file that is new to this machine is walked in full and then read, searched and reconstructed from
in a process of its own with limits: what crashes FAISS costs that process, not ours. The result
is remembered under `ANYBIND_HOME` by path, size and time of the file. Files that anybind has just
written are remembered without the detour.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from anybind.core_model.retrieval.faiss_files import IndexFile, inspect
from anybind.errors import ModelError
from anybind.optional import require
from anybind.weights import home

CHECK_SECONDS = 300
CHECK_MEMORY = 4 << 30
"""Address space of the checking process beside three times the file."""


def read_index(path: Path, *, mapped: bool = True) -> tuple[Any, IndexFile]:
    """The FAISS index of a file (memory-mapped where its kind allows) and what it holds.

    Raises:
        ModelError: not an index that anybind reads, damaged, not by inner product, or it brought
            the checking process down.
        MissingExtra: FAISS is not installed.
    """
    faiss: Any = require("faiss", "model")
    if not path.is_file():
        raise ModelError(f"There is no index file {path}.")
    seen = known(path)
    found = inspect(path, deep=not seen)
    if not found.inner_product:
        raise ModelError(
            f"{path.name} ranks by {'L2 distance' if found.metric == 1 else 'another metric'}; a cache "
            "ranks by inner product. Rebuild it with faiss.METRIC_INNER_PRODUCT."
        )
    if found.rows == 0:
        raise ModelError(f"{path.name} holds no rows.")
    if not seen:
        _try(path)
        remember(path)
    return _open(faiss, path, mapped), found


def _open(faiss: Any, path: Path, mapped: bool) -> Any:
    flags = [0]
    if mapped:
        names = ("IO_FLAG_MMAP_IFC", "IO_FLAG_MMAP")  # the first is younger and maps more kinds
        flags = [getattr(faiss, n) | faiss.IO_FLAG_READ_ONLY for n in names if hasattr(faiss, n)]
    try:
        return faiss.read_index(str(path), flags[0])  # downcast already; owns its memory
    except (RuntimeError, MemoryError) as error:
        raise ModelError(f"{path.name} can't be read by FAISS: {_line(str(error))}") from error


def exercise(path: Path) -> None:
    """Read an index and use it as a cache would; whatever is wrong raises or ends the process."""
    import numpy as np

    faiss: Any = require("faiss", "model")
    faiss.omp_set_num_threads(1)
    index = _open(faiss, path, True)
    queries = np.random.default_rng(0).normal(size=(8, index.d)).astype(np.float32)
    sims, ids = index.search(queries, min(10, index.ntotal))
    if ids.max() >= index.ntotal or ids.min() < -1 or not np.isfinite(sims[ids >= 0]).all():
        raise ModelError("searching it gives rows that are not there")


def _try(path: Path) -> None:
    command = [sys.executable, "-m", "anybind.core_model.retrieval.check_worker", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=CHECK_SECONDS,
            check=False, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"Reading {path.name} took over {CHECK_SECONDS} s; not used.") from error
    if done.returncode:
        why = done.stderr.strip().splitlines()
        said = why[-1] if why and done.returncode > 0 else f"FAISS fell with {-done.returncode}"
        raise ModelError(f"{path.name} is not a sound FAISS index: {_line(said)}")


def _line(text: str) -> str:
    return text.strip().splitlines()[0][-200:] if text.strip() else "no reason given"


# ---------------------------------------------------------------- what was checked before


def known(path: Path) -> bool:
    """Whether this file, as it is now, was checked before on this machine."""
    try:
        return bool(json.loads(_note(path).read_text(encoding="utf-8")) == _state(path))
    except (OSError, ValueError):
        return False


def remember(path: Path) -> None:
    """Note that a file is sound; silently not, where the home can't be written."""
    with contextlib.suppress(OSError):
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(_state(path)), encoding="utf-8")


def _state(path: Path) -> list[Any]:
    faiss: Any = require("faiss", "model")
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, faiss.__version__]


def _note(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    return home() / "checked" / f"{name}.json"
