"""Shares, means and their 95 % intervals. Knows numbers only."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

Z = 1.959964


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `total` > 0 independent trials."""
    if not 0 <= hits <= total or total < 1:
        raise ValueError(f"{hits} of {total} is no share")
    p, square = hits / total, Z * Z
    middle = p + square / (2 * total)
    spread = Z * math.sqrt(p * (1 - p) / total + square / (4 * total * total))
    low, high = (middle - spread), (middle + spread)
    return max(0.0, low / (1 + square / total)), min(1.0, high / (1 + square / total))


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """`value`, `hits`, `total` and `interval` of a list of outcomes."""
    if not hits:
        return {"value": None, "hits": 0, "total": 0, "interval": None}
    low, high = wilson(sum(hits), len(hits))
    return {
        "value": round(sum(hits) / len(hits), 4), "hits": sum(hits), "total": len(hits),
        "interval": [round(low, 4), round(high, 4)],
    }  # fmt: skip


def bootstrap(
    rows: Sequence[Any], figure: Callable[[Sequence[Any]], float], rounds: int = 2000
) -> dict[str, Any]:
    """`value`, `total` and percentile `interval` of any figure of rows that were drawn
    independently; seeded.
    """
    if not rows:
        return {"value": None, "total": 0, "interval": None}
    r = random.Random(0)
    found = sorted(figure([r.choice(rows) for _ in rows]) for _ in range(rounds))
    low, high = found[int(0.025 * rounds)], found[int(0.975 * rounds)]
    return {
        "value": round(figure(rows), 4), "total": len(rows),
        "interval": [round(low, 4), round(high, 4)],
    }  # fmt: skip


def by(rows: Sequence[dict[str, Any]], key: str, hit: str = "hit") -> dict[str, Any]:
    """`share` of each value of a field, in order of first appearance."""
    groups: dict[str, list[bool]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(bool(row[hit]))
    return {name: share(hits) for name, hits in groups.items()}
