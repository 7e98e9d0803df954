"""Tool choice and tool calls: is every call well formed, and is the right tool (or none) chosen?

Requests of our own in `benchmarks/data/tool_requests.jsonl`; the split `dev` was used to set the
constants of the prior, `test` was not. A call is counted as well formed if it parses to an offered
tool with the right number of arguments, artifacts among those that exist.
Run: `python benchmarks/tools.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from anybind.agent import Runtime, Session
from anybind.agent.tool_steps import PlannedCall
from anybind.errors import ToolError

HERE = Path(__file__).parent


def main() -> None:
    """Plan every request and count."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--requests", type=Path, default=HERE / "data" / "tool_requests.jsonl")
    p.add_argument("--picture", type=Path, default=HERE.parent / "examples" / "cat.png")
    p.add_argument("--bundle", default="nano")
    p.add_argument("--limit", type=int, help="only the first N requests")
    p.add_argument("--out", type=Path, help="write every plan here (.jsonl)")
    args = p.parse_args()
    rows = [json.loads(line) for line in args.requests.read_text().splitlines()][: args.limit]
    runtime = Runtime(args.bundle)
    arity = {t.name: len(t.parameters) for t in runtime.available_tools()}
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    calls = formed = 0
    results: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        folder = Path(tempfile.mkdtemp(prefix="anybind-tools-"))
        with Session(runtime, folder=folder / "s") as session:
            try:
                plans = session.plan(row["text"], *([args.picture] if row["picture"] else []))
            except ToolError as error:
                plans = [PlannedCall(row["text"], "?", (), str(error))]
        for plan in plans:
            if plan.tool:
                calls += 1
                formed += (
                    plan.tool in arity and len(plan.args) == arity[plan.tool] and all(plan.args)
                )
        wanted = row["steps"] if "steps" in row else [row["right"]]
        chosen = [plan.tool for plan in plans]
        if "right" in row and len(chosen) > 1:
            # A one-step request that was split: right if its one tool (or none) is all there is.
            chosen = [c for c in chosen if c] or [""]
        hit = len(chosen) == len(wanted) and all(
            c in w for c, w in zip(chosen, wanted, strict=True)
        )
        kind = "several steps" if "steps" in row else "one step"
        for key in (row["split"], f"{row['split']}, {kind}"):
            total[key] += 1
            right[key] += hit
        results.append({"id": row["id"], "hit": hit, "calls": [[c.tool, *c.args] for c in plans]})
        shown = "; ".join(f"{c.tool}({' | '.join(c.args)})" if c.tool else "none" for c in plans)
        print(f"{i + 1:3} {'+' if hit else '-'} {row['text']}  ->  {shown}", flush=True)
    print(
        f"well-formed calls: {formed}/{calls} = {formed / max(calls, 1):.3f} in {len(rows)} requests"
    )
    for key in sorted(total):
        print(
            f"right tool or rightly none, {key}: {right[key]}/{total[key]} = {right[key] / total[key]:.3f}"
        )
    if args.out:
        args.out.write_text("".join(json.dumps(r) + "\n" for r in results), encoding="utf-8")


if __name__ == "__main__":
    main()
