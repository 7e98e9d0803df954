"""The core model: ImageBind-LLM. Importing this loads torch only when a name is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anybind.core_model.language import InjectedLanguageModel
    from anybind.core_model.model import ImageBindLLM
    from anybind.core_model.retrieval import RetrievalCache

__all__ = ["ImageBindLLM", "InjectedLanguageModel", "RetrievalCache"]

_HOMES = {
    "ImageBindLLM": "model",
    "InjectedLanguageModel": "language",
    "RetrievalCache": "retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
