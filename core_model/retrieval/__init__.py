"""The retrieval cache: pulls an embedding toward stored image features (paper 3.1.3).

Built from pictures or from a file of embeddings (`build`), searched and applied by
`RetrievalCache`. Importing this loads neither FAISS nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anybind.core_model.retrieval.build import build_from_embeddings, build_from_pictures
    from anybind.core_model.retrieval.cache import Hit, RetrievalCache
    from anybind.core_model.retrieval.planning import Plan, plan

__all__ = [
    "Hit",
    "Plan",
    "RetrievalCache",
    "build_from_embeddings",
    "build_from_pictures",
    "plan",
]

_HOMES = {
    "Hit": "cache",
    "Plan": "planning",
    "RetrievalCache": "cache",
    "build_from_embeddings": "build",
    "build_from_pictures": "build",
    "plan": "planning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
