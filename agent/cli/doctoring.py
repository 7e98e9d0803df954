"""`anybind doctor` and `anybind convert`: weights and what they need."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from anybind.agent.cli.output import FetchProgress, console, print_json, print_table
from anybind.assembly import Assembly
from anybind.errors import AnybindError, UserError
from anybind.plugins import registry
from anybind.weights import WeightRef, home, local_path, own_path, run_converter, sha256_of


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
    weights = [_weight(key, w, bundle.base) for key, w in bundle.weights.items()]
    components = [
        {
            "room": room,
            "use": c.use,
            "reason": assembly.why_not(room, c),
            "bytes": c.footprint or _footprint(assembly, room, c.use),
        }
        for room, c in assembly.components()
    ]
    if bundle.cache is not None:
        weight = bundle.weights[bundle.cache["file"]]
        path = local_path(weight, bundle.base)
        components.append(
            {
                "room": "cache",
                "use": bundle.cache["file"],
                "reason": "" if path else _todo(weight),
                "bytes": _size(path),
            }
        )
    unavailable = [{"tool": t.name, "reason": why} for t, why in Runtime(assembly).tools() if why]
    return {
        "bundle": bundle.name,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "home": str(home()),
        "memory": _memory(),
        "weights": weights,
        "components": components,
        "unavailable_tools": unavailable,
        "broken_plugins": [
            {"plugin": p.label, "error": p.error} for p in registry().plugins if p.error
        ],
    }


def _weight(key: str, weight: WeightRef, base: Path) -> dict[str, Any]:
    path = local_path(weight, base)
    return {
        "name": key,
        "ref": weight.ref,
        "licence": weight.licence,
        "bytes": _size(path) or weight.bytes,
        "path": str(path) if path else None,
        "todo": "" if path else _todo(weight),
    }


def _todo(weight: WeightRef) -> str:
    """What to do about weights that are not ready."""
    if not weight.ref.startswith("own:"):
        return "fetch it: anybind doctor --fetch"
    place = own_path(weight)
    if place.exists():
        return "it is there; convert it: anybind doctor --fetch"
    return f"put it at {place}. {weight.hint}".strip()


def _size(path: Path | None) -> int:
    if path is None:
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())


def _footprint(assembly: Assembly, room: str, use: str) -> int:
    try:
        return assembly.registry.spec(room, use).footprint
    except AnybindError:
        return 0


def _memory() -> int:
    """Bytes of main memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _gigabytes(count: int) -> str:
    if not count:
        return ""
    return (
        f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.{count < 1e7:d}f} MB"
    )


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
        ["weights", "from", "licence", "size", "there"],
        [
            (
                w["name"],
                w["ref"],
                w["licence"],
                _gigabytes(w["bytes"]),
                "no" if w["todo"] else "yes",
            )
            for w in report["weights"]
        ],
    )
    print_table(
        ["component", "room", "memory", "ready"],
        [
            (c["use"], c["room"], _gigabytes(c["bytes"]), c["reason"] or "yes")
            for c in report["components"]
        ],
    )
    needed = sum(c["bytes"] for c in report["components"])
    console.print(
        f"all of it loaded takes about {_gigabytes(needed)}"
        + (f" of this machine's {_gigabytes(report['memory'])}" if report["memory"] else "")
        + "; parts are loaded when they are first used"
    )
    for w in report["weights"]:
        if w["todo"]:
            console.print(f"{w['name']}: {w['todo']}", style="yellow")
    reasons: dict[str, list[str]] = {}
    for tool in report["unavailable_tools"]:
        reasons.setdefault(tool["reason"], []).append(tool["tool"])
    for reason, names in reasons.items():
        console.print(f"tools not available, {reason}: {', '.join(names)}", style="dim")
    for broken in report["broken_plugins"]:
        console.print(f"broken plugin {broken['plugin']}: {broken['error']}", style="red")
    for problem in report["problems"]:
        console.print(problem, style="red")
    healthy = report["healthy"]
    console.print("healthy" if healthy else "not healthy", style="green" if healthy else "red")


def convert(name: str, source: Path, target: Path, sha256: str) -> None:
    """Run one converter on one file."""
    converters = registry().converters
    if name not in converters:
        raise UserError(f"No converter {name!r}; on offer: {', '.join(sorted(converters))}.")
    if not source.exists():
        raise UserError(f"There is no file {source}.")
    if source.is_dir() and sha256:
        raise UserError(f"{source} is a folder; a hash is of one file.")
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: converters write .safetensors.")
    if sha256 and sha256_of(source) != sha256.lower():
        raise UserError(f"{source.name} has another SHA-256; not converted.")
    target.parent.mkdir(parents=True, exist_ok=True)
    run_converter(converters[name], source, target)
    console.print(f"{target} written")


def merge_delta(base: Path, delta: Path, target: Path) -> None:
    """Add a published delta to the base that it was taken from."""
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the result is written as .safetensors.")
    if target.exists():
        raise UserError(f"{target} is there already; nothing was changed.")
    for source in (base, delta):
        if not source.exists():
            raise UserError(f"There is no file {source}.")
    from anybind.core_model.convert.llama_delta import merge_delta as merge

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        ready: list[Path] = []
        for name, source in (("base", base), ("delta", delta)):
            if source.suffix != ".safetensors":
                console.print(f"converting {source}")
                made = Path(scratch) / f"{name}.safetensors"
                run_converter(registry().converters["llama-meta"], source, made)
                source = made
            ready.append(source)
        full_base, full_delta = ready
        identity = merge(full_base, full_delta, target)
        tokenizer = Path(scratch) / "tokenizer.model"
        if tokenizer.exists() and not (target.parent / tokenizer.name).exists():
            tokenizer.rename(target.parent / tokenizer.name)
    console.print(f"{target} written, identity {identity}")
