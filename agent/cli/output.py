"""Printing: JSON documents, tables, progress. Shared by the commands."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, soft_wrap=True, markup=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on the terminal."""
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


class FetchProgress:
    """Prints what is being fetched: one line a thing, renewed on a terminal."""

    def __init__(self) -> None:
        self._last = ""
        self._at = 0.0

    def __call__(self, text: str, done: float) -> None:
        now = time.monotonic()
        if text != self._last:
            errors.print(f"  {text} ...", style="dim")
            self._last, self._at = text, now
        elif now - self._at > 5:
            errors.print(f"  {text}: {done:.0f} MB", style="dim")
            self._at = now
