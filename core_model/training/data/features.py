"""Files of embeddings made once by a frozen encoder: mapped, looked up by key, written as a stream.

A safetensors file with
- `features` F16 [N, C], rows of unit norm, in the order they were made;
- `keys` U8 [K], the keys one behind the other in UTF-8, and `ends` I64 [N] where each ends;
- `hashes` I64 [N] (blake2b of 8 bytes, ascending) and `order` I64 [N], the row of each.

Metadata: `format`, `space`; `cache` (the retrieval cache they went through, or "none"); where known
`kinds` of content; `views` and `augment`, if every picture has so many augmented views, see `view_key`.

Nothing of it is read before it is asked for: a million rows cost as much to open as ten.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.errors import ModelError, UserError

FORMAT = "anybind-features-1"
NO_CACHE = "none"
"""What `cache` says in the metadata of embeddings that are as the encoder gave them."""
_NANO = "anybind.core_model.training.nano_data"
_TYPES = {"F16": "<f2", "F32": "<f4", "I64": "<i8", "U8": "|u1"}
_LAYOUT = {"features": "F16", "keys": "U8", "ends": "I64", "hashes": "I64", "order": "I64"}


def cache_of(notes: Mapping[str, str]) -> str:
    """The retrieval cache that embeddings have been through, by the metadata of their file: what it
    says under `cache`, "" for none.

    Files of nano's data that say nothing are known by their other notes: their pictures have been
    through the cache of the bundle that they were made for.
    """
    said = notes.get("cache")
    if said is None:
        nano = notes.get("made_by") == _NANO or "carries" in notes
        return "that of the bundle which nano's data was made for" if nano else ""
    return "" if said == NO_CACHE else said


def view_key(key: str, view: int) -> str:
    """The key of an augmented view of what is known by `key` (in which there is no NUL)."""
    return f"{key}\0{view}"


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)


class FeatureFile:
    """Embeddings by key."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            UserError: there is no such file.
            ModelError: it is none of these files, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        self.path = path
        if not path.is_file():
            raise UserError(f"There is no {path}; make it with: anybind embed --dataset")
        try:
            with safe_open(path, "np") as file:  # checks sizes and offsets of the whole header
                notes = dict(file.metadata() or {})
            with path.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error
        if notes.get("format") != FORMAT:
            raise ModelError(f"{path.name} is no file of features that anybind made.")
        self.space = notes.get("space", "")
        self.cache = cache_of(notes)
        """The retrieval cache that its rows have been through; "" for none."""
        kinds = notes.get("kinds", "").split(",")
        self.kind = kinds[0] if len(kinds) == 1 else ""
        """Kind of content that all rows are of; "" if they are of several, or nothing says it."""
        try:
            self.views = int(notes.get("views", "0"))
            self.augment: Any = json.loads(notes.get("augment", "null"))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path.name}: its notes on views can't be read: {error}") from error
        self._parts: dict[str, NDArray[Any]] = {}
        for name, kind in _LAYOUT.items():
            entry = header.get(name, {"dtype": "", "shape": []})
            if entry["dtype"] != kind or len(entry["shape"]) != (2 if name == "features" else 1):
                raise ModelError(f"{path.name}: the tensor {name!r} is missing or of another kind.")
            if 0 in entry["shape"]:
                raise ModelError(f"{path.name} holds no rows.")
            start = 8 + size + entry["data_offsets"][0]
            self._parts[name] = np.memmap(path, _TYPES[kind], "r", start, tuple(entry["shape"]))
        count = len(self._parts["features"])
        if any(len(self._parts[n]) != count for n in ("ends", "hashes", "order")):
            raise ModelError(f"{path.name}: its tables are not one entry a row.")

    def __len__(self) -> int:
        return len(self._parts["features"])

    @property
    def dim(self) -> int:
        """Width C."""
        return int(self._parts["features"].shape[1])

    def key(self, row: int) -> str:
        """The key of a row."""
        return self._key(row).decode("utf-8", "replace")

    def find(self, key: str) -> NDArray[np.float32] | None:
        """The embedding [C] at norm 1 that is known by `key`, or None.

        Raises:
            ModelError: the file is damaged there.
        """
        wanted = key.encode("utf-8", "surrogatepass")
        code = _hash(wanted)
        at = int(np.searchsorted(self._parts["hashes"], code))
        while at < len(self) and int(self._parts["hashes"][at]) == code:
            row = int(self._parts["order"][at])
            if self._key(row) == wanted:
                return self.row(row)
            at += 1
        return None

    def row(self, row: int) -> NDArray[np.float32]:
        """A row [C], brought back to norm 1 after its rounding to 16 bits."""
        found = np.asarray(self._parts["features"][row], np.float32)
        norm = float(np.linalg.norm(found))
        if not np.isfinite(norm) or norm < 1e-3:
            raise ModelError(f"{self.path.name}: row {row} is no embedding.")
        return found / np.float32(norm)

    def _key(self, row: int) -> bytes:
        if not 0 <= row < len(self):
            raise ModelError(f"{self.path.name} names row {row} of {len(self)}.")
        start = int(self._parts["ends"][row - 1]) if row else 0
        return self._parts["keys"][start : int(self._parts["ends"][row])].tobytes()


def write_features(
    path: Path, rows: Path, dim: int, keys: Sequence[str], space: str, notes: dict[str, str]
) -> None:
    """Write a file of features, whole or not at all.

    Args:
        path: Where to.
        rows: Raw little-endian float16 rows [N, dim].
        dim: Width C.
        keys: One a row, each once.
        space: Their joint space.
        notes: Further metadata.
    """
    raw = [k.encode("utf-8", "surrogatepass") for k in keys]
    hashes = np.array([_hash(k) for k in raw], np.int64)
    order = np.argsort(hashes, kind="stable")
    tables = {
        "hashes": hashes[order].astype("<i8"), "order": order.astype("<i8"),
        "ends": np.cumsum([len(k) for k in raw]).astype("<i8"),
    }  # fmt: skip
    blob = b"".join(raw)
    shapes = {"features": (len(raw), dim), "keys": (len(blob),)}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "space": space, **notes}}
    at = 0
    # Wide numbers first, so that each table lies at a multiple of its own width.
    for name in ("hashes", "order", "ends", "features", "keys"):
        shape = shapes.get(name, (len(raw),))
        size = int(np.prod(shape)) * np.dtype(_TYPES[_LAYOUT[name]]).itemsize
        header[name] = {"dtype": _LAYOUT[name], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with scratch.open("wb") as sink, rows.open("rb") as source:
            sink.write(len(head).to_bytes(8, "little") + head)
            for name in ("hashes", "order", "ends"):
                sink.write(tables[name].tobytes())
            shutil.copyfileobj(source, sink, 1 << 20)
            sink.write(blob)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
