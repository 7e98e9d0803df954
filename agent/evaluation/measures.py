"""The measures by name, and how one is run: every row kept, then a summary. Knows no formula."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from anybind.agent.evaluation.bench import Bench, Row
from anybind.errors import UserError


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure: `module.name` yields rows, `module.sum_name` makes figures of them."""

    name: str
    what: str
    module: str
    function: str
    floor: float | None = None
    aim: float | None = None
    lower_is_better: bool = False

    def run(self, bench: Bench) -> Iterator[Row]:
        """Rows, one a question."""
        yield from getattr(self._load(), self.function)(bench)

    def summary(self, rows: list[Row]) -> dict[str, Any]:
        """Figures of rows: at least `value`, `total` and `interval`."""
        return getattr(self._load(), f"sum_{self.function}")(rows)

    def _load(self) -> Any:
        return import_module(f"anybind.agent.evaluation.{self.module}")


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure("photographs", "photograph: the answer names the object", "seeing",
                "photographs", 0.60, 0.80),
        Measure("pictures", "emoji, icon, hand drawing, clip art: the answer names the object",
                "seeing", "pictures", 0.40, 0.65),
        Measure("retrieval", "photograph to caption, R@1", "retrieval", "captions", 0.25, 0.45),
        Measure("existence", "yes/no existence questions, balanced accuracy", "existence",
                "existence", 0.70, 0.85),
        Measure("sounds", "sound: the answer names the source", "hearing", "sounds", 0.40, 0.70),
        Measure("scenes", "scene of two things: both named", "seeing", "scenes", 0.30, 0.60),
        Measure("tools", "request in unlike words: right tool or rightly none, right arguments",
                "requests", "requests", 0.80, 0.95),
        Measure("toolchat", "GPT4Tools SR, seen tools (unseen: floor 0.50, aim 0.85)", "toolchat",
                "toolchat", 0.80, 0.95),
        Measure("speech", "word error rate on synthetic speech", "speech", "speech", 0.15, 0.08,
                lower_is_better=True),
    )
}  # fmt: skip


def chosen(names: Sequence[str]) -> list[Measure]:
    """The measures of these names; "all" is every one.

    Raises:
        UserError: there is no such measure.
    """
    unknown = [n for n in names if n != "all" and n not in MEASURES]
    if unknown or not names:
        raise UserError(f"Measures are all, {', '.join(MEASURES)}; not {', '.join(unknown) or ''}.")
    return list(MEASURES.values()) if "all" in names else [MEASURES[n] for n in names]


def evaluate(
    measure: Measure,
    bench: Bench,
    out: Path | None,
    each: Callable[[Row, int], None] = lambda row, number: None,
) -> dict[str, Any]:
    """Run one measure; its rows go to OUT/<name>.jsonl as they come, its figures are returned.

    With `out`, the figures are also put into OUT/summary.json beside those of other measures.
    """
    began = time.perf_counter()
    rows: list[Row] = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        kept = None
        if out is not None:
            path = out / f"{measure.name}.jsonl"
            kept = stack.enter_context(path.open("w", encoding="utf-8"))
        for row in measure.run(bench):
            rows.append(row)
            if kept is not None:
                kept.write(json.dumps(row, ensure_ascii=False) + "\n")
                kept.flush()
            each(row, len(rows))
    found: dict[str, Any] = {
        "what": measure.what, "floor": measure.floor, "aim": measure.aim,
        "command": f"anybind eval {measure.name}", "bundle": bench.runtime.bundle.reference,
        "seed": bench.seed, "limit": bench.limit, **measure.summary(rows),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    if out is not None:
        path = out / "summary.json"
        merged: dict[str, Any] = {}
        if path.is_file():
            merged = json.loads(path.read_text(encoding="utf-8"))
        merged[measure.name] = found
        ordered = {n: merged[n] for n in MEASURES if n in merged}
        text = json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"
        partial = path.with_suffix(".part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return found


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| measure | result | 95 % interval | floor | aim | command |",
        "|---|---|---|---|---|---|",
    ]
    for found in figures.values():
        value, interval = found.get("value"), found.get("interval")
        shown = "–" if value is None else f"{value:.3f}"
        if value is not None and "hits" in found:
            shown = f"{found['hits']} of {found['total']} = {shown}"
        between = f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "–"
        goal = [f"{found[k]:.2f}" if found.get(k) is not None else "–" for k in ("floor", "aim")]
        lines.append(
            f"| {found['what']} | {shown} | {between} | {goal[0]} | {goal[1]} | `{found['command']}` |"
        )
    return "\n".join(lines)
