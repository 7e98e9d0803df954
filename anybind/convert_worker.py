"""The process in which one converter reads one foreign file, within limits.

Called as `python -m anybind.convert_worker MODULE:FUNCTION SOURCE TARGET`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from anybind.weights import CONVERT_MEMORY, CONVERT_SECONDS


def main() -> None:
    """Set the limits, import the converter, run it."""
    function, source, target = sys.argv[1:]
    try:
        import resource
    except ImportError:  # Windows has no rlimits; the parent's timeout still holds.
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (CONVERT_MEMORY, CONVERT_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (CONVERT_SECONDS, CONVERT_SECONDS))
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(Path(source), Path(target))


if __name__ == "__main__":
    main()
