"""The curves of runs as a picture: loss, gates, accuracy, gradients, by step. Reads `metrics.csv`."""

from __future__ import annotations

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

    figure: Any = Figure(figsize=(10, 6.5), dpi=110, layout="constrained")
    panels: Any = figure.subplots(2, 2).flatten()
    for run in runs:
        every = read_metrics(run / METRICS)
        rows = [r for r in every if not r["skipped"]]
        if not rows:
            raise UserError(f"{run} holds no steps to draw.")
        steps = [r["step"] for r in rows]
        for axes, (column, _) in zip(panels, _PANELS, strict=True):
            values = [r[column] for r in rows]
            (line,) = axes.plot(steps, smoothed(values), label=run.name, linewidth=1.5)
            axes.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.7)
        for bad in (r["step"] for r in every if r["skipped"]):
            panels[0].axvline(bad, color="red", alpha=0.3, linewidth=0.8)
    for axes, (_, label) in zip(panels, _PANELS, strict=True):
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
