"""The former place of `RetrievalCache`, kept for those who import it from here."""

from __future__ import annotations

from anybind.core_model.retrieval.cache import Hit, RetrievalCache

__all__ = ["Hit", "RetrievalCache"]
