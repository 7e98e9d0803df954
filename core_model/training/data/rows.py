"""Rows of embeddings with a text each, as records: what `anybind embed THINGS --out` writes.

A safetensors file with `embeddings` [N, C] (or `features`) and the texts as a JSON list under
`labels` in its metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from anybind.core_model.retrieval.rows import map_rows, metadata
from anybind.core_model.training.data.conversations import captioned
from anybind.core_model.training.data.features import cache_of
from anybind.core_model.training.data.records import Reading, Record, text, unit
from anybind.errors import ModelError, UserError


class RowFile:
    """A file of embeddings and their texts."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ModelError: no such rows. UserError: no texts to learn from.
        """
        if path.suffix != ".safetensors":
            raise UserError(f"{path.name}: embeddings with texts are read from .safetensors.")
        self.path = path
        notes = metadata(path)
        self.space = notes.get("space", "")
        self.cache = cache_of(notes)
        """The retrieval cache that its rows have been through; "" for none."""
        try:
            self._rows = map_rows(path)
        except ModelError:
            self._rows = map_rows(path, "features")
        try:
            labels = json.loads(notes.get("labels", "null"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path.name}: its labels can't be read: {error}") from error
        if not isinstance(labels, list):
            raise UserError(
                f"{path.name} has no labels: nothing to learn. Features of pictures belong to the "
                "source that has the texts, as its `features`."
            )
        if len(labels) != len(self._rows):
            raise UserError(f"{path.name}: {len(labels)} labels for {len(self._rows)} rows.")
        self._labels = labels

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        """Width C."""
        return int(self._rows.shape[1])

    def record(self, row: int, reading: Reading) -> Record:
        """A row as a captioned picture."""
        record = captioned(text(self._labels[row], "label"), reading)
        feature = unit(np.asarray(self._rows[row]), "the row")
        return Record(record.messages, feature=feature)
