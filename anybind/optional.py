"""Import of optional libraries, with an error that names the exact install command."""

from __future__ import annotations

import importlib
from types import ModuleType

from anybind.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the optional dependency group `extra` provides.

    Raises:
        MissingExtra: the library is not installed, or one that it needs is not.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{module} is needed here and could not be imported ({error}). "
            f'Install it with: pip install "anybind[{extra}]"'
        ) from error
