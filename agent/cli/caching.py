"""`anybind cache`: build, describe and search retrieval caches."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, cast

from anybind.agent.cli.output import FetchProgress, console, errors, print_json, print_table
from anybind.assembly import Assembly
from anybind.content import AnyPart, Text
from anybind.errors import UserError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class BuildProgress:
    """Prints a line when the work changes, and every few seconds after that."""

    def __init__(self) -> None:
        self._work = ""
        self._at = 0.0

    def __call__(self, text: str, done: float) -> None:
        now = time.monotonic()
        work = text.partition(" (")[0]
        if work != self._work or now - self._at > 5:
            errors.print(f"  {text}: {100 * done:.0f} %", style="dim")
            self._work, self._at = work, now


def memory(text: str) -> int:
    """Bytes of "2G", "512M", "1.5T" or a plain number.

    Raises:
        UserError: no such amount.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or (count := int(float(match[1]) * _UNITS[match[2].upper()])) < 1:
        raise UserError(f"{text!r} is no amount of memory; write for example 512M or 2G.")
    return count


def build(
    source: Path, out: Path, bundle: str | None, budget: str, kind: str, rows: str,
    bad_limit: int, as_json: bool,
) -> None:  # fmt: skip
    """Build a cache of pictures (through the bundle's encoder) or of a file of embeddings."""
    from anybind.core_model.retrieval.build import (
        Options,
        Report,
        build_from_embeddings,
        build_from_pictures,
    )

    options = Options(memory(budget), cast("Any", kind), cast("Any", rows))
    progress = BuildProgress()
    report: Report
    if source.suffix in (".safetensors", ".npy"):
        space = Assembly(bundle).bundle.space if bundle is not None else ""
        report = build_from_embeddings(source, out, space=space, options=options, progress=progress)
    else:
        from anybind.core_model.retrieval.embedding import encoder_of

        assembly = Assembly(bundle or "nano", progress=FetchProgress())
        try:
            report = build_from_pictures(
                source, out, encoder_of(assembly, "image"), bad_limit=bad_limit, options=options,
                progress=progress,
            )  # fmt: skip
        finally:
            assembly.close()
    if as_json:
        print_json(
            {
                "out": str(report.folder), "space": report.meta.space, "count": report.meta.count,
                "dim": report.meta.dim, "plan": report.meta.plan.as_dict(),
                "index_bytes": report.index_bytes, "rows_bytes": report.rows_bytes,
                "seconds": round(report.seconds, 2), "resumed": report.resumed,
                "bad": [{"key": k, "reason": why} for k, why in report.bad],
            }
        )  # fmt: skip
        return
    for key, why in report.bad:
        errors.print(f"left out {key}: {why}", style="yellow")
    again = f", {report.resumed} from an earlier run" if report.resumed else ""
    console.print(
        f"{report.folder}: {report.meta.count} rows of {report.meta.dim}{again}, "
        f"{report.meta.plan.factory}, {(report.index_bytes + report.rows_bytes) / 1e6:.1f} MB, "
        f"{report.seconds:.1f} s"
    )


def info(folder: Path, as_json: bool) -> None:
    """What a built cache is. Opens no index."""
    from anybind.core_model.retrieval import folder as folders

    meta = folders.read_meta(folder)
    files = (folders.INDEX, folders.ROWS, folders.LABELS)
    sizes = {n: (folder / n).stat().st_size for n in files if (folder / n).is_file()}
    if as_json:
        print_json(
            {
                "folder": str(folder), "space": meta.space, "count": meta.count, "dim": meta.dim,
                "metric": "inner_product", "labels": meta.labels, "rows": meta.rows,
                "plan": meta.plan.as_dict(), "source": meta.source, "bytes": sizes,
            }
        )  # fmt: skip
        return
    plan = meta.plan
    table = [
        ("space", meta.space), ("rows", f"{meta.count} x {meta.dim}"), ("index", plan.factory),
        ("lists searched", str(plan.probes) if plan.lists else "-"),
        ("exact rows", "kept" if meta.rows else ("in the index" if plan.exact else "no")),
        ("labels", "yes" if meta.labels else "no"),
        ("made of", " ".join(str(meta.source.get(k, "")) for k in ("kind", "name"))),
        *((name, f"{size / 1e6:.2f} MB") for name, size in sizes.items()),
    ]  # fmt: skip
    print_table(["", str(folder)], table)


def search(folder: Path, queries: list[str], bundle: str, k: int, as_json: bool) -> None:
    """The nearest rows of files and texts."""
    import numpy as np

    from anybind.core_model.retrieval import RetrievalCache
    from anybind.core_model.retrieval.embedding import encoder_of
    from anybind.media import from_value, looks_like_path

    cache = RetrievalCache.load(folder, top_k=k)
    assembly = Assembly(bundle, progress=FetchProgress())
    if cache.space != assembly.bundle.space:
        raise UserError(
            f"{folder} holds {cache.space!r} features; the bundle {bundle!r} makes "
            f"{assembly.bundle.space!r}. Name the bundle it was built with."
        )
    parts: list[AnyPart] = [from_value(q) if looks_like_path(q) else Text.of(q) for q in queries]
    try:
        rows = [encoder_of(assembly, part.kind).encode([part]).unit[0] for part in parts]
    finally:
        assembly.close()
    found = cache.search(np.stack(rows), k)
    if as_json:
        print_json(
            [
                {
                    "query": query,
                    "hits": [
                        {"row": h.row, "label": h.label, "similarity": round(h.similarity, 4)}
                        for h in hits
                    ],
                }
                for query, hits in zip(queries, found, strict=True)
            ]
        )
        return
    for query, hits in zip(queries, found, strict=True):
        table = [(f"{h.similarity:.3f}", h.label or str(h.row), str(h.row)) for h in hits]
        print_table(["similarity", "label", "row"], table, title=query)
