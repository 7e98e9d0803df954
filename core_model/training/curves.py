"""The curves of runs as a picture: loss, gates, accuracy, gradients, by step. Reads `metrics.csv`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anybind.core_model.training.progress import METRICS, read_metrics
from anybind.errors import UserError
from anybind.optional import require

_PANELS = (
    ("loss", "loss (nats an answer token)"),
    ("accuracy", "answer tokens predicted right"),
    ("gate", "size of the gates"),
    ("grad_norm", "norm of the gradients"),
)
_MORE = (("alignment", "cosine of bound features and words"),)
"""Drawn where a run has them."""
_HELD_OUT = {"loss": "valid_loss", "accuracy": "valid_accuracy"}
"""Drawn as marks over a panel, where a run has them."""
_SMOOTH = 100
"""Curves are means over about one part in so many of the run."""


def draw(runs: Sequence[Path], out: Path) -> None:
    """Draw the curves of runs over one another.

    Args:
        runs: Folders of runs.
        out: png, svg or pdf.

    Raises:
        UserError: a folder holds no steps.
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    found = {run: read_metrics(run / METRICS) for run in runs}
    for run, every in found.items():
        if all(r["skipped"] for r in every):
            raise UserError(f"{run} holds no steps to draw.")
    shown = _PANELS + tuple(
        (column, label)
        for column, label in _MORE
        if any(not math.isnan(r[column]) for every in found.values() for r in every)
    )
    height = -(-len(shown) // 2)
    figure: Any = Figure(figsize=(10, 3.25 * height), dpi=110, layout="constrained")
    panels: Any = figure.subplots(height, 2).flatten()
    for spare in panels[len(shown) :]:
        spare.set_visible(False)
    for run, every in found.items():
        for axes, (column, _) in zip(panels, shown, strict=False):
            rows = [r for r in every if not r["skipped"] and not math.isnan(r[column])]
            steps, values = [r["step"] for r in rows], [r[column] for r in rows]
            (line,) = axes.plot(steps, smoothed(values), label=run.name, linewidth=1.5)
            axes.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.7)
            held = _HELD_OUT.get(column, column)
            marks = [(r["step"], r[held]) for r in every if not math.isnan(r[held])]
            if held != column and marks:
                axes.plot(*zip(*marks, strict=True), "o--", color=line.get_color(), markersize=3)
        for bad in (r["step"] for r in every if r["skipped"]):
            panels[0].axvline(bad, color="red", alpha=0.3, linewidth=0.8)
    for axes, (_, label) in zip(panels, shown, strict=False):
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    if len(runs) > 1:
        panels[0].legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def smoothed(values: Sequence[float]) -> list[float]:
    """Running mean over a window that grows with the length of the run."""
    width = max(1, len(values) // _SMOOTH)
    out: list[float] = []
    for i in range(len(values)):
        some = values[max(0, i - width) : i + width + 1]
        out.append(sum(some) / len(some))
    return out
