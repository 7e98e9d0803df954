"""A built cache on disk: a folder with `index.faiss`, perhaps `rows.safetensors` and
`labels.json`, and `meta.json`, which is written last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from anybind.core_model.retrieval.planning import Plan
from anybind.errors import ModelError

FORMAT = "anybind-cache-1"
INDEX, ROWS, LABELS, META = "index.faiss", "rows.safetensors", "labels.json", "meta.json"
_META_BYTES = 1 << 20
_LABEL_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Meta:
    """What a built cache is."""

    space: str
    """The joint space of its rows."""
    count: int
    dim: int
    plan: Plan
    source: dict[str, Any] = field(default_factory=dict[str, Any])
    """`kind` (folder, webdataset, embeddings), `name`, `sha256` and, for pictures, how many were
    skipped or bad."""
    labels: bool = False
    rows: bool = False

    def write(self, folder: Path) -> None:
        """Write `meta.json`; until then the folder is no cache."""
        values = {
            "format": FORMAT, "space": self.space, "count": self.count, "dim": self.dim,
            "metric": "inner_product", "labels": self.labels, "rows": self.rows,
            "plan": self.plan.as_dict(), "source": self.source,
        }  # fmt: skip
        scratch = folder / (META + ".part")
        scratch.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
        os.replace(scratch, folder / META)


def read_meta(folder: Path) -> Meta:
    """The description of a built cache.

    Raises:
        ModelError: the folder holds no finished cache, or another format.
    """
    path = folder / META
    if not path.is_file():
        unfinished = " (its build was not finished: run it again)" if _begun(folder) else ""
        raise ModelError(f"{folder} is no cache: it has no {META}{unfinished}.")
    try:
        if path.stat().st_size > _META_BYTES:
            raise ValueError("it is too large")
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if raw["metric"] != "inner_product":
            raise ValueError(f"its metric is {raw['metric']}")
        meta = Meta(
            space=str(raw["space"]), count=int(raw["count"]), dim=int(raw["dim"]),
            plan=Plan.from_dict(raw["plan"]), source=dict(raw["source"]),
            labels=bool(raw["labels"]), rows=bool(raw["rows"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} can't be used: {error!r}") from error
    return meta


def _begun(folder: Path) -> bool:
    return (folder / "building").is_dir()


class Labels(Sequence[str]):
    """The labels of a built cache, read when the first is asked for: applying a cache needs none."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._all: list[str] | None = None

    def _get(self) -> list[str]:
        if self._all is None:
            try:
                if self._path.stat().st_size > _LABEL_BYTES:
                    raise ValueError("it is too large")
                found = json.loads(self._path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise ModelError(f"{self._path} can't be read: {error}") from error
            if not isinstance(found, list) or len(found) != self._count:
                raise ModelError(f"{self._path} does not hold {self._count} labels.")
            self._all = [str(f) for f in found]
        return self._all

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(self._get())

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        return self._get()[place]
