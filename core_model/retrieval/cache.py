"""`RetrievalCache`: searched and applied; over rows in memory, a built folder, or an index file.

Knows where rows come from and the settings of a cache; the arithmetic is in `formulas`, FAISS in
`searcher` and `guard`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.retrieval import folder as folders
from anybind.core_model.retrieval.formulas import MODES, Mode, combine
from anybind.core_model.retrieval.guard import read_index
from anybind.core_model.retrieval.rows import map_rows, metadata, unit_rows
from anybind.core_model.retrieval.searcher import Device, Searcher
from anybind.errors import ModelError, UserError

_AT_ONCE = 256
"""Queries whose neighbours are held in memory together."""


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
        rows: NDArray[np.float32] | Searcher,
        *,
        space: str,
        labels: Sequence[str] = (),
        top_k: int = 10,
        weight: float = 0.5,
        temperature: float = 20.0,
        mode: Mode = "released",
        device: Device = "cpu",
    ) -> None:
        """`rows` [N, C] are brought to norm 1; or an opened index. `mode`: see `formulas.combine`.

        Raises:
            ModelError: no rows, a row without direction, or another number of labels.
            UserError: settings that make no cache.
        """
        if isinstance(rows, Searcher):
            self._searcher = rows
        else:
            if rows.ndim != 2 or rows.shape[0] == 0:
                raise ModelError("A cache needs rows [N, C].")
            self._searcher = Searcher.flat(unit_rows(rows), device)
        if len(labels) and len(labels) != self._searcher.count:
            raise ModelError(f"{len(labels)} labels for {self._searcher.count} rows.")
        if mode not in MODES:
            raise UserError(f"No cache mode {mode!r}; one of: {', '.join(MODES)}.")
        if top_k < 1 or not 0 <= weight <= 1 or not 0 <= temperature < float("inf"):
            raise UserError("A cache needs top_k >= 1, weight in 0..1 and temperature >= 0.")
        self.space = space
        self.labels = labels if isinstance(labels, folders.Labels) else tuple(labels)
        self.top_k = min(top_k, self._searcher.count)
        self.weight = weight
        self.temperature = temperature
        self.mode: Mode = mode

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        tensor: str = "embeddings",
        space: str | None = None,
        bundle_space: str = "",
        rerank: int = 4,
        probes: int = 0,
        device: Device = "cpu",
        **options: Any,
    ) -> RetrievalCache:
        """Open a cache: a folder that `build` made, a FAISS index (such as the released
        `knn.index`: keys are values), or rows [N, C] in a safetensors file.

        Args:
            tensor: The tensor of a safetensors file.
            space: The joint space; None takes the one that the file states.
            bundle_space: The space for a file that states none (an index can't).
            rerank: With exact rows beside a lossy index, so many times more rows are fetched and
                put in order by the exact ones.
            probes: Lists searched a query; 0 is what the index was saved with.
            device: "cuda" searches on the GPU, with a FAISS that can.
            options: Those of `RetrievalCache`.

        Raises:
            ModelError: the file holds no such thing, ranks by another metric, or its rows are not
                of norm 1.
        """
        path = Path(path)
        if path.is_dir():
            searcher, stated, labels = _open_folder(path, rerank, probes, device)
        elif _is_index(path):
            index, file = read_index(path)
            searcher = Searcher(index, exact=file.exact, probes=probes, device=device)
            searcher.check_unit(path.name, file)
            stated, labels = "", ()
        else:
            rows = np.array(map_rows(path, tensor), np.float32)
            notes = metadata(path)
            stated, labels = notes.get("space", ""), _labels(path, notes)
            searcher = Searcher.flat(unit_rows(rows), device)
        known = (stated or bundle_space) if space is None else space
        if space and stated and path.is_dir() and space != stated:
            raise ModelError(f"{path.name} holds {stated!r} features, not {space!r}.")
        return cls(searcher, space=known, labels=labels, **options)

    @property
    def dim(self) -> int:
        """Width C."""
        return self._searcher.dim

    @property
    def rows(self) -> NDArray[np.float32]:
        """All rows [N, C], copied into memory (as the index remembers them, if it is lossy)."""
        return self._searcher.values(np.arange(len(self)))[0]

    def __len__(self) -> int:
        return self._searcher.count

    def search(self, query: NDArray[np.float32], k: int | None = None) -> list[list[Hit]]:
        """The nearest rows of each query [B, C], best first; fewer than k where the index finds
        fewer.
        """
        found, ids = self._searcher.search(query, k or self.top_k)
        return [
            [
                Hit(int(i), self.labels[int(i)] if len(self.labels) else "", float(s))
                for s, i in zip(sims, row, strict=True)
                if i >= 0
            ]
            for sims, row in zip(found, ids, strict=True)
        ]

    def apply(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries [B, C] pulled toward their neighbours [B, C].

        The query is the mix as it is, not brought to norm 1 (as in the released code: where
        modalities disagree, similarities shrink and the softmax is flatter).
        """
        query = np.asarray(query, np.float32)
        sims, ids = self._searcher.search(query, self.top_k)
        out = np.empty_like(query)
        for start in range(0, len(query), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            values, found = self._searcher.values(ids[part])
            out[part] = combine(
                query[part], sims[part], values, found, mode=self.mode, weight=self.weight,
                temperature=self.temperature,
            )  # fmt: skip
        return out

    def apply_to_raw(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw head outputs [B, C] (mixed; what an unCLIP generator takes) pulled the same way:
        brought to norm 1, applied, and given their norm back.
        """
        raw = np.asarray(raw, np.float32)
        norms = np.linalg.norm(raw, axis=-1, keepdims=True)
        return self.apply(raw / np.maximum(norms, 1e-12)) * norms


def _open_folder(
    path: Path, rerank: int, probes: int, device: Device
) -> tuple[Searcher, str, Sequence[str]]:
    meta = folders.read_meta(path)
    index, file = read_index(path / folders.INDEX)
    if (file.rows, file.dim) != (meta.count, meta.dim):
        raise ModelError(
            f"{path.name}: {folders.INDEX} holds {file.rows} x {file.dim}, {folders.META} says "
            f"{meta.count} x {meta.dim}."
        )
    rows = map_rows(path / folders.ROWS) if meta.rows else None
    searcher = Searcher(
        index, exact=file.exact, rows=rows, rerank=rerank, probes=probes, device=device
    )
    labels = folders.Labels(path / folders.LABELS, meta.count) if meta.labels else ()
    return searcher, meta.space, labels


def _is_index(path: Path) -> bool:
    """By its first bytes: FAISS writes a tag of four letters and the width; safetensors a length
    in eight bytes, the upper four of which are 0.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise ModelError(f"{path.name} is not a cache: {error}") from error
    return head[:1] == b"I" and head[:4].isalnum() and head[4:8] not in (b"", b"\0\0\0\0")


def _labels(path: Path, notes: dict[str, str]) -> list[str]:
    try:
        labels = json.loads(notes.get("labels", "[]"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: its labels can't be read: {error}") from error
    if not isinstance(labels, list):
        raise ModelError(f"{path.name}: its labels are no list.")
    return [str(label) for label in labels]
