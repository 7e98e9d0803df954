"""The retrieval cache: pulls an embedding toward stored image features (paper 3.1.3).

Keys are values: rows of unit norm, searched by inner product with FAISS. Two ways of combining:
- "paper" (equations 3 and 4): `(1 - w) F + w * sum(sim_k v_k) / sum(sim_k)`. The paper writes the
  raw sum; dividing by the similarities keeps its scale independent of k.
- "released" (what the released code does): softmax of `t * sim` over the hits, unit norm, then a
  weighted mean with the unit query, unit norm again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anybind.errors import ModelError, UserError
from anybind.optional import require


@dataclass(frozen=True)
class Hit:
    """One neighbour: its row, its label (if the cache has labels) and its similarity."""

    row: int
    label: str
    similarity: float


class RetrievalCache:
    """Rows of image features and how to combine a query with its neighbours."""

    def __init__(
        self,
        rows: NDArray[np.float32],
        *,
        space: str,
        labels: Sequence[str] = (),
        top_k: int = 10,
        weight: float = 0.5,
        temperature: float = 20.0,
        mode: Literal["paper", "released"] = "released",
    ) -> None:
        if rows.ndim != 2 or rows.shape[0] == 0:
            raise ModelError("A cache needs rows [N, C].")
        if labels and len(labels) != rows.shape[0]:
            raise ModelError(f"{len(labels)} labels for {rows.shape[0]} rows.")
        faiss: Any = require("faiss", "model")
        self.rows = np.ascontiguousarray(
            rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32
        )
        self.space = space
        self.labels = tuple(labels)
        self.top_k = min(top_k, rows.shape[0])
        self.weight = weight
        self.temperature = temperature
        self.mode = mode
        self._index = faiss.IndexFlatIP(rows.shape[1])
        self._index.add(self.rows)

    @classmethod
    def load(
        cls, path: Path, *, tensor: str = "embeddings", space: str | None = None, **options: Any
    ) -> RetrievalCache:
        """Read rows [N, C] from a safetensors file; labels and space from its metadata.

        Raises:
            ModelError: the file holds no such thing.
        """
        import json

        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                rows = file.get_tensor(tensor).astype(np.float32)
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path.name} is not a cache: {error}") from error
        labels = json.loads(metadata.get("labels", "[]"))
        known = metadata.get("space", "") if space is None else space
        return cls(rows, space=known, labels=labels, **options)

    def search(self, query: NDArray[np.float32], k: int | None = None) -> list[list[Hit]]:
        """The nearest rows of each query [B, C]."""
        found, ids = self._index.search(np.ascontiguousarray(query, np.float32), k or self.top_k)
        return [
            [
                Hit(int(i), self.labels[i] if self.labels else "", float(s))
                for s, i in zip(sims, row, strict=True)
                if i >= 0
            ]
            for sims, row in zip(found, ids, strict=True)
        ]

    def apply(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries [B, C] pulled toward their neighbours [B, C]."""
        if query.ndim != 2 or query.shape[1] != self.rows.shape[1]:
            raise UserError(f"The cache holds rows of {self.rows.shape[1]}; got {query.shape}.")
        sims, ids = self._index.search(np.ascontiguousarray(query, np.float32), self.top_k)
        values = self.rows[ids]
        if self.mode == "paper":
            share = sims / np.maximum(np.abs(sims).sum(1, keepdims=True), 1e-6)
            retrieved = np.einsum("bk,bkc->bc", share, values)
            return ((1 - self.weight) * query + self.weight * retrieved).astype(np.float32)
        logits = sims * self.temperature
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        retrieved = _unit(np.einsum("bk,bkc->bc", share, values))
        return _unit((1 - self.weight) * query + self.weight * retrieved)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)).astype(
        np.float32
    )
