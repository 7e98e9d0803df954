"""The process in which one converter reads one foreign file, within limits.

Called as `python -m anybind.convert_worker MODULE:FUNCTION SOURCE TARGET BYTES SECONDS`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Set the limits, import the converter, run it."""
    function, source, target = sys.argv[1:4]
    memory, seconds = map(int, sys.argv[4:6])
    try:
        import resource
    except ImportError:  # Windows has no rlimits; the parent's timeout still holds.
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(Path(source), Path(target))


if __name__ == "__main__":
    main()
