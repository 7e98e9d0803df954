"""`anybind doctor` and `anybind convert`: weights and what they need."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from anybind.agent.cli.output import FetchProgress, console, print_json, print_table
from anybind.assembly import Assembly
from anybind.errors import AnybindError, UserError
from anybind.plugins import registry
from anybind.weights import home, local_path, run_converter, sha256_of


def doctor(bundle: str, fetch: bool, as_json: bool) -> None:
    """Report on a bundle; with `fetch`, get what is missing first. Exit code 1 if not healthy."""
    assembly = Assembly(bundle, progress=FetchProgress())
    problems: list[str] = []
    if fetch:
        for key in assembly.missing_weights():
            try:
                assembly.weight(key)
            except AnybindError as error:
                problems.append(f"{key}: {error}")
    report = _report(assembly)
    report["problems"] = problems
    report["healthy"] = not problems and all(not c["reason"] for c in report["components"])
    if as_json:
        print_json(report)
    else:
        _print(report)
    if not report["healthy"]:
        raise SystemExit(1)


def _report(assembly: Assembly) -> dict[str, Any]:
    from anybind.agent.runtime import Runtime

    bundle = assembly.bundle
    weights = [
        {
            "name": key,
            "ref": w.ref,
            "licence": w.licence,
            "path": str(path) if (path := local_path(w, bundle.base)) else None,
        }
        for key, w in bundle.weights.items()
    ]
    components = [
        {"room": room, "use": c.use, "reason": assembly.why_not(room, c)}
        for room, c in assembly.components()
    ]
    unavailable = [{"tool": t.name, "reason": why} for t, why in Runtime(assembly).tools() if why]
    return {
        "bundle": bundle.name,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "home": str(home()),
        "weights": weights,
        "components": components,
        "unavailable_tools": unavailable,
        "broken_plugins": [
            {"plugin": p.label, "error": p.error} for p in registry().plugins if p.error
        ],
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print(report: dict[str, Any]) -> None:
    console.print(
        f"bundle {report['bundle']}, Python {report['python']}, torch {report['torch']}, "
        f"weights in {report['home']}"
    )
    print_table(
        ["weights", "from", "licence", "there"],
        [
            (w["name"], w["ref"], w["licence"], "yes" if w["path"] else "no")
            for w in report["weights"]
        ],
    )
    print_table(
        ["component", "room", "ready"],
        [(c["use"], c["room"], c["reason"] or "yes") for c in report["components"]],
    )
    for tool in report["unavailable_tools"]:
        console.print(f"tool {tool['tool']} is not available: {tool['reason']}", style="yellow")
    for broken in report["broken_plugins"]:
        console.print(f"broken plugin {broken['plugin']}: {broken['error']}", style="red")
    for problem in report["problems"]:
        console.print(problem, style="red")
    if report["healthy"]:
        console.print("healthy", style="green")
    else:
        console.print("not healthy; try: anybind doctor --fetch", style="red")


def convert(name: str, source: Path, target: Path, sha256: str) -> None:
    """Run one converter on one file."""
    converters = registry().converters
    if name not in converters:
        raise UserError(f"No converter {name!r}; on offer: {', '.join(sorted(converters))}.")
    if not source.is_file():
        raise UserError(f"There is no file {source}.")
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: converters write .safetensors.")
    if sha256 and sha256_of(source) != sha256.lower():
        raise UserError(f"{source.name} has another SHA-256; not converted.")
    target.parent.mkdir(parents=True, exist_ok=True)
    run_converter(converters[name], source, target)
    console.print(f"{target} written")
