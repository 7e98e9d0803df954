"""What a FAISS index file holds, told before FAISS itself opens it.

FAISS trusts its files: a damaged size makes it ask for memory without end, a damaged id makes it
read where nothing is. `inspect` walks a file by its sizes and reads no vectors: every part must fit
inside its parent, the whole file must be used up, only known kinds are let through (none of them
names another file). With `deep`, the ids inside are checked too. Pure Python; no FAISS.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.retrieval.walking import Walk
from anybind.errors import ModelError

MAX_DIM = 65_536
MAX_LISTS = 1 << 24
_MAX_DEPTH = 4
_INNER_PRODUCT = 0


@dataclass(frozen=True, slots=True)
class IndexFile:
    """What the header of an index says."""

    kinds: tuple[str, ...]
    """Names of the nested indexes, outermost first, e.g. ("transform", "ivf-pq")."""
    dim: int
    rows: int
    metric: int
    """FAISS's number: 0 is the inner product, 1 is L2."""
    lists: int = 0
    direct_map: bool = False
    exact: bool = False
    """Whether rows are stored as they are."""

    @property
    def inner_product(self) -> bool:
        """Whether the index ranks by inner product."""
        return self.metric == _INNER_PRODUCT


def inspect(path: Path, *, deep: bool = False) -> IndexFile:
    """Walk an index file.

    Raises:
        ModelError: not an index, damaged, cut short, or of a kind that is not read; says where.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size < 40:
                raise ModelError(f"{path.name} is too short for a FAISS index ({size} bytes).")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                walk = _Walk(data, path.name, deep)
                try:
                    found = walk.index(0)
                    if walk.at != size:
                        walk.bad(f"{size - walk.at} bytes are left over")
                finally:
                    walk.release()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} can't be read: {error}") from error
    return found


class _Walk(Walk):
    """The kinds of index, each a method that steps over one."""

    places: NDArray[np.integer] | None = None
    """The direct map, until its lists are seen."""

    # ------------------------------------------------------------ indexes

    def header(self) -> IndexFile:
        dim, rows = self.read("iq")
        self.read("qq")
        self.flag()
        metric = self.one("i")
        if metric > 1:
            self.read("f")
        if not 0 < dim <= MAX_DIM:
            self.bad(f"the width is {dim}")
        if rows < 0 or metric < 0:
            self.bad(f"{rows} rows, metric {metric}")
        return IndexFile((), dim, rows, metric)

    def index(self, depth: int) -> IndexFile:
        if depth > _MAX_DEPTH:
            self.bad("indexes are nested too deeply")
        tag = self.tag()
        readers: dict[str, Callable[[int], IndexFile]] = {
            **dict.fromkeys(("IxFI", "IxF2", "IxFl"), self.flat),
            "IxPq": self.pq,
            "IxSQ": self.sq,
            "IwFl": self.ivf_flat,
            "IwPQ": self.ivf_pq,
            "IwSq": self.ivf_sq,
            **dict.fromkeys(("IHNf", "IHNs", "IHNp"), self.hnsw),
            "IxPT": self.transform,
            **dict.fromkeys(("IxMp", "IxM2"), self.id_map),
            "IxRF": self.refine,
        }
        if tag not in readers:
            self.at -= 4
            self.bad(
                f"index type {tag!r} is not read (flat, sq, pq, hnsw and ivf with flat, sq or pq are, "
                "with transforms, id maps and refinement around them; rebuild it as one of these)"
            )
        found = readers[tag](depth)
        if tag in ("IxFI", "IxF2") and found.metric != {"IxFI": 0, "IxF2": 1}[tag]:
            self.bad(f"a flat index of type {tag} has the metric {found.metric}")
        return found

    def flat(self, depth: int) -> IndexFile:
        head = self.header()
        self.vector(4, head.rows * head.dim, "the table of rows")
        return replace(head, kinds=("flat",), exact=True)

    def pq(self, depth: int) -> IndexFile:
        head = self.header()
        code = self.quantizer(head.dim)
        self.vector(1, head.rows * code, "the table of codes")
        self.read("i")
        self.flag()
        self.read("i")
        return replace(head, kinds=("pq",))

    def sq(self, depth: int) -> IndexFile:
        head = self.header()
        code = self.scalar(head.dim)
        self.vector(1, head.rows * code, "the table of codes")
        return replace(head, kinds=("sq",))

    def ivf_flat(self, depth: int) -> IndexFile:
        head = self.ivf(depth)
        self.inverted(head, 4 * head.dim)
        return replace(head, kinds=("ivf-flat",), exact=True)

    def ivf_pq(self, depth: int) -> IndexFile:
        head = self.ivf(depth)
        self.flag()
        size = self.one("Q")
        code = self.quantizer(head.dim)
        if size != code:
            self.bad(f"codes of {size} bytes, {code} by the quantiser")
        self.inverted(head, code)
        return replace(head, kinds=("ivf-pq",))

    def ivf_sq(self, depth: int) -> IndexFile:
        head = self.ivf(depth)
        code = self.scalar(head.dim)
        if self.one("Q") != code:
            self.bad("the size of a code contradicts the quantiser")
        self.flag()
        self.inverted(head, code)
        return replace(head, kinds=("ivf-sq",))

    def transform(self, depth: int) -> IndexFile:
        head = self.header()
        count = self.one("i")
        if not 0 <= count <= 8:
            self.bad(f"{count} transforms")
        width = head.dim
        for _ in range(count):
            width = self.vector_transform(width)
        inner = self.index(depth + 1)
        if inner.dim != width or inner.rows != head.rows or inner.metric != head.metric:
            self.bad("the index inside a transform has other sizes")
        return replace(inner, dim=head.dim, kinds=("transform", *inner.kinds), exact=False)

    def id_map(self, depth: int) -> IndexFile:
        head = self.header()
        inner = self.index(depth + 1)
        if (inner.dim, inner.rows, inner.metric) != (head.dim, head.rows, head.metric):
            self.bad("the index inside an id map has other sizes")
        if self.deep:
            self.ids(self.numbers("<i8"), head.rows, "the id map")
        else:
            self.vector(8, head.rows, "the id map")
        return replace(inner, kinds=("id-map", *inner.kinds))

    def refine(self, depth: int) -> IndexFile:
        head = self.header()
        base = self.index(depth + 1)
        fine = self.index(depth + 1)
        for inner in (base, fine):
            if (inner.dim, inner.rows, inner.metric) != (head.dim, head.rows, head.metric):
                self.bad("the indexes of a refinement have other sizes")
        self.read("f")
        return replace(base, kinds=("refine", *base.kinds), exact=fine.exact)

    def hnsw(self, depth: int) -> IndexFile:
        head = self.header()
        self.vector(8)  # probabilities of the levels
        ends = self.numbers("<i4")  # small: one a level
        levels = self.numbers("<i4") if self.deep else None
        if levels is None:
            self.vector(4, head.rows, "the levels")
        offsets = self.numbers("<u8") if self.deep else None
        if offsets is None:
            self.vector(8, head.rows + 1, "the offsets")
        before = self.at
        links = self.vector(4)
        entry, top, _, _, _ = self.read("iiiii")
        if not -1 <= entry < max(head.rows, 1) or not -1 <= top < max(len(ends), 1):
            self.bad("the entry point lies outside")
        if len(ends) > 128 or (np.diff(ends) < 0).any() or (len(ends) and ends[0] != 0):
            self.bad("the table of links by level is not ascending")
        if levels is not None and offsets is not None:
            if len(levels) != head.rows or len(offsets) != head.rows + 1:
                self.bad("levels and offsets are not one a row")
            self.graph(head.rows, ends, levels, offsets, before, links, entry, top)
        inner = self.index(depth + 1)
        if (inner.dim, inner.rows, inner.metric) != (head.dim, head.rows, head.metric):
            self.bad("the rows of a graph have other sizes")
        return replace(head, kinds=("hnsw", *inner.kinds), exact=inner.exact)

    def graph(
        self, rows: int, ends: NDArray[np.integer], levels: NDArray[np.integer],
        offsets: NDArray[np.integer], start: int, links: int, entry: int, top: int,
    ) -> None:  # fmt: skip
        """Every row has the links that its level says, and they point at rows."""
        if rows == 0:
            return
        high, low = int(levels.max()), int(levels.min())
        if low < 1 or high >= len(ends) or entry < 0 or top != high - 1:
            self.bad("a level lies outside")
        per_row = ends[levels]
        if offsets[0] != 0 or offsets[-1] != links or (np.diff(offsets) != per_row).any():
            self.bad("the offsets contradict the levels")
        if int(levels[entry]) != high:
            self.bad("the entry point is not on the highest level")
        table = np.frombuffer(self.view[start + 8 : start + 8 + 4 * links], "<i4")
        wrong = links and (int(table.max()) >= rows or int(table.min()) < -1)
        # A link on level l must lead to a row that lives on level l.
        for level in range(1, high) if not wrong else ():
            here = np.nonzero(levels > level)[0]
            spans = offsets[here][:, None] + np.arange(ends[level], ends[level + 1])
            to = table[spans.astype(np.int64)]
            wrong = wrong or bool((levels[to[to >= 0]] <= level).any())
        del table
        if wrong:
            self.bad("a link leads to no row")

    # ------------------------------------------------------------ parts

    def ivf(self, depth: int) -> IndexFile:
        head = self.header()
        lists, probes = self.read("QQ")
        if not 0 < lists <= MAX_LISTS or probes < 1:
            self.bad(f"{lists} lists, {probes} probes")
        coarse = self.index(depth + 1)
        if coarse.dim != head.dim or coarse.rows != lists or "ivf" in coarse.kinds[-1]:
            self.bad("the centres of the lists have other sizes")
        kind = self.one("B")
        if kind not in (0, 1):
            self.bad(f"a direct map of type {kind} is not read")
        expected = head.rows if kind else 0
        if self.deep and kind:
            self.direct(self.numbers("<i8"), head.rows, lists)
        else:
            self.vector(8, expected, "the direct map")
        return replace(head, lists=lists, direct_map=bool(kind))

    def direct(self, places: NDArray[np.integer], rows: int, lists: int) -> None:
        if len(places) != rows:
            self.bad("the direct map is not one entry a row")
        if rows and (int(places.min()) < -1 or int((places >> 32).max()) >= lists):
            self.bad("the direct map leads to no list")
        self.places = places

    def inverted(self, head: IndexFile, code: int) -> None:
        tag = self.tag()
        if tag != "ilar":
            self.bad(f"inverted lists of type {tag!r} are not read (only those inside the file)")
        lists, size = self.read("QQ")
        if lists != head.lists or size != code:
            self.bad("the inverted lists have other sizes than the index")
        sizes = self.list_sizes(lists)
        if int(sizes.sum()) != head.rows or (sizes < 0).any():
            self.bad(f"the lists hold {int(sizes.sum())} rows instead of {head.rows}")
        if not self.deep:
            self.take(head.rows * (code + 8))
            return
        places, self.places = self.places, None
        for number, count in enumerate(sizes.tolist()):
            self.take(count * code)
            ids = self.numbers("<i8", count)
            self.ids(ids, head.rows, "an inverted list")
            if places is not None and count:
                wanted = (number << 32) | np.arange(count)
                if (places[ids] != wanted).any():
                    self.bad("the direct map contradicts the lists")

    def list_sizes(self, lists: int) -> NDArray[np.int64]:
        tag = self.tag()
        if tag == "full":
            sizes = self.numbers("<i8")
            if len(sizes) != lists:
                self.bad("the sizes are not one a list")
            return sizes.astype(np.int64)
        if tag != "sprs":
            self.bad(f"list sizes of type {tag!r}")
        pairs = self.numbers("<i8").astype(np.int64)
        if len(pairs) % 2 or (len(pairs) and not 0 <= pairs[::2].min() <= pairs[::2].max() < lists):
            self.bad("sizes are given for lists that are not there")
        sizes = np.zeros(lists, np.int64)
        if len(np.unique(pairs[::2])) != len(pairs) // 2:
            self.bad("the size of a list is given twice")
        sizes[pairs[::2]] = pairs[1::2]
        return sizes

    def ids(self, ids: NDArray[np.integer], rows: int, what: str) -> None:
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= max(rows, 1)):
            self.bad(f"{what} names rows outside 0..{rows - 1}")

    def quantizer(self, dim: int) -> int:
        """A product quantiser; bytes of a code."""
        d, parts, bits = self.read("QQQ")
        if d != dim or not 0 < parts <= dim or dim % parts or not 0 < bits <= 16:
            self.bad(f"a product quantiser of {d} in {parts} parts of {bits} bits")
        self.vector(4, dim << bits, "the codebook")
        return (parts * bits + 7) // 8

    def scalar(self, dim: int) -> int:
        """A scalar quantiser; bytes of a code."""
        kind, _ = self.read("ii")
        self.read("f")
        d, code = self.read("QQ")
        bits = {0: 8, 1: 4, 2: 8, 3: 4, 4: 16, 5: 8, 6: 6, 7: 16, 8: 8}
        if d != dim or kind not in bits or code != (dim * bits[kind] + 7) // 8:
            self.bad(f"a scalar quantiser of type {kind} for {d} with codes of {code} bytes")
        trained = {0: 2 * dim, 1: 2 * dim, 2: 2, 3: 2, 6: 2 * dim}.get(kind, 0)
        self.vector(4, trained, "the ranges of the scalar quantiser")
        return code

    def vector_transform(self, width: int) -> int:
        """One transform of rows of `width`; its output width."""
        tag = self.tag()
        if tag in ("LTra", "rrot", "Pcam"):
            if tag == "Pcam":
                self.read("ff")
                self.flag()
                self.read("i")
                for _ in range(3):
                    self.vector(4)
            bias = self.flag()
            weights = self.vector(4)
            offsets = self.vector(4)
            d_in, d_out = self.read("ii")
            if d_in < 1 or d_out < 1 or weights < d_in * d_out or (bias and offsets < d_out):
                self.bad("a linear transform is smaller than its sizes")
        elif tag == "VNrm":
            self.read("f")
            d_in, d_out = self.read("ii")
        else:
            self.bad(f"a transform of type {tag!r} is not read")
            raise AssertionError
        self.flag()
        if d_in != width or not 0 < d_out <= MAX_DIM or (tag == "VNrm" and d_out != d_in):
            self.bad(f"a transform from {d_in} to {d_out} where rows have {width}")
        return d_out
