"""`anybind tools | experts | generators | bundles | plugins`: what there is."""

from __future__ import annotations

from typing import Any, Literal

from anybind.agent.cli.output import console, print_json, print_table
from anybind.assembly import Assembly
from anybind.bundles import load, names
from anybind.plugins import registry


def tools(bundle: str, as_json: bool) -> None:
    """Every tool with its arguments and whether it can be used."""
    from anybind.agent.runtime import Runtime

    rows: list[dict[str, Any]] = [
        {
            "name": t.name,
            "arguments": [{"name": p.name, "kind": p.kind} for p in t.parameters],
            "description": t.description,
            "available": not why,
            "reason": why,
        }
        for t, why in Runtime(bundle).tools()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["tool", "arguments", "available"],
        [
            (r["name"], ", ".join(a["name"] for a in r["arguments"]), r["reason"] or "yes")
            for r in rows
        ],
    )


def specs(room: Literal["experts", "generators"], bundle: str, as_json: bool) -> None:
    """Registered experts or generators, and how they stand in a bundle."""
    assembly = Assembly(bundle)
    used = {c.use: c for r, c in assembly.components() if r == room}
    rows = [
        {
            "name": name,
            "description": spec.description,
            "in_bundle": name in used,
            "available": name in used and not assembly.why_not(room, used[name]),
            "reason": assembly.why_not(room, used[name]) if name in used else "not in this bundle",
        }
        for name, spec in getattr(registry(), room).items()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        [room[:-1], "what", "available"],
        [(str(r["name"]), str(r["description"]), str(r["reason"] or "yes")) for r in rows],
    )


def bundles(as_json: bool) -> None:
    """The shipped bundles."""
    rows = [
        {"name": b.name, "description": b.description, "weights": len(b.weights)}
        for b in map(load, names())
    ]
    if as_json:
        print_json(rows)
        return
    print_table(["bundle", "what"], [(str(r["name"]), str(r["description"])) for r in rows])


def plugins(as_json: bool) -> None:
    """Every entry point, what it offers or why it is broken."""
    found = registry().plugins
    if as_json:
        print_json(
            [
                {
                    "name": p.name, "value": p.value, "distribution": p.distribution,
                    "version": p.version, "offers": list(p.offers), "error": p.error or None,
                }
                for p in found
            ]
        )  # fmt: skip
        return
    for p in found:
        console.print(f"{p.name}  {p.distribution} {p.version}", style="bold")
        if p.error:
            console.print(f"  broken: {p.error}", style="red")
        for offer in p.offers:
            console.print(f"  {offer}", style="dim")
