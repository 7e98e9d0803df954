"""One source of samples: its files, the order of its records, and its account of the bad ones.

Where it stands is an epoch and a place in it, so that its state is a few numbers. Knows nothing of
other sources, of encoders or of tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anybind.core_model.training.data.augment import AugmentConfig
from anybind.core_model.training.data.config import SourceConfig
from anybind.core_model.training.data.features import FeatureFile, view_key
from anybind.core_model.training.data.formats import expand, form_of
from anybind.core_model.training.data.offsets import offsets
from anybind.core_model.training.data.order import Order, mix64
from anybind.core_model.training.data.records import (
    Attachment,
    BadRecord,
    Reading,
    Record,
    with_system,
)
from anybind.core_model.training.data.rows import RowFile
from anybind.errors import UserError

log = logging.getLogger("anybind.training")
Report = Callable[[str], None]

_LARGEST = 256 << 20
_OPEN = 16
_TOLD = 20
"""Bad records told one by one, by each source; all are counted."""
_LENIENT = 10


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of the records that this process (rank, worker) reads: each `count`-th one."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"There is no part {self.index} of {self.count}.")


@dataclass
class Account:
    """What was read so far, and what of it was bad."""

    read: int = 0
    bad: int = 0
    epoch_read: int = 0
    epoch_bad: int = 0
    examples: list[str] = field(default_factory=list[str])


class Source:
    """Records of one source in order, endlessly or for some epochs."""

    def __init__(
        self,
        config: SourceConfig,
        *,
        seed: int = 0,
        shard: Shard | None = None,
        epochs: int | None = None,
        report: Report | None = None,
        held_out: float = 0.0,
        validating: bool = False,
        augment: AugmentConfig | None = None,
    ) -> None:
        """Open it: finds the records of every file (from the second run on that is kept).

        Args:
            config: What it is.
            seed: Of its order.
            shard: The part of this process.
            epochs: How often it is gone through; None is endlessly.
            report: Called with a line about each bad record.
            held_out: Share of the records, the last ones, that is left out.
            validating: These and no others are read.
            augment: Pictures get a draw, by seed, epoch and number of the record, that decides how
                they are changed; of `features` one of the augmented views is taken, by epoch.

        Raises:
            UserError: files are missing, not of the format, or hold no record; the views in
                `features` were made with other settings than `augment`.
        """
        self.config = config
        self.name = config.title
        self._shard = shard or Shard()
        self._epochs = epochs
        self._report = report or log.warning
        self._seed = mix64(seed, *self.name.encode())
        self.files = expand(config.format, config.path)
        self._rows: list[RowFile] = []
        self._features = FeatureFile(config.features) if config.features is not None else None
        self._augment = augment
        if augment is not None and self._features is not None:
            _check_views(self._features, augment)
        if config.format == "features":
            self._rows = [RowFile(f) for f in self.files]
            sizes = [len(r) for r in self._rows]
        else:
            self._forms = [form_of(config.format, f) for f in self.files]
            self._tables = [
                offsets(f, form.kind, form.scan)
                for f, form in zip(self.files, self._forms, strict=True)
            ]
            sizes = [len(t) for t in self._tables]
        every = Order(sizes, config.order, self._seed, config.limit)
        if not every.count:
            raise UserError(f"{self.name} holds no record.")
        kept, self._first = every.count, 0
        if held_out:
            kept = every.count - math.ceil(every.count * held_out)
            if not kept:
                raise UserError(f"{self.name} has too few records to hold some of them out.")
        if validating:
            kept, self._first = every.count - kept, kept
        self._places, self._order = every, every
        if kept < every.count:
            whole = [kept] if validating else sizes
            self._order = Order(whole, "full" if validating else config.order, self._seed, kept)
        self._mine = len(range(self._shard.index, self._order.count, self._shard.count))
        if self._order.count < self._shard.count:  # said by all of them alike
            raise UserError(
                f"{self.name} has {self._order.count} records for {self._shard.count} processes."
            )
        facts = [[f.name, f.stat().st_size, n] for f, n in zip(self.files, sizes, strict=True)]
        facts.append([config.format, config.order, config.limit])
        if held_out:
            facts.append([held_out, validating])
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        self._open: OrderedDict[Path, int] = OrderedDict()
        self.epoch = 0
        self.position = 0
        self.account = Account()

    @property
    def count(self) -> int:
        """Records of one epoch, of all processes together."""
        return self._order.count

    @property
    def spaces(self) -> list[tuple[Path, str, int]]:
        """File, joint space ("" if it states none) and width of embeddings that it brings along."""
        return [(f.path, f.space, f.dim) for f in self._made]

    @property
    def caches(self) -> list[tuple[Path, str]]:
        """File and retrieval cache of embeddings that it brings along and that went through one."""
        return [(f.path, f.cache) for f in self._made if f.cache]

    @property
    def _made(self) -> list[RowFile | FeatureFile]:
        return [*self._rows, *([] if self._features is None else [self._features])]

    def next(self) -> tuple[Record, str] | None:
        """The next record that can be used and its key; None behind the last epoch.

        Raises:
            UserError: too many records are bad.
        """
        while self._epochs is None or self.epoch < self._epochs:
            if self.position >= self._mine:
                self._end_epoch()
                continue
            place = self._shard.index + self.position * self._shard.count
            number = self._first + self._order.at(self.epoch, place)
            self.position += 1
            self.account.read += 1
            self.account.epoch_read += 1
            file, row = self._places.place(number)
            key = self._key(file, row)
            try:
                return self._read(file, row, number), key
            except BadRecord as error:
                self.bad(key, str(error) + self._lost(file, row))
        return None

    def bad(self, key: str, reason: str) -> None:
        """Count a record as bad, and tell it.

        Raises:
            UserError: there are more than allowed.
        """
        account, config = self.account, self.config
        account.bad += 1
        account.epoch_bad += 1
        said = f"{key}: {reason}"
        if len(account.examples) < _TOLD:
            account.examples.append(said)
            self._report(f"{said} (left out)")
            if len(account.examples) == _TOLD:
                self._report(f"{self.name}: further bad records are counted, not told")
        share = config.bad_share * account.epoch_read
        over_share = account.epoch_bad > max(_LENIENT, share)
        if account.epoch_bad > config.bad_limit or over_share:
            allowed = (
                f"{config.bad_limit}" if account.epoch_bad > config.bad_limit
                else f"{100 * config.bad_share:g} %"
            )  # fmt: skip
            raise UserError(
                f"{self.name}: {account.epoch_bad} of {account.epoch_read} records can't be used, "
                f"more than the {allowed} allowed. The first: {'; '.join(account.examples[:3])}. "
                "Mend the file, or raise bad_limit and bad_share of this source."
            )

    def state(self) -> dict[str, Any]:
        """Where it stands, for JSON."""
        account = self.account
        return {
            "fingerprint": self.fingerprint, "epoch": self.epoch, "position": self.position,
            "read": account.read, "bad": account.bad, "epoch_read": account.epoch_read,
            "epoch_bad": account.epoch_bad, "examples": list(account.examples),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken.

        Raises:
            UserError: the files have changed since, or it is no such state.
        """
        if state.get("fingerprint") != self.fingerprint:
            raise UserError(
                f"{self.name} has changed since the run was saved (files, sizes, limit or shuffle): "
                "it can't be taken up in the middle. Begin a new run, or bring the files back."
            )
        try:
            epoch, position = int(state["epoch"]), int(state["position"])
            account = Account(
                int(state["read"]), int(state["bad"]), int(state["epoch_read"]),
                int(state["epoch_bad"]), [str(e) for e in state["examples"]],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The saved state of {self.name} is damaged: {error!r}") from error
        if epoch < 0 or not 0 <= position <= self._mine:
            raise UserError(f"The saved state of {self.name} is damaged: place {position}.")
        self.epoch, self.position, self.account = epoch, position, account

    def summary(self) -> dict[str, Any]:
        """What was read, for people."""
        return {
            "source": self.name, "format": self.config.format, "language": self.config.language,
            "records": self.count, "epoch": self.epoch + self.position / self._mine,
            "read": self.account.read, "bad": self.account.bad,
            "examples": list(self.account.examples),
        }  # fmt: skip

    def close(self) -> None:
        """Close its files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def _end_epoch(self) -> None:
        account = self.account
        if account.epoch_bad >= account.epoch_read:
            raise UserError(
                f"{self.name}: none of its {account.epoch_read} records can be used. "
                f"The first: {'; '.join(account.examples[:3])}."
            )
        self.epoch += 1
        self.position = 0
        account.epoch_read = account.epoch_bad = 0

    def _key(self, file: int, row: int) -> str:
        if self._rows:
            return f"{self.files[file].name}, row {row + 1}"
        unit = self._forms[file].unit
        return f"{self.files[file].name}, {unit} {int(self._tables[file][row][2])}"

    def _lost(self, file: int, row: int) -> str:
        """What to say of a bad record behind which nothing more of its file can be told apart."""
        if self._rows or self._forms[file].unit == "line":
            return ""
        start, end, _ = (int(v) for v in self._tables[file][row])
        if end < self.files[file].stat().st_size:
            return ""
        return f"; {end - start} bytes, to the end of the file, could not be told apart"

    def _read(self, file: int, row: int, number: int) -> Record:
        config = self.config
        path = self.files[file]
        asked = config.questions[mix64(self._seed, self.epoch, number) % len(config.questions)]
        reading = Reading(path, config.images or path.parent, asked)
        if self._rows:
            record = self._rows[file].record(row, reading)
        else:
            start, end, _ = (int(v) for v in self._tables[file][row])
            record = self._forms[file].read(self._bytes(path, start, end), reading)
        if self._features is not None:
            attached = tuple(
                self._found(a, self._features, mix64(self._seed, number, i))
                for i, a in enumerate(record.attachments)
            )
            record = replace(record, attachments=attached)
        elif self._augment is not None:
            attached = tuple(
                replace(a, draw=mix64(self._seed, number, i, self.epoch))
                for i, a in enumerate(record.attachments)
            )
            record = replace(record, attachments=attached)
        return with_system(record, config.system)

    def _found(self, attachment: Attachment, file: FeatureFile, start: int) -> Attachment:
        """The attachment with its embedding; of a picture, where it is augmented, that of the view
        whose turn it is in this epoch, counted from `start`."""
        attachment = replace(attachment, made_of=file.kind)
        key, shown = attachment.key, attachment.key[:200]
        if self._augment is not None and attachment.kind == "image":
            if not file.views:
                raise UserError(
                    f"images.augment: {file.path.name} holds {shown} as it is only. Embed it again "
                    "with augmented views (anybind embed --dataset STAGE.yaml --views 4), or leave "
                    "images.augment out."
                )
            view = (start + self.epoch) % file.views
            key, shown = view_key(key, view), f"view {view} of {shown}"
        found = file.find(key)
        if found is None:
            raise BadRecord(f"{file.path.name} has no {shown}")
        return replace(attachment, row=found)

    def _bytes(self, path: Path, start: int, end: int) -> bytes:
        if end - start > _LARGEST:
            raise BadRecord(f"it has {(end - start) >> 20} MB; {_LARGEST >> 20} at most")
        if path not in self._open:
            while len(self._open) >= _OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._open.move_to_end(path)
        file, parts, at = self._open[path], [], start
        while at < end:
            part = os.pread(file, end - at, at)
            if not part:
                raise BadRecord("the file has become shorter")
            parts.append(part)
            at += len(part)
        return b"".join(parts)


def _check_views(file: FeatureFile, augment: AugmentConfig) -> None:
    """Whether the views in a file, if it has any, are what the stage asks for."""
    wanted = augment.model_dump(mode="json")
    if file.views and file.augment != wanted:
        raise UserError(
            f"images.augment: the views in {file.path.name} were made with {file.augment}, the stage "
            f"says {wanted}. Embed them again, or take the settings that they were made with."
        )
