"""Where training samples come from: files in many formats, mixed, shuffled, shared out, resumable.

`open_sources(config)` gives a `Mixer`. See docs/training-data.md. Importing this loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anybind.core_model.training.data.config import DataConfig, SourceConfig
    from anybind.core_model.training.data.maker import FeatureMaker
    from anybind.core_model.training.data.mixer import Mixer, open_sources

__all__ = ["DataConfig", "FeatureMaker", "Mixer", "SourceConfig", "open_sources"]

_HOMES = {
    "DataConfig": "config",
    "FeatureMaker": "maker",
    "Mixer": "mixer",
    "SourceConfig": "config",
    "open_sources": "mixer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
