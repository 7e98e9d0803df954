"""Photographs, pictures and scenes: does the answer name what is there?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.naming import names_object
from anybind.agent.evaluation.scenes import compose, plan_scenes
from anybind.agent.evaluation.statistics import by, share

QUESTION = "What is in the picture?"
SCENES = 160


def photographs(bench: Bench) -> Iterator[Row]:
    """Each benchmark photograph; `part` tells those that the classifier's own benchmark may hold."""
    for record in bench.some(bench.data.records("photos/photos.jsonl")):
        shared = record["id"].startswith("foolbox")
        yield _named(bench, record) | {"part": "ImageNet's" if shared else "other sources"}


def pictures(bench: Bench) -> Iterator[Row]:
    """Each emoji, icon, hand drawing and clip-art."""
    for record in bench.some(bench.data.records("pictures/pictures.jsonl")):
        yield _named(bench, record) | {"source": record["source"], "style": record["style"]}


def _named(bench: Bench, record: dict[str, Any]) -> Row:
    answer = bench.ask(QUESTION, record["file"]).text
    hit = names_object(answer, record["synsets"], bench.data.wordnet)
    return {"id": record["id"], "label": record["label"], "answer": answer, "hit": hit}


def scenes(bench: Bench) -> Iterator[Row]:
    """Two drawings side by side on a plain or photographic ground: are both named?"""
    things = bench.data.records("pictures/pictures.jsonl")
    photos = bench.data.records("photos/photos.jsonl")
    planned = plan_scenes(things, photos, SCENES, bench.seed, bench.data.wordnet)
    for scene in bench.some(planned):
        answer = bench.ask(QUESTION, compose(scene)).text
        sides = [
            names_object(answer, t["synsets"], bench.data.wordnet)
            for t in (scene.left, scene.right)
        ]
        yield {
            "id": scene.id, "left": scene.left["label"], "right": scene.right["label"],
            "ground": scene.ground.kind, "answer": answer, "named": sides, "hit": all(sides),
        }  # fmt: skip


def sum_photographs(rows: list[Row]) -> dict[str, Any]:
    """All, and by part."""
    return share([r["hit"] for r in rows]) | {"by part": by(rows, "part")}


def sum_pictures(rows: list[Row]) -> dict[str, Any]:
    """All, and by source."""
    return share([r["hit"] for r in rows]) | {"by source": by(rows, "source")}


def sum_scenes(rows: list[Row]) -> dict[str, Any]:
    """Both named, and at least one; by ground."""
    return share([r["hit"] for r in rows]) | {
        "at least one": share([any(r["named"]) for r in rows]),
        "by ground": by(rows, "ground"),
    }
