"""Sounds: does the answer name what makes them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.naming import accepted_names, mentions
from anybind.agent.evaluation.statistics import by, share

QUESTION = "What do you hear?"
UNSEEN = ("musescore", "sonic-pi", "packages")
"""Sources that are recordings which training never heard."""


def sounds(bench: Bench) -> Iterator[Row]:
    """Each held-out sound; `source` says what kind of test it is (`benchmarks/sounds/make.py`)."""
    wordnet = bench.data.wordnet
    for record in bench.some(bench.data.records("sounds/sounds.jsonl")):
        answer = bench.ask(QUESTION, record["file"]).text
        names = accepted_names(record["synsets"], wordnet) | set(record["names"])
        yield {
            "id": record["id"], "label": record["label"], "source": record["source"],
            "answer": answer, "hit": mentions(answer, names, wordnet),
        }  # fmt: skip


def sum_sounds(rows: list[Row]) -> dict[str, Any]:
    """All, by source, and the recordings that training never heard, each also as a mean over classes."""
    unseen = [r for r in rows if r["source"] in UNSEEN]
    return share([r["hit"] for r in rows]) | {
        "classes": len({r["label"] for r in rows}),
        "mean over classes": _over_classes(rows),
        "by source": by(rows, "source"),
        "unseen recordings": share([r["hit"] for r in unseen]),
        "classes of unseen recordings": len({r["label"] for r in unseen}),
        "unseen recordings, mean over classes": _over_classes(unseen),
    }


def _over_classes(rows: list[Row]) -> float | None:
    """The mean of the classes' shares; None without rows."""
    classes = by(rows, "label")
    return round(sum(c["value"] for c in classes.values()) / len(classes), 4) if classes else None
