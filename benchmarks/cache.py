"""The retrieval cache at size: kinds of index side by side against exact search.

    python benchmarks/cache.py [--rows 100000,1000000] [--dim 1024] [--kinds flat,ivf,sq8,pq,ivfpq,hnsw]
                               [--rows-file drop] [--memory 64G] [--json FILE] [--plot FILE] [--folder DIR]

Random but clustered rows of norm 1 (seeded, written in blocks, so that a run needs the memory of one
index); queries are drawn from the same clusters and are no rows. For each kind, built exactly as
`anybind cache build` builds it: recall@10 against exact search, milliseconds a query (one at a time
and in batches of 64), bytes on disk and in memory, seconds to build. Memory is told by /proc, so it runs on Linux. `--rows-file keep` puts exact
rows beside lossy kinds and re-ranks with them.

Clusters: one for every 250 rows, noise of the same size as the distance between centres in
`--noise`. Real features are neither uniform nor that regular; compare kinds, not figures.

hnsw is left out above 300,000 rows unless it is named in `--kinds`: linking 1,000,000 rows of 1024
takes more than five minutes on two cores. Without it, 100,000 and 1,000,000 rows take ten.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.retrieval import RetrievalCache, build_from_embeddings
from anybind.core_model.retrieval.build import Options
from anybind.core_model.retrieval.planning import GRAPH_ROWS, KINDS
from anybind.errors import UserError

BLOCK = 16_384
K = 10


def clusters(rows: int, dim: int) -> NDArray[np.float32]:
    """Centres [G, C] of norm 1, a group for every 250 rows, themselves in about sqrt(G) groups."""
    rng = np.random.default_rng(1)
    count = max(8, rows // 250)
    parents = _unit(rng.standard_normal((max(2, int(count**0.5)), dim), np.float32))
    made = parents[rng.integers(0, len(parents), count)]
    return _unit(made + rng.standard_normal(made.shape, np.float32) / dim**0.5)


def draw(
    centres: NDArray[np.float32], count: int, noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """`count` rows [count, C] of norm 1 around centres; `noise` is the norm of what is added."""
    rows = centres[rng.integers(0, len(centres), count)]
    spread = rng.standard_normal(rows.shape, np.float32)
    return _unit(rows + spread * (noise / rows.shape[1] ** 0.5))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(path: Path, rows: int, dim: int, noise: float) -> None:
    """The rows as npy, a block at a time."""
    centres = clusters(rows, dim)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        rng = np.random.default_rng((2, start))
        out[start : start + count] = draw(centres, count, noise, rng)
    out.flush()


def exact(path: Path, queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Ids [Q, 10] of the nearest rows, by brute force over blocks."""
    rows = np.load(path, mmap_mode="r")
    best = np.full((len(queries), K), -np.inf, np.float32)
    ids = np.zeros((len(queries), K), np.int64)
    for start in range(0, len(rows), BLOCK):
        sims = queries @ np.asarray(rows[start : start + BLOCK]).T
        top = np.argpartition(-sims, K - 1, axis=1)[:, :K] if sims.shape[1] > K else None
        top = np.arange(sims.shape[1])[None].repeat(len(queries), 0) if top is None else top
        both = np.concatenate([best, np.take_along_axis(sims, top, 1)], 1)
        names = np.concatenate([ids, top + start], 1)
        order = np.argsort(-both, axis=1)[:, :K]
        best, ids = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
    return ids


def measure(
    folder: Path, queries: NDArray[np.float32], nearest: NDArray[np.int64]
) -> dict[str, Any]:
    """Recall and times of a built cache, and what opening and searching it adds to memory."""
    import faiss  # noqa: F401 (its own size is not the index's)

    before = _resident()
    cache = RetrievalCache.load(folder, top_k=K)
    hits = cache.search(queries)
    found = [
        len({h.row for h in row} & set(want))
        for row, want in zip(hits, nearest.tolist(), strict=True)
    ]
    resident = _resident() - before
    one = []
    for query in queries[:50]:
        started = time.perf_counter()
        cache.apply(query[None])
        one.append(time.perf_counter() - started)
    started = time.perf_counter()
    count = 0
    for start in range(0, len(queries) - 63, 64):
        cache.apply(queries[start : start + 64])
        count += 64
    batch = (time.perf_counter() - started) / max(count, 1)
    return {
        "recall@10": round(float(np.mean(found)) / K, 4),
        "ms_single": round(1000 * float(np.median(one)), 3),
        "ms_batch64": round(1000 * batch, 3),
        "resident_mb": round(resident / 1e6, 1),
    }


