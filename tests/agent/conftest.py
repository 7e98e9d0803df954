"""The repository's root becomes importable, for `tests.fakes`."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Property tests have no clock: the machine may be busy.
settings.register_profile("anybind", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anybind")
