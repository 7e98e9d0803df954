"""Embeds the pictures of a source, resumably: what is done stays done.

A folder `building/` holds the rows as raw float32 and one line per row with its key and label; the
rows are on disk before their lines. An interrupted run is cut back to where both agree and goes
on from there. Bad pictures are not noted: a second run tries them again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.assembly import Assembly
from anybind.content import Image
from anybind.contracts import Encoder, EncoderSpec, Progress
from anybind.core_model.retrieval.pictures import Picture, PictureSource
from anybind.errors import ModelError, UserError

_ROWS, _ITEMS, _JOB, _LOCK = "rows.f32", "items.jsonl", "job.json", "lock"


@dataclass
class Embedded:
    """What came of a source."""

    rows: NDArray[np.float32]
    """[N, C] of unit norm, memory-mapped."""
    labels: list[str]
    resumed: int = 0
    """Rows that an earlier run had made."""
    bad: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Key and reason of each picture that was left out."""


def encoder_of(assembly: Assembly, modality: str) -> Encoder:
    """The encoder of a bundle for a modality; builds nothing else.

    Raises:
        UserError: the bundle has none.
    """
    for component in assembly.bundle.encoders:
        offer = assembly.registry.spec("encoders", component.use)
        if isinstance(offer, EncoderSpec) and modality in offer.modalities:
            return assembly.build("encoders", component)
    raise UserError(f"The bundle {assembly.bundle.name!r} has no encoder for {modality}.")


def embed_pictures(
    source: PictureSource,
    encoder: Encoder,
    folder: Path,
    *,
    batch: int = 16,
    bad_limit: int = 100,
    progress: Progress | None = None,
) -> Generator[Embedded]:
    """Embed what is not embedded yet into `folder`; yields the result once, holding the lock.

    Raises:
        UserError: too many bad pictures, none at all, another job in the folder, or a source that
            changed since it was begun.
        ModelError: the encoder gives rows of another width than it says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        keys, labels = _resume(folder, source, encoder)
        resumed = len(labels)
        bad: list[tuple[str, str]] = []
        done = set(keys)
        with (folder / _ROWS).open("ab") as rows, (folder / _ITEMS).open("ab") as items:
            waiting: list[tuple[Picture, Image]] = []

            def flush() -> None:
                kept, refused = _encode(encoder, waiting)
                bad.extend(refused)
                rows.write(b"".join(row.astype("<f4").tobytes() for _, row in kept))
                rows.flush()
                lines = [json.dumps([p.key, p.label]) + "\n" for p, _ in kept]
                items.write("".join(lines).encode())
                items.flush()
                labels.extend(p.label for p, _ in kept)
                if progress is not None and waiting:
                    progress(f"embedding ({len(labels)} rows, {len(bad)} bad)", waiting[-1][0].done)
                waiting.clear()

            for picture in source.pictures(done):
                if picture.key in done:
                    continue
                done.add(picture.key)
                try:
                    waiting.append((picture, picture.open()))
                except UserError as error:
                    bad.append((picture.key, str(error)))
                if len(waiting) >= batch:
                    flush()
                _check_bad(bad, bad_limit)
            flush()
            _check_bad(bad, bad_limit)
        if not labels:
            raise UserError(f"{source.path} holds no picture that can be opened.")
        mapped = np.memmap(folder / _ROWS, "<f4", "r", shape=(len(labels), encoder.dim))
        yield Embedded(mapped, labels, resumed, bad)


def _check_bad(bad: Sequence[tuple[str, str]], limit: int) -> None:
    if len(bad) > limit:
        said = "; ".join(f"{k}: {why}" for k, why in bad[:3])
        raise UserError(
            f"{len(bad)} pictures can't be used, more than the {limit} that are allowed ({said}). "
            "Mend them and run it again (what is done is kept), or allow more."
        )


def _encode(
    encoder: Encoder, waiting: Sequence[tuple[Picture, Image]]
) -> tuple[list[tuple[Picture, NDArray[np.float32]]], list[tuple[str, str]]]:
    """Rows of a batch; if the encoder refuses it, of its pictures one by one."""
    if not waiting:
        return [], []
    try:
        rows = encoder.encode([image for _, image in waiting]).unit
    except UserError as error:
        if len(waiting) == 1:
            return [], [(waiting[0][0].key, str(error))]
        kept, refused = [], []
        for one in waiting:
            some, none = _encode(encoder, [one])
            kept += some
            refused += none
        return kept, refused
    if rows.shape != (len(waiting), encoder.dim):
        raise ModelError(f"The encoder gave {list(rows.shape)} for {len(waiting)} pictures.")
    kept, refused = [], []
    for (picture, _), row in zip(waiting, rows, strict=True):
        norm = float(np.linalg.norm(row))
        if np.isfinite(norm) and norm > 1e-6:
            kept.append((picture, np.asarray(row / norm, np.float32)))
        else:
            refused.append((picture.key, "its embedding is zero or not finite"))
    return kept, refused


def _resume(folder: Path, source: PictureSource, encoder: Encoder) -> tuple[list[str], list[str]]:
    """Keys and labels of the rows that are done; both files are cut to where they agree."""
    job = {
        "source": source.fingerprint(), "kind": source.kind, "space": encoder.space,
        "dim": encoder.dim,
    }  # fmt: skip
    note = folder / _JOB
    if note.exists():
        try:
            known: Any = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if known != job:
            raise UserError(
                f"{folder} holds an unfinished build of another source or encoder (or the source "
                "has changed since). Remove it, or choose another folder."
            )
    else:
        note.write_text(json.dumps(job), encoding="utf-8")
    rows, items = folder / _ROWS, folder / _ITEMS
    for file in (rows, items):
        file.touch()
    width = 4 * encoder.dim
    whole = rows.stat().st_size // width
    keys: list[str] = []
    labels: list[str] = []
    sound = 0
    with items.open("rb") as stream:
        for line in stream:
            if len(keys) == whole or not line.endswith(b"\n"):
                break
            try:
                key, label = json.loads(line)
            except (ValueError, TypeError):
                break
            keys.append(str(key))
            labels.append(str(label))
            sound += len(line)
    os.truncate(items, sound)
    os.truncate(rows, len(keys) * width)
    return keys, labels


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder; the lock goes with its process."""
    try:
        import fcntl
    except ImportError:  # Windows: two builds at once are not noticed.
        yield
        return
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder} is being built by another process.") from error
        yield