def _status(*names: str) -> int:
    """Bytes by the kernel's account of this process (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return sum(1024 * int(p[1]) for p in pairs if p and p[0].rstrip(":") in names)


def _resident() -> int:
    """In memory now, touched pages of mapped files included."""
    return _status("VmRSS")


def _own() -> int:
    """In memory now, mapped files (such as the rows that are read) left out."""
    return _status("RssAnon")


def one_kind(job: dict[str, Any]) -> dict[str, Any]:
    """Build and measure one kind; runs in a process of its own, so that memory is its own."""
    source, folder = Path(job["source"]), Path(job["folder"])
    options = Options(job["memory"], job["kind"], job["rows_file"])
    start, peak, done = _own(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, _own())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = build_from_embeddings(source, folder, space="benchmark", options=options)
    finally:
        done.set()
        watcher.join()
    plan = report.meta.plan
    return {
        "rows": plan.rows, "dim": plan.dim, "kind": plan.kind, "factory": plan.factory,
        "probes": plan.probes, "build_s": round(report.seconds, 1),
        "build_peak_mb": round(max(peak - start, 0) / 1e6, 1),
        "planned_mb": round(plan.index_bytes / 1e6, 1),
        "index_mb": round(report.index_bytes / 1e6, 1), "rows_mb": round(report.rows_bytes / 1e6, 1),
        "bytes_a_row": round((report.index_bytes + report.rows_bytes) / plan.rows, 1),
    }  # fmt: skip


def run(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Every size and kind."""
    results: list[dict[str, Any]] = []
    for rows in arguments.rows:
        source, queries_at = scratch / f"{rows}.npy", scratch / "queries.npy"
        write(source, rows, arguments.dim, arguments.noise)
        centres = clusters(rows, arguments.dim)
        queries = draw(centres, arguments.queries, arguments.noise, np.random.default_rng(3))
        np.save(queries_at, queries)
        started = time.monotonic()
        nearest = exact(source, queries)
        print(f"{rows} x {arguments.dim}: exact search of {len(queries)} queries took "
              f"{time.monotonic() - started:.1f} s", flush=True)  # fmt: skip
        np.save(scratch / "nearest.npy", nearest)
        for kind in arguments.kinds or KINDS:
            if kind == "hnsw" and rows > GRAPH_ROWS and not arguments.kinds:
                print(f"hnsw is left out at {rows} rows (see the head of this script)")
                continue
            results.append(_in_processes(arguments, scratch, source, rows, kind))
            print(json.dumps(results[-1]), flush=True)
        source.unlink()
    return results


def _in_processes(
    arguments: argparse.Namespace, scratch: Path, source: Path, rows: int, kind: str
) -> dict[str, Any]:
    job = {
        "source": str(source), "folder": str(scratch / f"{rows}-{kind}"), "kind": kind,
        "memory": arguments.memory, "rows_file": arguments.rows_file,
        "queries": str(scratch / "queries.npy"), "nearest": str(scratch / "nearest.npy"),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for step in ("build", "search"):
        command = [sys.executable, __file__, "--job", json.dumps({**job, "step": step})]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{kind} at {rows} rows: {done.stderr.strip()}")
        found |= json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(job["folder"])
    return found


COLUMNS = (
    "rows", "factory", "probes", "recall@10", "ms_single", "ms_batch64", "index_mb", "rows_mb",
    "resident_mb", "build_s", "build_peak_mb",
)  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(r[c]) for c in COLUMNS) + " |" for r in results]
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Recall against time a query, the area of a dot is its size on disk."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted({r["rows"] for r in results})
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(5.5 * len(sizes), 4.2), squeeze=False)
    for axis, rows in zip(axes[0], sizes, strict=True):
        for r in (r for r in results if r["rows"] == rows):
            area = 20 + 380 * r["bytes_a_row"] / (4 * r["dim"] + 300)
            label = f"{r['kind']} ({r['bytes_a_row']:.0f} B/row)"
            axis.scatter(r["ms_single"], r["recall@10"], s=area, alpha=0.6, label=label)
        axis.legend(fontsize=8, markerscale=0.5, loc="lower right")
        axis.set(
            xscale="log", xlabel="ms a query (one at a time)", ylabel="recall@10",
            title=f"{rows:,} x {results[0]['dim']}", ylim=(0, 1.05),
        )  # fmt: skip
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def main() -> None:
    """Parse, run, print, write."""
    from anybind.agent.cli.caching import memory

    parser = argparse.ArgumentParser(description="The retrieval cache at size.")
    parser.add_argument(
        "--rows", type=lambda t: [int(p) for p in t.split(",")], default=[100_000, 1_000_000]
    )
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--kinds", type=lambda t: t.split(","), default=None)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--memory", type=memory, default=64 << 30)
    parser.add_argument("--rows-file", choices=("drop", "keep", "auto"), default="drop")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument(
        "--folder", type=Path, help="Where the rows lie meanwhile (5 GB per million)."
    )
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        job = arguments.job
        if job["step"] == "build":
            print(json.dumps(one_kind(job)))
        else:
            print(
                json.dumps(
                    measure(Path(job["folder"]), np.load(job["queries"]), np.load(job["nearest"]))
                )
            )
        return
    unknown = set(arguments.kinds or ()) - set(KINDS)
    if unknown:
        raise UserError(f"No kinds {sorted(unknown)}; there are {', '.join(KINDS)}.")
    if arguments.folder is not None:
        Path(arguments.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        results = run(arguments, Path(scratch))
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
