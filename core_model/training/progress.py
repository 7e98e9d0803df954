"""What a run shows and keeps of itself: a live line, `metrics.csv`, TensorBoard where installed.

Knows figures and names; nothing of models. Only one process of a run has a reporter that speaks.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from anybind.errors import ModelError

METRICS = "metrics.csv"


@dataclass(frozen=True)
class StepFigures:
    """One step. Floats are written so that they read back exactly."""

    step: int
    samples: int
    """Since the beginning of the run."""
    tokens: int
    """Of this step, without padding."""
    answers: int
    """Of these, learned."""
    loss: float
    """Mean nats an answer token."""
    accuracy: float
    """Share of the answer tokens predicted right."""
    grad_norm: float
    """Before clipping."""
    lr: float
    gate: float
    """Mean size of the gates, past their tanh."""
    seconds: float
    skipped: int = 0
    """1 if the step was not made."""
    alignment: float = math.nan
    """Mean cosine between bound features and the words that they are of; nan without any."""
    valid_loss: float = math.nan
    """On held-out samples, behind this step; nan where it was not measured."""
    valid_accuracy: float = math.nan


COLUMNS = tuple(f.name for f in fields(StepFigures))
_FIRST = COLUMNS[: COLUMNS.index("skipped") + 1]
"""Those that every run has; the others may be left out and empty (nan)."""


class Quiet:
    """The reporter of every process but one."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step(self, figures: StepFigures, done: float) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


class Reporter(Quiet):
    """Shows and keeps the figures of every step."""

    def __init__(self, run: Path, start: int, *, every: float = 10.0, live: bool | None = None):
        """Begin, or go on at step `start`: rows of steps that are made again are dropped.

        Args:
            run: The folder of the run.
            start: Steps behind it.
            every: Seconds between lines where there is no terminal.
            live: Show a bar; None does on a terminal.
        """
        self.file = run / METRICS
        rows = [r for r in read_metrics(self.file) if r["step"] <= start] if start else []
        with self.file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            writer.writerows([_cell(c, row[c]) for c in COLUMNS] for row in rows)
        self._stream = self.file.open("a", newline="", encoding="utf-8")
        self._csv = csv.writer(self._stream)
        self._board = _tensorboard(run / "tensorboard", start)
        self._every, self._shown, self._pace = every, 0.0, _Pace()
        self._valid = ""
        self._bar: Any = None
        self._task: Any = None
        if live if live is not None else sys.stderr.isatty():
            self._start_bar()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._stream.close()
        if self._board is not None:
            self._board.close()

    def step(self, figures: StepFigures, done: float) -> None:
        """Take in one step; `done` is the share of the run behind it."""
        self._csv.writerow([_cell(c, getattr(figures, c)) for c in COLUMNS])
        self._stream.flush()
        if self._board is not None and not figures.skipped:
            for name in ("loss", "accuracy", "grad_norm", "lr", "gate", "alignment", "valid_loss", "valid_accuracy"):  # fmt: skip
                if not math.isnan(value := getattr(figures, name)):
                    self._board.add_scalar(name, value, figures.step)
        self._pace.add(figures.tokens, figures.seconds, done)
        text = f"loss {figures.loss:.4f}  gate {figures.gate:.4f}  right {figures.accuracy:.2f}  "
        if not math.isnan(figures.alignment):
            text += f"aligned {figures.alignment:.3f}  "
        if not math.isnan(figures.valid_loss):
            self._valid = f"held out {figures.valid_loss:.4f}"
            if not math.isnan(figures.valid_accuracy):
                self._valid += f" ({figures.valid_accuracy:.2f} right)"
            self._valid += "  "
        text += f"{self._valid}{self._pace.tokens_a_second:,.0f} tokens/s"
        if self._bar is not None:
            left = clock(self._pace.left)
            self._bar.update(self._task, completed=done, figures=text, at=figures.step, left=left)
        elif time.monotonic() - self._shown > self._every or done >= 1:
            self._shown = time.monotonic()
            self.note(
                f"step {figures.step} ({100 * done:.1f} %)  {text}  {clock(self._pace.left)} left"
            )

    def note(self, text: str) -> None:
        """A line above the bar, or on standard error."""
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = [
            TextColumn("step {task.fields[at]}"), BarColumn(bar_width=24), TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"), TextColumn("{task.fields[left]} left"),
        ]  # fmt: skip
        console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Bar(*columns, console=console)
        self._task = self._bar.add_task("", total=1.0, figures="", at="0", left="?")
        self._bar.start()


class _Pace:
    """Tokens a second and time left, over the last steps."""

    def __init__(self, window: int = 50) -> None:
        self._window = window
        self._rows: list[tuple[int, float, float]] = []

    def add(self, tokens: int, seconds: float, done: float) -> None:
        self._rows = [*self._rows[-self._window :], (tokens, seconds, done)]

    @property
    def tokens_a_second(self) -> float:
        return sum(r[0] for r in self._rows) / max(sum(r[1] for r in self._rows), 1e-9)

    @property
    def left(self) -> float:
        """Seconds; nan before it can be told."""
        if len(self._rows) < 2:
            return float("nan")
        way = self._rows[-1][2] - self._rows[0][2]
        seconds = sum(r[1] for r in self._rows[1:])
        return (1 - self._rows[-1][2]) * seconds / way if way > 0 else float("nan")


def clock(seconds: float) -> str:
    """ "2 d 3 h", "1 h 20 min", "5 min", "40 s"."""
    if seconds != seconds:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`; a last row that was cut off by a crash is left out.

    Raises:
        ModelError: it is something else.
    """
    if not path.is_file():
        return []
    rows: list[dict[str, float]] = []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        # Those of older runs lack the last columns.
        if tuple(reader.fieldnames or ())[: len(_FIRST)] != _FIRST or set(
            reader.fieldnames or ()
        ) - set(COLUMNS):
            raise ModelError(f"{path} is not the metrics of a run.")
        for number, row in enumerate(reader, 2):
            try:
                rows.append(_numbers(row))
            except (TypeError, ValueError):
                if next(reader, None) is not None:
                    raise ModelError(f"{path}, line {number}: not a row of figures.") from None
    return rows


def _numbers(row: Mapping[str, str | None]) -> dict[str, float]:
    whole = {"step", "samples", "tokens", "answers", "skipped"}
    found: dict[str, float] = {}
    for column in COLUMNS:
        cell = row.get(column)
        if column not in _FIRST and (column not in row or cell == ""):
            found[column] = math.nan
        else:
            found[column] = int(str(cell)) if column in whole else float(str(cell))
    return found


def _cell(column: str, value: float) -> str:
    return "" if math.isnan(value) and column not in _FIRST else repr(value)


def _tensorboard(folder: Path, start: int) -> Any:
    """A writer, or None if TensorBoard is not installed: the CSV has all of it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
