"""Tool choice: the right tool, or rightly none, and the right words for its arguments.

Requests are planned (`Session.plan`), not run. Those of the split "unlike" are worded unlike anything
the choice was tuned on or trained with, and say what may stand in each text argument.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.statistics import by, share
from anybind.agent.session import Session
from anybind.agent.tool_steps import PlannedCall
from anybind.contracts import Tool
from anybind.errors import ToolError

_ARTICLE = re.compile(r"^(?:a|an|the|my|that|this|our)\s+")


def plain(text: str) -> str:
    """An argument as it is compared: lower case, no leading article, quotes or brackets."""
    bare = re.sub(r"[\"'`.!?\[\]()]", "", text.lower())
    return _ARTICLE.sub("", " ".join(bare.replace(",", " ").split()))


def arguments_right(tool: Tool, said: Sequence[str], wanted: Sequence[Sequence[str]]) -> bool:
    """Whether each text argument is one of those that are wanted there, and each content argument
    names an artifact of its kind.
    """
    if len(said) != len(tool.parameters):
        return False
    texts = iter(wanted)
    for parameter, value in zip(tool.parameters, said, strict=True):
        if parameter.kind == "text":
            if plain(value) not in {plain(w) for w in next(texts, ())}:
                return False
        elif not value.startswith(f"{parameter.kind}/"):
            return False
    return True


def judge(
    row: dict[str, Any], calls: Sequence[tuple[str, Sequence[str]]], tools: dict[str, Tool]
) -> tuple[bool, bool | None]:
    """(right tools or rightly none, right arguments; None where the request does not say which)."""
    wanted = row["steps"] if "steps" in row else [row["right"]]
    made = [c for c in calls if c[0]]
    chosen = [name for name, _ in calls]
    if "right" in row and len(chosen) > 1:
        # A one-step request that was split: right if its one tool (or none) is all there is.
        chosen = [c for c in chosen if c] or [""]
    hit = len(chosen) == len(wanted) and all(c in w for c, w in zip(chosen, wanted, strict=True))
    if "args" not in row:
        return hit, None
    if not hit or not made:
        return hit, hit
    name, said = made[0]
    return hit, name in tools and arguments_right(tools[name], said, row["args"])


def requests(bench: Bench) -> Iterator[Row]:
    """Every request of both files."""
    tools = {t.name: t for t in bench.runtime.available_tools()}
    both = ("tool_requests.jsonl", "tool_requests_unlike.jsonl")
    rows = [r for name in both for r in bench.data.records(name)]
    picture = bench.data.folder / "request.png"
    for row in bench.some(rows):
        with tempfile.TemporaryDirectory(prefix="anybind-eval-") as folder:
            with Session(bench.runtime, folder=Path(folder) / "s") as session:
                try:
                    plans = session.plan(row["text"], *([picture] if row["picture"] else []))
                except ToolError as error:
                    plans = [PlannedCall(row["text"], "?", (), str(error))]
        calls = [(p.tool, p.args) for p in plans]
        tool_hit, args_hit = judge(row, calls, tools)
        formed = all(
            name in tools and len(args) == len(tools[name].parameters) and all(args)
            for name, args in calls
            if name
        )
        yield {
            "id": row["id"], "split": row["split"], "text": row["text"],
            "calls": [[name, *args] for name, args in calls], "formed": formed,
            "tool_hit": tool_hit, "args_hit": args_hit,
            "hit": tool_hit and args_hit is not False,
        }  # fmt: skip


def sum_requests(rows: list[Row]) -> dict[str, Any]:
    """Of the split "unlike": tool and arguments right; then the parts and the older requests."""
    unlike = [r for r in rows if r["split"] == "unlike"]
    calling = [r for r in rows if any(c[0] for c in r["calls"])]
    with_tool = [r for r in unlike if r["tool_hit"] and any(c[0] for c in r["calls"])]
    return share([r["hit"] for r in unlike]) | {
        "right tool or rightly none, by split": by(rows, "split", "tool_hit"),
        "right arguments where a tool was rightly chosen": share(
            [bool(r["args_hit"]) for r in with_tool]
        ),
        "well-formed calls": share([r["formed"] for r in calling]),
    }
