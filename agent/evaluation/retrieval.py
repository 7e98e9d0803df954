"""Zero-shot retrieval: which of some hundred captions is nearest to a photograph's embedding?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.statistics import share
from anybind.content import Text
from anybind.media import from_value


def captions(bench: Bench) -> Iterator[Row]:
    """Rank of the own caption among all (those of the other photographs, and of none), by cosine.

    Two embeddings of the photograph: as the encoder gives it, and as the decoder is given it (pulled
    through the bundle's cache).
    """
    import numpy as np

    model: Any = bench.runtime.model
    wanted = bench.data.records("captions.jsonl")
    texts = np.stack([e.data for e in model.embed_parts([Text.of(c["caption"]) for c in wanted])])
    place = {c["id"]: i for i, c in enumerate(wanted) if c["id"]}
    for record in bench.some(bench.data.records("photos/photos.jsonl")):
        if record["id"] not in place:
            continue
        own = place[record["id"]]
        part = from_value(record["file"])
        row: Row = {"id": record["id"], "caption": wanted[own]["caption"], "of": len(wanted)}
        plain, pulled = model.embed_parts([part])[0], model.condition([part])
        for name, embedding in (("rank", plain), ("rank_cached", pulled)):
            cosines = texts @ embedding.data
            row[name] = 1 + int((cosines > cosines[own]).sum())
            if name == "rank":
                row["nearest"] = wanted[int(cosines.argmax())]["caption"]
        yield row | {"hit": row["rank"] == 1}


def sum_captions(rows: list[Row]) -> dict[str, Any]:
    """R@1 of the encoder's embedding; R@5 and R@10, and the same through the cache."""
    found: dict[str, Any] = share([r["rank"] == 1 for r in rows])
    found["captions"] = rows[0]["of"] if rows else 0
    for name in ("rank", "rank_cached"):
        for k in (1, 5, 10):
            key = f"R@{k}" + (" through the cache" if name == "rank_cached" else "")
            found[key] = share([r[name] <= k for r in rows])
    return found
