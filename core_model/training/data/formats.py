"""The table of formats: how the records of a file are found, and how one is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anybind.core_model.training.data import captions, conversations, own
from anybind.core_model.training.data.config import Format
from anybind.core_model.training.data.offsets import Scan, scan_lines, scan_list
from anybind.core_model.training.data.records import Reading, Record
from anybind.core_model.training.data.tars import scan_tar
from anybind.errors import UserError


@dataclass(frozen=True)
class Form:
    """A format of files."""

    kind: str
    """What the table of offsets is kept under."""
    scan: Scan
    read: Callable[[bytes, Reading], Record]
    unit: str
    """What people count in it."""


_LIST = ("list", scan_list)

FORMS: dict[Format, Form] = {
    "tsv": Form("tsv", partial(scan_lines, header=True), captions.tsv, "line"),
    "webdataset": Form("tar", scan_tar, captions.webdataset, "sample"),
    "alpaca": Form(*_LIST, conversations.alpaca, "record"),
    "llava": Form(*_LIST, conversations.llava, "record"),
    "sharegpt": Form(*_LIST, conversations.sharegpt, "record"),
    "minigpt4": Form(
        "annotations", partial(scan_list, key="annotations"), conversations.minigpt4, "record"
    ),
    "gpt4tools": Form(*_LIST, conversations.gpt4tools, "record"),
    "jsonl": Form("lines", scan_lines, own.own, "line"),
}
"""All but `features`, which is no list of records but rows; see `rows`."""

_JSON = ("alpaca", "llava", "sharegpt", "minigpt4", "gpt4tools")


def form_of(name: Format, file: Path) -> Form:
    """The format, for one file: JSON formats may also come with one record a line (.jsonl)."""
    form = FORMS[name]
    if name in _JSON and file.suffix.lower() == ".jsonl":
        return Form("lines", scan_lines, form.read, "line")
    return form


def expand(name: Format, paths: tuple[Path, ...]) -> list[Path]:
    """The files that paths stand for, in order.

    Raises:
        UserError: a path stands for none, or for one that can't be read as it is.
    """
    out: list[Path] = []
    for path in paths:
        if "*" in path.name:
            found = sorted(p for p in path.parent.glob(path.name) if p.is_file())
        elif name == "webdataset" and path.is_dir():
            found = sorted(p for p in path.glob("*.tar") if p.is_file())
        else:
            found = [path] if path.is_file() else []
        if not found:
            raise UserError(f"There is no file {path}.")
        out += found
    for file in out:
        if file.suffix.lower() in (".gz", ".zst", ".bz2", ".xz", ".zip", ".tgz"):
            raise UserError(f"{file.name} is compressed: unpack it, its records are read singly.")
    return out
