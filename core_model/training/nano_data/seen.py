"""Embeddings that encoders really gave, and what each was of.

A file of features (`training.data.features`) and a JSON-lines file beside it, one row each:
`{"key", "what", "things", "set", ...}`. `what` is "one", "colour", "count", "pair", "triple" or
"sound"; `things` are ids of `World`, for a pair from left to right; for a sound its label.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.training.data.features import FORMAT, NO_CACHE, write_features
from anybind.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """What an embedding is of."""

    number: int
    what: str
    things: tuple[str, ...]
    colour: str = ""
    count: int = 1
    set: str = ""


class Seen:
    """Rows and their embeddings [N, C]."""

    def __init__(
        self, rows: list[Row], features: NDArray[np.float32], carries: dict[str, Any] | None = None
    ) -> None:
        self.rows, self.features = rows, features
        self.carries = carries or {}
        """What `encode` measured: how well colour and count can be read out, how pairs mix."""

    @cached_property
    def by_what(self) -> dict[str, list[Row]]:
        """Rows of each sort."""
        out: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            out[row.what].append(row)
        return dict(out)

    @cached_property
    def of_thing(self) -> dict[str, list[Row]]:
        """Rows that show one thing, by thing."""
        out: dict[str, list[Row]] = defaultdict(list)
        for row in self.by_what.get("one", []):
            out[row.things[0]].append(row)
        return dict(out)

    def can(self, sort: str, least: float) -> bool:
        """Whether a property can be read out of the embeddings right at least so often."""
        return float(self.carries.get(sort, {}).get("right", 0.0)) >= least

    def only(self, wanted: Callable[[Row], bool]) -> Seen:
        """The rows that are wanted; the features stay as they are."""
        return Seen([r for r in self.rows if wanted(r)], self.features, self.carries)

    @classmethod
    def empty(cls, dim: int) -> Seen:
        """Nothing."""
        return cls([], np.zeros((0, dim), np.float32))

    @classmethod
    def load(cls, path: Path, *, unit: bool = True) -> Seen:
        """Read what `save` wrote; `path` is the .safetensors. `unit` brings rows to norm 1.

        Raises:
            UserError: a file is missing or they do not belong together.
        """
        from safetensors import safe_open

        beside = path.with_suffix(".jsonl")
        try:
            with safe_open(path, "np") as file:
                notes = file.metadata() or {}
                features = file.get_tensor("features").astype(np.float32)
            said = [json.loads(line) for line in beside.read_text("utf-8").splitlines()]
        except Exception as error:
            raise UserError(f"{path.name} and {beside.name} can't be read: {error}") from error
        if notes.get("format") != FORMAT or len(said) != len(features):
            raise UserError(f"{path.name} and {beside.name} do not belong together.")
        if unit:
            features /= np.linalg.norm(features, axis=1, keepdims=True)
        rows = [
            Row(n, r["what"], tuple(r["things"]), r.get("colour", ""), r.get("count", 1), r.get("set", ""))
            for n, r in enumerate(said)
        ]  # fmt: skip
        return cls(rows, features, json.loads(notes.get("carries", "{}")))

    def save(
        self, path: Path, space: str, sources: list[dict[str, str]], cache: str = NO_CACHE
    ) -> None:
        """Write both files.

        Args:
            path: The .safetensors.
            space: Joint space of the embeddings.
            sources: Package, author and licence of every set that went in.
            cache: The retrieval cache that the embeddings went through (`caching.about`).
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = path.with_suffix(".rows")
        raw.write_bytes(self.features.astype("<f2").tobytes())
        keys = [f"{path.stem}/{r.number:06d}" for r in self.rows]
        notes = {
            "carries": json.dumps(self.carries),
            "sources": json.dumps(sources),
            "cache": cache,
        }
        try:
            write_features(path, raw, self.features.shape[1], keys, space, notes)
        finally:
            raw.unlink()
        lines: list[str] = []
        for key, row in zip(keys, self.rows, strict=True):
            said: dict[str, Any] = {
                "key": key,
                "what": row.what,
                "things": list(row.things),
                "set": row.set,
            }
            if row.colour:
                said["colour"] = row.colour
            if row.what == "count":
                said["count"] = row.count
            lines.append(json.dumps(said, ensure_ascii=False) + "\n")
        path.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")


FOLDS = (
    ("noto", "twemoji", "emojione", "icon-park", "flat-ui", "ph", "tabler", "healthicons"),
    (
        "noto-v1", "fluent-emoji-flat", "fluent-emoji", "fluent-emoji-high-contrast",
        "flat-color-icons", "mdi", "lucide", "meteocons",
    ),
)  # fmt: skip
"""Two halves of the sets of drawings that know much the same things."""


def fold(set_name: str) -> int:
    """Which half a set belongs to, -1 for those whose things no other set has.

    A mapping that was trained on a drawing knows it better than it will know any that it meets. The
    decoder has to learn from embeddings as they will be, so those of one half of the sets are made by
    a mapping that was trained without it.
    """
    return next((n for n, names in enumerate(FOLDS) if set_name in names), -1)


def joined(parts: list[Seen]) -> Seen | None:
    """Several as one, None of none; measured properties of the later ones win."""
    if not parts:
        return None
    rows: list[Row] = []
    carries: dict[str, Any] = {}
    for part in parts:
        at = len(rows)
        rows += [Row(at + r.number, r.what, r.things, r.colour, r.count, r.set) for r in part.rows]
        carries |= part.carries
    return Seen(rows, np.concatenate([p.features for p in parts]), carries)
