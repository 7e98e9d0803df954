"""Builds a cache folder: from pictures (through an encoder) or from rows that are there already.

Everything is made in `building/` inside the folder and moved out when it is whole; `meta.json` comes
last. A build of pictures that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from anybind.contracts import Encoder, Progress
from anybind.core_model.retrieval import folder as folders
from anybind.core_model.retrieval.embedding import embed_pictures
from anybind.core_model.retrieval.guard import remember
from anybind.core_model.retrieval.indexing import write_index
from anybind.core_model.retrieval.pictures import PictureSource
from anybind.core_model.retrieval.planning import Kind, Plan, RowsChoice, plan
from anybind.core_model.retrieval.rows import map_rows, metadata, write_rows
from anybind.errors import UserError
from anybind.weights import sha256_of

MEMORY = 2 << 30
"""Default budget of memory for searching."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a build made."""

    folder: Path
    meta: folders.Meta
    index_bytes: int
    rows_bytes: int
    seconds: float
    resumed: int = 0
    bad: Sequence[tuple[str, str]] = field(default=())
    """Key and reason of each picture that was left out."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to build."""

    memory_bytes: int = MEMORY
    kind: Kind | Literal["auto"] = "auto"
    rows_file: RowsChoice = "auto"
    dtype: str = "float32"
    """Of `rows.safetensors`: float32, or float16 at half the size (error about 0.0005)."""
    seed: int = 0
    """Of the sample that the index is trained on."""


def build_from_embeddings(
    source: Path,
    out: Path,
    *,
    space: str = "",
    tensor: str = "embeddings",
    options: Options | None = None,
    progress: Progress | None = None,
) -> Report:
    """A cache of the rows [N, C] of a `.safetensors` or `.npy` file, which is mapped, never loaded.

    Rows are brought to norm 1. `space` is needed where the file's metadata state none. Labels come
    from its metadata.

    Raises:
        UserError: no space, or another than the file states; `out` is in use; nothing fits.
        ModelError: not such a file, or a row without direction.
    """
    started = time.monotonic()
    rows = map_rows(source, tensor)
    notes = metadata(source)
    stated = notes.get("space", "")
    if space and stated and space != stated:
        raise UserError(f"{source.name} holds embeddings of {stated!r}, not of {space!r}.")
    if not (space or stated):
        raise UserError(f"{source.name} does not say its joint space: name a bundle that has it.")
    labels = _labels(source, notes, len(rows))
    origin = {"kind": "embeddings", "name": source.name, "sha256": sha256_of(source)}
    building = _begin(out)
    return _finish(
        rows, labels, out, building, stated or space, origin, options or Options(), progress, started
    )  # fmt: skip


def build_from_pictures(
    source: Path,
    out: Path,
    encoder: Encoder,
    *,
    batch: int = 16,
    bad_limit: int = 100,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Report:
    """A cache of a folder of pictures, a `.tar` shard or a folder of shards.

    Labels are captions (`.txt` beside a picture in a shard) or names. A picture that can't be used is
    left out and reported; more than `bad_limit` of them stop the build. Running it again goes on.

    Raises:
        UserError: no pictures, too many bad ones, `out` is in use, or nothing fits.
    """
    started = time.monotonic()
    if "image" not in encoder.modalities:
        raise UserError("A cache of pictures needs an encoder of images.")
    pictures = PictureSource.of(source)
    building = _begin(out)
    runs = embed_pictures(
        pictures, encoder, building, batch=batch, bad_limit=bad_limit, progress=progress
    )
    with contextlib.closing(runs):
        made = next(runs)
        origin = {
            "kind": pictures.kind, "name": source.resolve().name, "files": len(pictures.files),
            "sha256": pictures.fingerprint(), "bad": len(made.bad),
        }  # fmt: skip
        report = _finish(
            made.rows, made.labels, out, building, encoder.space, origin, options or Options(),
            progress, started,
        )  # fmt: skip
    return Report(
        report.folder, report.meta, report.index_bytes, report.rows_bytes, report.seconds,
        made.resumed, tuple(made.bad),
    )  # fmt: skip


def _labels(source: Path, notes: dict[str, str], count: int) -> list[str]:
    try:
        labels = json.loads(notes.get("labels", "[]"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source.name}: its labels can't be read: {error}") from error
    if not isinstance(labels, list) or (labels and len(labels) != count):
        raise UserError(f"{source.name}: its labels are not one a row.")
    return [str(label) for label in labels]


def _begin(out: Path) -> Path:
    """The folder in which to build; refuses one that holds something else."""
    if (out / folders.META).exists():
        raise UserError(f"{out} holds a finished cache. Remove it, or choose another folder.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; a cache is a folder.")
    building = out / "building"
    if out.is_dir() and not building.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty. Choose another folder.")
    building.mkdir(parents=True, exist_ok=True)
    return building


def _finish(
    rows: NDArray[Any], labels: Sequence[str], out: Path, building: Path, space: str,
    origin: dict[str, Any], options: Options, progress: Progress | None, started: float,
) -> Report:  # fmt: skip
    count, dim = rows.shape
    made: Plan = plan(
        count, dim, options.memory_bytes, kind=options.kind, rows_file=options.rows_file
    )
    write_index(rows, made, building / folders.INDEX, progress, options.seed)
    if made.keep_rows:
        if progress is not None:
            progress("keeping rows", 0.0)
        write_rows(building / folders.ROWS, rows, options.dtype, {"space": space})
    if labels:
        text = json.dumps(list(labels), ensure_ascii=False)
        (building / folders.LABELS).write_text(text, encoding="utf-8")
    for name in (folders.INDEX, folders.ROWS, folders.LABELS):
        if (building / name).exists():
            os.replace(building / name, out / name)
    remember(out / folders.INDEX)
    meta = folders.Meta(
        space=space, count=count, dim=dim, plan=made, source=origin,
        labels=bool(labels), rows=made.keep_rows,
    )  # fmt: skip
    meta.write(out)
    shutil.rmtree(building, ignore_errors=True)
    kept = (out / folders.ROWS).stat().st_size if made.keep_rows else 0
    return Report(out, meta, (out / folders.INDEX).stat().st_size, kept, time.monotonic() - started)
