"""The folder of held-out data, as `benchmarks/prepare.py` lays it out. Knows files, not measures."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from anybind.agent.evaluation.naming import WordNet
from anybind.errors import UserError
from anybind.weights import home

Record = dict[str, Any]


class Data:
    """Held-out data.

    Args:
        folder: The prepared folder; None is `ANYBIND_HOME/evaluation`.

    Raises:
        UserError: there is no such folder; says how to make it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home() / "evaluation"
        if not self.folder.is_dir():
            raise UserError(
                f"No held-out data in {self.folder}. Make it by: "
                f"python benchmarks/prepare.py --out {self.folder}"
            )

    def records(self, name: str) -> list[Record]:
        """The lines of a .jsonl file; where a record names files, as absolute paths.

        Raises:
            UserError: the file is missing or broken.
        """
        path = self.folder / name
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(
                f"{path} can't be read. Make it by: python benchmarks/prepare.py --out {self.folder}"
            ) from error
        records: list[Record] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = cast(Record, json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number} is no JSON: {error}") from error
            for key in ("file", "cut"):
                if key in record:
                    record[key] = str(path.parent / record[key])
            records.append(record)
        return records

    @cached_property
    def wordnet(self) -> WordNet:
        """WordNet 3.0 of the folder."""
        from anybind.core_model.training.concepts import wordnet

        folder = self.folder / "wordnet"
        if not (folder / "data.noun").is_file():
            raise UserError(
                f"No WordNet in {folder}. Fetch it by: python benchmarks/wordnet.py --out {folder}"
            )
        return cast(WordNet, wordnet(folder))
