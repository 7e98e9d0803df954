"""The process in which FAISS reads an index file for the first time, within limits.

Called as `python -m anybind.core_model.retrieval.check_worker INDEX`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from anybind.core_model.retrieval.guard import CHECK_MEMORY, CHECK_SECONDS, exercise


def main() -> None:
    """Set the limits, read, search."""
    path = Path(sys.argv[1])
    try:
        import resource
    except ImportError:  # Windows has no rlimits; the parent's timeout still holds.
        pass
    else:
        memory = CHECK_MEMORY + 3 * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (CHECK_SECONDS, CHECK_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    exercise(path)


if __name__ == "__main__":
    main()
