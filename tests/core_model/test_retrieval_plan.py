"""Which index is chosen, and what it is said to cost."""

from __future__ import annotations

from typing import Any

import pytest

from anybind.core_model.retrieval import Plan, plan
from anybind.errors import ModelError, UserError

GB = 1 << 30


@pytest.mark.parametrize(
    ("rows", "dim", "memory", "kind", "factory"),
    [
        (1_000, 384, 2 * GB, "flat", "Flat"),
        (60_000, 1024, 2 * GB, "flat", "Flat"),
        (60_000, 1024, GB // 8, "sq8", "SQ8"),
        (60_000, 1024, GB // 32, "pq", "PQ256"),
        (200_000, 1024, 2 * GB, "hnsw", "HNSW32,Flat"),
        (1_000_000, 1024, 8 * GB, "ivf", "IVF4096,Flat"),
        (1_000_000, 1024, 2 * GB, "sq8", "IVF4096,SQ8"),
        (1_000_000, 1024, GB // 4, "ivfpq", "IVF4096,PQ128"),
        (1_000_000, 1024, GB // 8, "ivfpq", "OPQ64_1024,IVF4096,PQ64"),
        (3_000_000, 1024, 2 * GB, "ivfpq", "IVF8192,PQ256"),
        (1_000_000_000, 1024, 100 * GB, "ivfpq", "OPQ64_1024,IVF131072_HNSW32,PQ64"),
    ],
)
def test_the_choice(rows: int, dim: int, memory: int, kind: str, factory: str) -> None:
    made = plan(rows, dim, memory)
    assert (made.kind, made.factory) == (kind, factory)
    assert made.index_bytes <= memory
    assert made.keep_rows == (not made.exact)
    assert Plan.from_dict(made.as_dict()) == made


def test_bytes_by_hand() -> None:
    assert plan(1000, 64, kind="flat").index_bytes == 1000 * 64 * 4
    kept = plan(1_000_000, 1024, 8 * GB, kind="ivfpq", rows_file="keep")
    dropped = plan(1_000_000, 1024, 8 * GB, kind="ivfpq", rows_file="drop")
    assert dropped.index_bytes - kept.index_bytes == 8 * 1_000_000  # the direct map
    assert (kept.rows_bytes, dropped.rows_bytes) == (4 * 1024 * 1_000_000, 0)
    assert kept.index_bytes == 1_000_000 * (256 + 8) + 4096 * (4096 + 8) + 256 * 4096
    assert kept.train_rows >= 40 * kept.lists
    flat = plan(1_000_000, 1024, 8 * GB, kind="ivf")
    assert flat.build_bytes < 1.5 * flat.index_bytes  # never two copies


def test_more_memory_never_gives_a_shorter_code() -> None:
    codes = [plan(10_000_000, 768, m << 28, kind="ivfpq").code_bytes for m in (2, 4, 8, 16)]
    assert codes == sorted(codes) and codes[0] < codes[-1]


@pytest.mark.parametrize("dim", [40, 384, 7, 1, 1024, 100])
def test_codes_divide_the_width(dim: int) -> None:
    made = plan(50_000, dim, 8 * GB, kind="pq")
    assert dim % made.code_bytes == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, 8), "at least"),
        ((8, 0), "at least"),
        ((100, 64, 100), "smallest needs"),
        ((1_000_000_000, 1024, GB), "smallest needs"),
    ],
)
def test_what_does_not_go(arguments: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        plan(*arguments)


def test_named_kinds_are_held_to_the_memory_too() -> None:
    with pytest.raises(UserError, match="needs"):
        plan(1_000_000, 1024, GB, kind="flat")
    with pytest.raises(UserError, match="256 rows"):
        plan(100, 64, kind="pq")
    wrong: Any = "lsh"
    with pytest.raises(UserError, match="No kind"):
        plan(100, 64, kind=wrong)
    with pytest.raises(UserError, match="keep"):
        plan(100, 64, rows_file=wrong)
    with pytest.raises(ModelError):
        Plan.from_dict({"kind": "flat"})
