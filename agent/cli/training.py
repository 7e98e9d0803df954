"""`anybind train`, `anybind export`, `anybind plot`: stages, what comes out of them, their curves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.agent.cli.output import console, errors, print_json, print_table
from anybind.errors import UserError
from anybind.optional import require

if TYPE_CHECKING:
    from anybind.core_model.training.estimate import Estimate


def stages(as_json: bool) -> None:
    """The shipped configs."""
    from anybind.core_model.training.config import load_config, shipped

    rows = [(name, load_config(name), path) for name, path in shipped().items()]
    if as_json:
        print_json(
            [
                {"name": name, "about": config.about, "trainables": list(config.trainables.groups), "path": str(path)}
                for name, config, path in rows
            ]
        )  # fmt: skip
        return
    print_table(
        ["config", "trains", "about"],
        [(name, ", ".join(config.trainables.groups), config.about) for name, config, _ in rows],
    )
    console.print("Copy one and change it, or set values: anybind train NAME --set data.epochs=1")


def train(
    config: str, out: Path | None, resume: bool, dry_run: bool, changes: list[str], as_json: bool
) -> None:
    """Run a stage, or say what it would take."""
    require("torch", "training")
    from anybind.core_model.training.config import load_config

    stage = load_config(config, changes)
    if dry_run:
        from anybind.core_model.training.estimate import estimate

        found = estimate(stage)
        if as_json:
            print_json(found.as_dict())
        else:
            _print_estimate(found)
        return
    from anybind.core_model.training.trainer import train as run

    folder = out or Path("runs") / Path(config).stem
    outcome = run(stage, folder, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print_json(
            {
                "run": str(folder), "checkpoint": str(outcome.checkpoint or ""),
                "step": outcome.step, "samples": outcome.samples, "loss": _number(outcome.loss),
                "skipped": outcome.skipped, "seconds": round(outcome.seconds, 2),
                "stopped": outcome.stopped, "best": outcome.best, "data": outcome.data,
            }
        )  # fmt: skip
        return
    if outcome.stopped:
        console.print(f"Stopped at step {outcome.step}; go on with: --resume --out {folder}")
    console.print(
        f"{folder}: {outcome.step} steps, {outcome.samples} samples, loss {outcome.loss:.4f}, "
        f"{outcome.skipped} steps skipped; {outcome.checkpoint}"
    )
    if outcome.best is not None:
        console.print(f"On held-out samples step {outcome.best} was best.")
    for source in (outcome.data or {}).get("sources", []):
        errors.print(" ".join(f"{k} {v}" for k, v in source.items()), style="dim")


def _print_estimate(found: Estimate) -> None:
    from anybind.core_model.training.progress import clock

    rows = [(f"trained: {group}", f"{count:,}") for group, count in found.trainable.items()]
    rows += [("trained", f"{sum(found.trainable.values()):,}"), ("frozen", f"{found.frozen:,}")]
    samples = "unknown" if found.samples is None else f"{found.samples:,}"
    tokens = "unknown" if found.tokens is None else f"about {found.tokens:,}"
    rows += [("samples of an epoch", samples), ("tokens of an epoch", tokens)]
    for what, count in found.memory.items():
        rows.append((f"memory: {what}", f"{count / 1e9:.2f} GB"))
    total = sum(found.memory.values())
    rows.append(("memory", f"{total / 1e9:.2f} GB of {found.available / 1e9:.1f} GB free here"))
    rows.append(("steps", "unknown" if found.steps is None else f"{found.steps:,}"))
    rows.append(("a step", f"{found.step_seconds:.3g} s, {found.how}"))
    whole = "unknown" if found.seconds is None else f"{clock(found.seconds)}, on this machine alone"
    rows.append(("all steps", whole))
    print_table(["", found.stage], rows)
    for note in found.notes:
        errors.print(note, style="yellow")


def export(
    run: Path, kind: str, out: Path, decoder: Path | None, condition: Path | None, as_json: bool
) -> None:
    """Write what a run trained in a form that others read."""
    require("torch", "training")
    from anybind.core_model.training.export import export as write

    done = write(run, kind, out, decoder=decoder, condition=condition)
    if as_json:
        print_json({"files": [str(f) for f in done.files], "notes": done.notes})
        return
    for file in done.files:
        console.print(f"{file} written")
    for note in done.notes:
        errors.print(note, style="yellow")


def plot(runs: list[Path], out: Path, as_json: bool) -> None:
    """Draw the curves of runs."""
    from anybind.core_model.training.curves import draw

    for run in runs:
        if not (run / "metrics.csv").is_file():
            raise UserError(f"{run} is no run: there is no metrics.csv in it.")
    draw(runs, out)
    if as_json:
        print_json({"picture": str(out), "runs": [str(r) for r in runs]})
    else:
        console.print(f"{out} written")


def _number(value: float) -> Any:
    """JSON knows no nan."""
    return value if value == value else None
