"""Compiles the kernels, once a machine, and finds them again.

numba keeps machine code on disk; here it goes under `ANYBIND_HOME`, in a folder named by the
sources and by numba's version, so that neither an update nor a read-only installation gets stale
or unwritable code. numba itself keys the files by processor.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from anybind.optional import require
from anybind.weights import home

log = logging.getLogger(__name__)
_lock = threading.Lock()
_loaded: ModuleType | None = None
_compiled = False


def cache_folder() -> Path:
    """Where the machine code lies."""
    numba, llvmlite = require("numba", "fast"), require("llvmlite", "fast")
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return home() / "jit" / digest.hexdigest()[:16]


def kernels() -> ModuleType:
    """The module `kernel`, its functions set to be cached on disk.

    Raises:
        MissingExtra: numba is not installed.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
    return _loaded


@contextmanager
def announced() -> Iterator[None]:
    """Around the first call of a kernel: says so if that is going to take a while."""
    global _compiled
    if not _compiled and not any(cache_folder().rglob("*.nbi")):
        log.warning("Compiling the fast decoder for this processor; once, half a minute at most.")
    yield
    _compiled = True


def _load() -> ModuleType:
    config = require("numba", "fast").config
    folder = cache_folder()
    before = config.CACHE_DIR
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # A folder of this process alone: numba's files are pickles, nobody else may leave any.
        folder = Path(tempfile.mkdtemp(prefix="anybind-jit-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        log.warning(
            "%s: the fast decoder is compiled anew in every process. "
            "Point ANYBIND_HOME at a folder that can be written.", error
        )  # fmt: skip
    # numba reads the folder when a function is decorated, which is while the module is imported.
    config.CACHE_DIR = str(folder)
    try:
        return importlib.import_module("anybind.core_model.fast.kernel")
    finally:
        config.CACHE_DIR = before
