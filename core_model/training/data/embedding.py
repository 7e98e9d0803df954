"""Embeds what the records of sources name, once, into a file of features; goes on where it stopped.

What is done lies in `OUT.building/`: raw float16 rows and a line with the key of each, the rows first.
A run that was stopped is cut back to where both agree. Bad records are told, and tried again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anybind.contracts import Progress
from anybind.core_model.retrieval.embedding import _locked
from anybind.core_model.training.data.augment import AugmentConfig, ImagesConfig
from anybind.core_model.training.data.config import PICTURED, DataConfig, SourceConfig
from anybind.core_model.training.data.features import NO_CACHE, view_key, write_features
from anybind.core_model.training.data.maker import FeatureMaker
from anybind.core_model.training.data.order import mix64
from anybind.core_model.training.data.records import Attachment, BadRecord, fields, loads
from anybind.core_model.training.data.source import Report, Source
from anybind.errors import UserError

_YAML = (".yaml", ".yml")
_ROWS, _KEYS, _JOB = "rows.f16", "keys.jsonl", "job.json"


_Waiting = tuple[Source, str, Attachment]
"""Where an attachment is named, and it."""


@dataclass
class Embedded:
    """What came of it."""

    path: Path
    rows: int
    dim: int
    space: str
    seconds: float
    resumed: int = 0
    """Rows that an earlier run had made."""
    bad: int = 0
    views: int = 0
    """Augmented views of each picture, which are rows too."""
    examples: list[str] = field(default_factory=list[str])


def dataset_config(path: Path, images: Path | None = None) -> DataConfig:
    """The sources of a training config (its `data`), of a data section, or of one file of data.

    Raises:
        UserError: it is none of these, or its format can't be told.
    """
    from anybind.core_model.training.data.config import read_data_config

    if path.suffix.lower() in _YAML:
        found = _read_yaml(path)
        section = found.get("data", found) if isinstance(found, dict) else found
        return read_data_config(section, path.parent, path.name)
    source: dict[str, Any] = {"format": _told(path), "path": path.name}
    if images is not None:
        source["images"] = images.absolute()
    return read_data_config({"sources": [source]}, path.absolute().parent, path.name)


def dataset_augment(path: Path) -> AugmentConfig:
    """How a training config augments pictures; for what says nothing of it, the defaults.

    Raises:
        UserError: it says something that can't be; names the field.
    """
    found = _read_yaml(path) if path.suffix.lower() in _YAML else None
    section = found.get("images") if isinstance(found, dict) else None
    try:
        said = ImagesConfig.model_validate(section or {})
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise UserError(f"{path.name}: images: {told}") from error
    return said.augment or AugmentConfig()


def _read_yaml(path: Path) -> Any:
    from anybind.optional import require

    yaml: Any = require("yaml", "training")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}") from error


def _told(path: Path) -> str:
    """The format of a file with pictures, by its name and its first record."""
    from anybind.core_model.training.data.formats import form_of
    from anybind.core_model.training.data.offsets import offsets

    suffix = path.suffix.lower()
    if suffix in (".tsv", ".csv"):
        return "tsv"
    if suffix == ".tar" or path.is_dir():
        return "webdataset"
    if suffix == ".jsonl":
        return "jsonl"
    if suffix == ".json":
        form = form_of("minigpt4", path)  # also takes a plain list
        table = offsets(path, form.kind, form.scan)
        if len(table):
            with path.open("rb") as stream, contextlib.suppress(BadRecord):
                stream.seek(int(table[0][0]))
                first = fields(loads(stream.read(int(table[0][1] - table[0][0]))))
                if "image_id" in first:
                    return "minigpt4"
                if "conversations" in first:
                    return "llava"
    raise UserError(
        f"The format of {path.name} can't be told. Write a .yaml with `sources:` that says it "
        "(docs/training-data.md)."
    )


def embed_sources(
    config: DataConfig,
    maker: FeatureMaker,
    out: Path,
    *,
    views: int = 0,
    augment: AugmentConfig | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> Embedded:
    """Embed every picture (or other file) that the sources name, each key once.

    Args:
        config: The sources; its seed decides the views.
        maker: Embeds; made with `augment` if there are views.
        out: The file to write.
        views: Augmented views of each picture, embedded besides it as it is.
        augment: How these are changed; kept in the file.
        report: Called with a line about each bad record.
        progress: Called with what is done and the share of it.

    Raises:
        UserError: no source has any, two files go by one key, too many records are bad, or another
            job lies in the building folder.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: features are written as .safetensors.")
    began = time.monotonic()
    sources = [_opened(s, report) for s in config.sources if s.format in PICTURED]
    if not sources:
        raise UserError("None of the sources has a format with pictures.")
    folder = out.with_name(f"{out.name}.building")
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "space": maker.space, "dim": maker.dim,
        "sources": [[s.name, s.fingerprint, str(s.config.images)] for s in sources],
    }  # fmt: skip
    notes = {"cache": NO_CACHE}
    if views and augment is not None:
        notes |= {"views": str(views), "augment": augment.model_dump_json()}
        job |= {"views": views, "augment": augment.model_dump(mode="json"), "seed": config.seed}
    with _locked(folder):
        found = _resume(folder, job, 2 * maker.dim)
        keys, kinds = [k for k, _ in found], {kind for _, kind in found}
        resumed = len(keys)
        done, places, told = set(keys), dict[str, str](), set[tuple[str, str, str]]()
        total = sum(s.count for s in sources)
        with (folder / _ROWS).open("ab") as rows, (folder / _KEYS).open("ab") as lines:
            waiting = _waiting(sources, done, places, config.seed, views)
            for chunk in _chunks(waiting, 4 * maker.batch):
                made = maker.make_told([a for _, _, a in chunk])
                kept: list[tuple[str, str]] = []
                for (source, where, attachment), (row, kind) in zip(chunk, made, strict=True):
                    if isinstance(row, BadRecord):
                        mark = (source.name, where, attachment.key.partition("\0")[0])
                        if mark not in told:  # once, not for each of its views
                            told.add(mark)
                            source.bad(where, str(row))
                    elif attachment.draw is None or kind == "image":
                        rows.write(row.astype("<f2").tobytes())
                        kept.append((attachment.key, kind))
                rows.flush()
                lines.write("".join(json.dumps(k) + "\n" for k in kept).encode())
                lines.flush()
                keys += [k for k, _ in kept]
                kinds |= {kind for _, kind in kept}
                if progress is not None:
                    read = sum(s.account.read for s in sources)
                    progress(f"embedding ({len(keys)} rows)", min(read / total, 1.0))
        if not keys:
            raise UserError("The sources name no picture that can be opened.")
        if "" not in kinds:  # as in what an older version had begun
            notes["kinds"] = ",".join(sorted(kinds))
        write_features(out, folder / _ROWS, maker.dim, keys, maker.space, notes)
        bad = sum(s.account.bad for s in sources)
        examples = [e for s in sources for e in s.account.examples]
    shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    return Embedded(out, len(keys), maker.dim, maker.space, seconds, resumed, bad, views, examples)


