"""Readers of captions of pictures: tab-separated files and shards of a webdataset.

Also what both share with our own format: an embedding from the bytes of a .npy.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.training.data.conversations import captioned
from anybind.core_model.training.data.own import own_record
from anybind.core_model.training.data.records import (
    Attachment,
    BadRecord,
    Reading,
    Record,
    fields,
    loads,
    text,
    unit,
)
from anybind.core_model.training.data.tars import unpack

_PICTURES = ("jpg", "jpeg", "png", "webp")
_WIDEST = 65_536


def tsv(data: bytes, reading: Reading) -> Record:
    """`path of a picture <tab> caption`; one record a line.

    A field in quotes is taken out of them, as programs write one that holds a quote: doubled inside.
    """
    parts = [_unquoted(p) for p in _utf8(data).rstrip("\r\n").split("\t")]
    if len(parts) != 2:
        raise BadRecord(f"{len(parts)} columns; there must be two, `url` and `caption`")
    picture = reading.attached(parts[0].strip())
    return captioned(text(parts[1], "caption"), reading, picture)


def _unquoted(part: str) -> str:
    if len(part) > 1 and part[0] == part[-1] == '"' and '"' not in part[1:-1].replace('""', ""):
        return part[1:-1].replace('""', '"')
    return part


def webdataset(data: bytes, reading: Reading) -> Record:
    """A sample of a shard: a picture (.jpg, .png, .webp) or an embedding (.npy), and a caption (.txt)
    or .json: `{"caption"}`, or a conversation as in our own format.
    """
    name, members = unpack(data)
    row = embedding(members["npy"]) if "npy" in members else None
    picture = next((c for s, c in members.items() if s.rpartition(".")[2] in _PICTURES), None)
    about = fields(loads(members["json"])) if "json" in members else {}
    if "messages" in about:
        if "attachments" in about or "feature" in about:
            raise BadRecord(f"{name[:80]}: in a shard the picture lies beside its .json")
        record = own_record(about, reading)
    elif row is None and picture is None:
        raise BadRecord(f"{name[:80]} holds neither a picture nor an embedding (.npy)")
    elif "txt" in members:
        record = captioned(text(_utf8(members["txt"]), "caption"), reading)
    else:
        record = captioned(text(about.get("caption"), "caption"), reading)
    if row is not None:
        return replace(record, feature=row)
    if picture is None:
        return record
    return replace(record, attachments=(Attachment(f"{reading.file.name}/{name}", data=picture),))


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecord(f"no UTF-8: {error.reason} at byte {error.start}") from error


def embedding(data: bytes) -> NDArray[np.float32]:
    """The embedding [C] in the bytes of a .npy ([C] or [1, C], floats), at norm 1.

    The header is read alone: what it claims is compared with what is there before memory is taken.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(stream)
    except Exception as error:  # numpy fails in many ways on a bad header
        raise BadRecord("its .npy can't be read") from error
    rest = data[stream.tell() :]
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise BadRecord(f"its .npy holds {dtype}, not floats")
    if len(shape) not in (1, 2) or math.prod(shape[:-1]) != 1 or not 0 < shape[-1] <= _WIDEST:
        raise BadRecord(f"its .npy is {list(shape)}, not one embedding [C]")
    if len(rest) != shape[-1] * dtype.itemsize:
        raise BadRecord("its .npy is cut short")
    return unit(np.frombuffer(rest, dtype), "its .npy")
