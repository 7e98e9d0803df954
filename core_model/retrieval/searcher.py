"""An index and its rows behind two questions: what is near, and what are the rows called so.

Knows FAISS; knows nothing of formulas, labels or folders.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.retrieval.faiss_files import IndexFile
from anybind.core_model.retrieval.rows import unit_rows
from anybind.errors import MissingExtra, ModelError, UserError
from anybind.optional import require

Device = Literal["cpu", "cuda"]

_AT_ONCE = 256
"""Queries whose candidates are held in memory together."""


class Searcher:
    """A FAISS index by inner product, with the exact rows beside it if they are kept."""

    def __init__(
        self,
        index: Any,
        *,
        exact: bool,
        rows: NDArray[Any] | None = None,
        rerank: int = 4,
        probes: int = 0,
        device: Device = "cpu",
    ) -> None:
        """`rows` [N, C] are exact rows (memory-mapped); with them a lossy index is asked for
        `rerank` times as many rows, which are put in order by their exact similarity.

        Raises:
            ModelError: rows and index have other sizes.
            MissingExtra: the device is "cuda" and this FAISS has no GPU part.
            UserError: an unknown device, or a `rerank` below 1.
        """
        if rows is not None and rows.shape != (index.ntotal, index.d):
            raise ModelError(
                f"The rows are {list(rows.shape)}, the index holds {index.ntotal} of {index.d}."
            )
        if rerank < 1 or probes < 0:
            raise UserError("rerank is 1 or more, probes 0 (as stored) or more.")
        self._index = index
        self._rows = rows
        self._rerank = 1 if exact or rows is None else rerank
        self._faiss: Any = require("faiss", "model")
        if probes:
            self._set_probes(probes)
        self._near = self._to_gpu(index) if _device(device) == "cuda" else index
        self._direct: bool | None = None
        self._inverse: NDArray[np.int64] | None = None

    @classmethod
    def flat(cls, rows: NDArray[np.float32], device: Device = "cpu") -> Searcher:
        """Unit-norm rows [N, C] in memory, exact."""
        faiss: Any = require("faiss", "model")
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return cls(index, exact=True, device=device)

    @property
    def dim(self) -> int:
        """Width C."""
        return int(self._index.d)

    @property
    def count(self) -> int:
        """Number of rows N."""
        return int(self._index.ntotal)

    def search(
        self, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest rows of each query [B, C]: similarities and ids [B, k], best first.

        An id of -1 stands where the index found fewer than k.

        Raises:
            UserError: the queries have another width or are not finite, or k is below 1.
        """
        if query.ndim != 2 or query.shape[1] != self.dim:
            raise UserError(f"The cache holds rows of {self.dim}; got {list(query.shape)}.")
        if k < 1:
            raise UserError(f"Ask for one neighbour at least, not {k}.")
        query = np.ascontiguousarray(query, np.float32)
        if not np.isfinite(query).all():
            raise UserError("The query holds numbers that are not finite.")
        if len(query) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        wanted = min(k * self._rerank, max(self.count, k))
        sims, ids = self._near.search(query, wanted)
        if self._rerank == 1:
            return np.where(ids < 0, 0, sims), ids
        parts = [
            self._reorder(query[i : i + _AT_ONCE], ids[i : i + _AT_ONCE], k)
            for i in range(0, len(query), _AT_ONCE)
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _reorder(
        self, query: NDArray[np.float32], ids: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best of candidates [B, n] by their exact rows."""
        values, found = self.values(ids)
        sims = np.where(found, np.einsum("bc,bkc->bk", query, values), -np.inf)
        order = np.argsort(-sims, axis=1, kind="stable")[:, :k]
        ids = np.take_along_axis(ids, order, 1)
        sims = np.take_along_axis(sims, order, 1)
        return np.where(ids < 0, 0, sims).astype(np.float32), ids

    def values(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rows [..., C] of ids [...], and which of the ids are rows at all (-1 is not; its row is
        zeros). Exact rows where they are kept, else as the index remembers them.
        """
        found = (ids >= 0) & (ids < self.count)
        out = np.zeros((*ids.shape, self.dim), np.float32)
        wanted = ids[found]
        if len(wanted) == 0:
            return out, found
        if self._rows is not None:
            out[found] = unit_rows(self._rows[wanted])
        else:
            out[found] = self._reconstruct(wanted)
        return out, found

    def _reconstruct(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._direct is None:
            self._make_reconstructible()
        index = self._index
        if self._inverse is not None:
            ids = self._inverse[ids]
            index = self._faiss.downcast_index(index.index)
        try:
            return index.reconstruct_batch(np.ascontiguousarray(ids, np.int64))
        except RuntimeError as error:
            raise ModelError(f"The index gives no rows back: {error}") from error

    def _make_reconstructible(self) -> None:
        """A list-based index finds a row by its id only through a direct map; it may lack one."""
        self._direct = True
        lists = self._faiss.try_extract_index_ivf(self._index)
        if lists is not None and lists.direct_map.no():
            lists.make_direct_map()
        top = self._index
        if isinstance(top, self._faiss.IndexIDMap) and not isinstance(top, self._faiss.IndexIDMap2):
            names = self._faiss.vector_to_array(top.id_map)
            self._inverse = np.full(int(names.max()) + 1, -1, np.int64)
            self._inverse[names] = np.arange(len(names))

    def _set_probes(self, probes: int) -> None:
        lists = self._faiss.try_extract_index_ivf(self._index)
        if lists is None:
            raise UserError("probes belongs to a cache with inverted lists; this one has none.")
        lists.nprobe = min(probes, lists.nlist)

    def _to_gpu(self, index: Any) -> Any:
        if not hasattr(self._faiss, "StandardGpuResources"):
            raise MissingExtra(
                "This FAISS has no GPU part. Install one that has (pip uninstall faiss-cpu, then "
                'pip install "anybind[faissgpu]"), or leave the cache on the cpu.'
            )
        try:
            self._resources = self._faiss.StandardGpuResources()
            return self._faiss.index_cpu_to_gpu(self._resources, 0, index)
        except RuntimeError as error:
            raise ModelError(f"The index can't be brought onto the GPU: {error}") from error

    def check_unit(self, name: str, file: IndexFile | None, count: int = 64) -> None:
        """Look at some rows: a cache of rows whose length differs is none.

        Raises:
            ModelError: rows that are kept exactly are not of norm 1, or coded ones far from it.
        """
        chosen = np.linspace(0, self.count - 1, min(count, self.count)).astype(np.int64)
        norms = np.linalg.norm(self._reconstruct(chosen), axis=1)
        low, high = (0.99, 1.01) if file is None or file.exact else (0.3, 1.3)
        if not ((norms > low) & (norms < high)).all():
            raise ModelError(
                f"The rows of {name} are not of norm 1 (found {norms.min():.3g} to "
                f"{norms.max():.3g}); normalise them and build the index again."
            )


def _device(device: str) -> str:
    if device not in ("cpu", "cuda"):
        raise UserError(f"A cache lives on cpu or cuda, not {device!r}.")
    return device