def _opened(config: SourceConfig, report: Report | None) -> Source:
    plain = config.model_copy(update={"shuffle": "none", "features": None})
    return Source(plain, epochs=1, report=report)


def _chunks(waiting: Iterator[_Waiting], size: int) -> Iterator[list[_Waiting]]:
    """So many at a time."""
    while chunk := list(itertools.islice(waiting, size)):
        yield chunk


def _waiting(
    sources: list[Source], done: set[str], places: dict[str, str], seed: int, views: int
) -> Iterator[_Waiting]:
    """What is to be embedded: each attachment and, if it may be a picture, its views behind it."""
    for source in sources:
        while (found := source.next()) is not None:
            record, where = found
            for attachment in record.attachments:
                place = attachment.path or str(source.config.path[0])
                if places.setdefault(attachment.key, place) != place:
                    raise UserError(
                        f"{where}: two files go by the name {attachment.key!r}. Embed the sources "
                        "into files of their own."
                    )
                turned = views if attachment.kind in ("image", "embedding") else 0
                for one in (attachment, *_views(attachment, seed, turned)):
                    if one.key not in done:
                        done.add(one.key)
                        yield source, where, one


def _views(attachment: Attachment, seed: int, count: int) -> Iterator[Attachment]:
    name = attachment.key.encode("utf-8", "surrogatepass")
    for view in range(count):
        draw = mix64(seed, *name, view)
        yield replace(attachment, key=view_key(attachment.key, view), draw=draw)


def _resume(folder: Path, job: dict[str, Any], width: int) -> list[tuple[str, str]]:
    """Key and kind of the rows that are done; both files are cut to where they agree."""
    note = folder / _JOB
    if note.exists():
        known: Any = None
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(note.read_text(encoding="utf-8"))
        if known != job:
            raise UserError(
                f"{folder} holds unfinished work of other sources or another encoder. Remove it, or "
                "choose another name."
            )
    else:
        note.write_text(json.dumps(job), encoding="utf-8")
    for name in (_ROWS, _KEYS):
        (folder / name).touch()
    whole = (folder / _ROWS).stat().st_size // width
    keys: list[tuple[str, str]] = []
    sound = 0
    with (folder / _KEYS).open("rb") as stream:
        for line in stream:
            if len(keys) == whole or not line.endswith(b"\n"):
                break
            try:
                said = json.loads(line)  # a version before this one kept the key alone
                key, kind = said if isinstance(said, list) else (said, "")
                keys.append((str(key), str(kind)))
            except ValueError:
                break
            sound += len(line)
    os.truncate(folder / _KEYS, sound)
    os.truncate(folder / _ROWS, len(keys) * width)
    return keys
