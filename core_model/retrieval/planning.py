"""Which index for how many rows: kinds, sizes, bytes. Arithmetic only; FAISS is not loaded.

Bytes a row at width C, with M bytes of code: flat 4C; ivf 4C + 8 (its id); hnsw 4C + 8L + about
20 (L links, twice as many on the lowest level, offsets, levels); sq8 C; pq M; ivfpq M + 8. An
inverted-file index adds 4C for each list, and 8 a row for the direct map that reconstruction
needs where the exact rows are not kept beside it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from anybind.errors import ModelError, UserError

Kind = Literal["flat", "ivf", "ivfpq", "pq", "hnsw", "sq8"]
KINDS: tuple[str, ...] = get_args(Kind)
RowsChoice = Literal["auto", "keep", "drop"]

SCAN = 64 << 20
"""Numbers (rows x width) up to which every row is looked at: about 10 ms a query from memory."""
GRAPH_ROWS = 300_000
"""Rows up to which `auto` takes a graph, whose build takes longest of all."""
CODE_BYTES = (256, 128, 64, 32, 16, 8, 4)
_LISTS_BY_GRAPH = 32_768
"""From so many lists on, the nearest lists are found through a graph."""
_LINKS = 32
_PQ_TRAIN = 16_384
"""Rows that 256 centroids a part are learned from; more takes long and gains little."""
_PER_LIST = 40
"""Training rows a list; k-means wants 39 at least."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An index that is decided on, and what it will cost."""

    kind: Kind
    rows: int
    dim: int
    lists: int = 0
    """Inverted lists; 0 means every row is looked at."""
    probes: int = 0
    """Lists searched a query."""
    code_bytes: int = 0
    """M of the product quantiser: bytes a row."""
    rotation: bool = False
    """Whether a learned rotation (OPQ) comes first: below 1 bit a dimension it pays."""
    links: int = 0
    """Links a row of a graph."""
    keep_rows: bool = False
    """Whether the exact rows lie beside the index (`rows.safetensors`, memory-mapped)."""
    train_rows: int = 0
    index_bytes: int = 0
    """Expected size of the index, on disk and when wholly in memory."""
    rows_bytes: int = 0
    """Expected size of the exact rows on disk; they are mapped, not loaded."""
    build_bytes: int = 0
    """Expected peak of memory while building."""

    @property
    def exact(self) -> bool:
        """Whether the index stores the rows as they are."""
        return self.kind in ("flat", "ivf", "hnsw")

    @property
    def factory(self) -> str:
        """The index in FAISS's own notation, e.g. "IVF4096,PQ128"."""
        coarse = ""
        if self.lists:
            graph = "_HNSW32" if self.lists >= _LISTS_BY_GRAPH else ""
            coarse = f"IVF{self.lists}{graph},"
        if self.kind == "hnsw":
            return f"HNSW{self.links},Flat"
        if self.code_bytes:
            turn = f"OPQ{self.code_bytes}_{self.dim}," if self.rotation else ""
            return f"{turn}{coarse}PQ{self.code_bytes}"
        return coarse + ("SQ8" if self.kind == "sq8" else "Flat")

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `factory` included."""
        return {**asdict(self), "factory": self.factory}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """The plan that `as_dict` wrote.

        Raises:
            ModelError: it is not one.
        """
        try:
            found = cls(**{k: v for k, v in values.items() if k != "factory"})
        except (TypeError, AttributeError) as error:
            raise ModelError(f"This is no plan of a cache: {error}") from error
        if found.kind not in KINDS:
            raise ModelError(f"This is no plan of a cache: unknown kind {found.kind!r}.")
        return found


def plan(
    rows: int,
    dim: int,
    memory_bytes: int = 2 << 30,
    *,
    kind: Kind | Literal["auto"] = "auto",
    rows_file: RowsChoice = "auto",
) -> Plan:
    """Choose an index for `rows` of width `dim` that stays within `memory_bytes` when searched.

    `auto` takes the first that fits: flat (few rows: exact), hnsw (up to 300,000 rows), ivf, sq8,
    and then ivfpq with the longest code that fits. A named kind is planned as asked for.
    `rows_file` "auto" keeps the exact rows where the index is lossy.

    Raises:
        UserError: impossible sizes, too few rows for the kind, or nothing fits the memory; the
            message says how much would be needed.
    """
    if rows < 1 or dim < 1 or memory_bytes < 1:
        raise UserError("A cache needs at least one row, one dimension and some memory.")
    if rows_file not in get_args(RowsChoice):
        raise UserError(f"Rows are one of auto, keep, drop; not {rows_file!r}.")
    if kind == "auto":
        return _choose(rows, dim, memory_bytes, rows_file)
    if kind not in KINDS:
        raise UserError(f"No kind {kind!r} of cache; one of: auto, {', '.join(KINDS)}.")
    if kind in ("pq", "ivfpq"):
        found = [
            p
            for m in _codes(dim)
            if (p := _sized(kind, rows, dim, rows_file, m)).index_bytes <= memory_bytes
        ]
        made = found[0] if found else _sized(kind, rows, dim, rows_file, _codes(dim)[-1])
    else:
        made = _sized(kind, rows, dim, rows_file)
    if made.index_bytes > memory_bytes:
        raise UserError(
            f"{kind} of {rows} x {dim} needs {_size(made.index_bytes)} of memory and "
            f"{_size(memory_bytes)} are allowed. Give more, or another kind (auto chooses)."
        )
    return made


def _choose(rows: int, dim: int, memory: int, rows_file: RowsChoice) -> Plan:
    tried: list[Plan] = []
    if rows * dim <= SCAN:
        order: list[Kind] = ["flat", "sq8"]
    elif rows <= GRAPH_ROWS:
        order = ["hnsw", "ivf", "sq8"]
    else:
        order = ["ivf", "sq8"]
    for kind in order:
        tried.append(_sized(kind, rows, dim, rows_file))
        if tried[-1].index_bytes <= memory:
            return tried[-1]
    if rows >= 256:
        coded: Kind = "pq" if rows * dim <= SCAN else "ivfpq"
        for m in _codes(dim):
            tried.append(_sized(coded, rows, dim, rows_file, m))
            if tried[-1].index_bytes <= memory:
                return tried[-1]
    least = min(p.index_bytes for p in tried)
    raise UserError(
        f"No index of {rows} x {dim} fits {_size(memory)}; the smallest needs {_size(least)}. "
        "Give more memory, or split the rows over several machines."
    )


def _sized(kind: Kind, rows: int, dim: int, rows_file: RowsChoice, code: int = 0) -> Plan:
    inverted = kind in ("ivf", "ivfpq") or (kind == "sq8" and rows * dim > SCAN)
    lists = _lists(rows) if inverted else 0
    coded = kind in ("pq", "ivfpq")
    if coded and rows < 256:
        raise UserError(f"{kind} needs 256 rows at least to learn its codes; use flat.")
    exact = kind in ("flat", "ivf", "hnsw")
    keep = rows_file == "keep" or (rows_file == "auto" and not exact)
    each = {"flat": 4 * dim, "ivf": 4 * dim, "sq8": dim, "pq": code, "ivfpq": code}.get(kind, 0)
    fixed = 0
    if kind == "hnsw":
        each = 4 * dim + 8 * _LINKS + 4 * math.ceil(_LINKS / (_LINKS - 1)) + 12
    if lists:
        each += 8 + (0 if keep else 8)
        fixed += lists * (4 * dim + 8)
        if lists >= _LISTS_BY_GRAPH:
            fixed += lists * (8 * 32 + 16)
    rotation = coded and 8 * code < dim
    if coded:
        fixed += 256 * 4 * dim + (4 * dim * dim if rotation else 0)
    if kind == "sq8":
        fixed += 8 * dim
    train = 0
    if lists:
        train = _PER_LIST * lists
    if coded or kind == "sq8":
        train = max(train, _PQ_TRAIN)
    train = min(train, rows)
    index_bytes = rows * each + fixed
    # k-means keeps its sample and a block of distances; the sample is gone before rows come in.
    block = 16_384 * 4 * dim
    peak = block if kind == "flat" else max(2 * 4 * dim * train, index_bytes + 3 * block)
    return Plan(
        kind=kind, rows=rows, dim=dim, lists=lists, probes=max(1, min(lists, max(8, lists // 64)))
        if lists else 0, code_bytes=code, rotation=rotation, links=_LINKS if kind == "hnsw" else 0,
        keep_rows=keep, train_rows=train, index_bytes=index_bytes,
        rows_bytes=4 * dim * rows if keep else 0, build_bytes=peak,
    )  # fmt: skip


def _lists(rows: int) -> int:
    """A power of two near 4 sqrt(rows), with enough rows a list to train it."""
    wanted = 4 * math.sqrt(rows)
    most = max(1, rows // _PER_LIST)
    return max(1, 2 ** round(math.log2(min(wanted, most)))) if most > 1 else 1


def _codes(dim: int) -> list[int]:
    """Lengths of code that divide the width, longest first; a sub-vector has 2 numbers or more."""
    return [m for m in CODE_BYTES if dim % m == 0 and m * 2 <= dim] or [1]


def _size(count: int) -> str:
    for name, unit in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.1f} kB"
