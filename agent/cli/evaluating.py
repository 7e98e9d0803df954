"""`anybind eval`: run measures on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anybind.agent.cli.output import FetchProgress, console, errors, print_json, print_table


def measures(as_json: bool) -> None:
    """The measures on offer."""
    from anybind.agent.evaluation.measures import MEASURES

    if as_json:
        print_json(
            [{"name": m.name, "what": m.what, "floor": m.floor, "aim": m.aim}
             for m in MEASURES.values()]
        )  # fmt: skip
        return
    rows = [(m.name, m.what, str(m.floor), str(m.aim)) for m in MEASURES.values()]
    print_table(["measure", "what", "floor", "aim"], rows)


def run(
    names: list[str], bundle: str, data: Path | None, out: Path | None, limit: int | None,
    seed: int, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Run the measures one after the other and print their figures."""
    from anybind.agent.evaluation import Bench, Data, Row
    from anybind.agent.evaluation.measures import chosen, evaluate, table
    from anybind.agent.runtime import Runtime

    wanted, held_out = chosen(names), Data(data)
    if threads is not None:
        from anybind.optional import require

        require("torch", "model").set_num_threads(threads)
    runtime = Runtime(bundle, progress=FetchProgress())
    figures: dict[str, dict[str, Any]] = {}
    try:
        for measure in wanted:

            def each(row: Row, number: int, name: str = measure.name) -> None:
                mark = {True: "+", False: "-"}.get(row.get("hit", ""), " ")
                errors.print(f"{name} {number} {mark} {row['id']}  {row.get('answer', '')}")

            bench = Bench(runtime, held_out, limit, seed)
            figures[measure.name] = evaluate(measure, bench, out, each)
    finally:
        runtime.close()
    if as_json:
        print_json(figures)
    else:
        console.print(table(figures))
