"""Makes the index that a plan describes, from rows on disk, in blocks.

Holds one copy of what the index keeps, and blocks; never the rows beside it. A flat index is not
held at all: its file is the rows behind a header.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.contracts import Progress
from anybind.core_model.retrieval.planning import Plan
from anybind.core_model.retrieval.rows import blocks, sample
from anybind.errors import ModelError
from anybind.optional import require

_ITERATIONS = 10
"""Of k-means; its gain after ten is below a percent."""
_CONSTRUCTION = 80
"""Candidates looked at when a row is linked into a graph."""
_SEARCH = 64
"""Candidates looked at when a graph is searched."""


def write_index(
    rows: NDArray[Any], plan: Plan, path: Path, progress: Progress | None = None, seed: int = 0
) -> None:
    """Write the index of `rows` [N, C] (mapped; brought to norm 1 block by block) to `path`.

    Raises:
        ModelError: rows that have no direction, other sizes than planned, or FAISS refuses.
        MissingExtra: FAISS is not installed.
    """
    if rows.shape != (plan.rows, plan.dim):
        raise ModelError(
            f"The plan is for {plan.rows} x {plan.dim}, the rows are {list(rows.shape)}."
        )
    say = progress or _quiet
    if plan.kind == "flat":
        _write_flat(rows, path, say)
        return
    faiss: Any = require("faiss", "model")
    try:
        index = faiss.index_factory(plan.dim, plan.factory, faiss.METRIC_INNER_PRODUCT)
        _settle(faiss, index, plan)
        if plan.train_rows:
            say("training", 0.0)
            index.train(sample(rows, plan.train_rows, seed))
        _fill(faiss, index, rows, plan, say)
        faiss.write_index(index, str(path))
    except (RuntimeError, MemoryError) as error:
        raise ModelError(f"FAISS can't build {plan.factory}: {error}") from error


def _quiet(text: str, done: float) -> None:
    pass


def _write_flat(rows: NDArray[Any], path: Path, say: Progress) -> None:
    """The file that FAISS would write for an exact index by inner product."""
    n, dim = rows.shape
    with path.open("wb") as sink:
        sink.write(b"IxFI" + struct.pack("<iqqqBi", dim, n, 1 << 20, 1 << 20, 1, 0))
        sink.write(struct.pack("<Q", n * dim))
        for start, block in blocks(rows):
            sink.write(block.astype("<f4", copy=False).tobytes())
            say("writing rows", (start + len(block)) / n)


def _settle(faiss: Any, index: Any, plan: Plan) -> None:
    """Settings that the factory leaves at their defaults."""
    lists = faiss.try_extract_index_ivf(index)
    inner = index
    if isinstance(inner, faiss.IndexPreTransform):
        turn = faiss.downcast_VectorTransform(inner.chain.at(0))
        turn.niter, turn.max_train_points = _ITERATIONS, 16_384
        inner = faiss.downcast_index(inner.index)
    if lists is not None:
        lists.nprobe = plan.probes
        lists.cp.niter = _ITERATIONS
        lists.cp.max_points_per_centroid = 64
        lists.cp.min_points_per_centroid = 1  # the plan has seen to it; no warning on stderr
    if plan.code_bytes:
        inner.pq.cp.min_points_per_centroid = 1
        inner.pq.cp.niter = _ITERATIONS
        # Ordering the codebook for Hamming filters, never used here, would take most of the time.
        inner.do_polysemous_training = False
    if plan.kind == "hnsw":
        inner.hnsw.efConstruction, inner.hnsw.efSearch = _CONSTRUCTION, _SEARCH


def _fill(faiss: Any, index: Any, rows: NDArray[Any], plan: Plan, say: Progress) -> None:
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        _fill_lists(faiss, index, lists, rows, plan, say)
        return
    for start, block in blocks(rows):
        index.add(block)
        say("adding rows", (start + len(block)) / len(rows))


def _fill_lists(
    faiss: Any, index: Any, lists: Any, rows: NDArray[Any], plan: Plan, say: Progress
) -> None:
    """Two passes: count what each list will hold and make room for exactly that, then add.

    Lists that grow by doubling would take up to twice the memory.
    """
    turned = isinstance(index, faiss.IndexPreTransform)
    homes = np.empty(len(rows), np.int64)
    for start, block in blocks(rows):
        x = _turn(faiss, index, block, turned)
        homes[start : start + len(block)] = lists.quantizer.search(x, 1)[1][:, 0]
        say("counting lists", (start + len(block)) / len(rows))
    for number, count in enumerate(np.bincount(homes, minlength=lists.nlist).tolist()):
        lists.invlists.resize(number, count)
        lists.invlists.resize(number, 0)
    pointer = faiss.swig_ptr
    for start, block in blocks(rows):
        x = _turn(faiss, index, block, turned)
        ids = np.arange(start, start + len(block), dtype=np.int64)
        home = np.ascontiguousarray(homes[start : start + len(block)])
        lists.add_core(len(x), pointer(x), pointer(ids), pointer(home))
        say("adding rows", (start + len(block)) / len(rows))
    index.ntotal = lists.ntotal
    if not plan.keep_rows:
        lists.make_direct_map()


def _turn(faiss: Any, index: Any, block: NDArray[np.float32], turned: bool) -> NDArray[np.float32]:
    if not turned:
        return block
    return faiss.downcast_VectorTransform(index.chain.at(0)).apply(block)
