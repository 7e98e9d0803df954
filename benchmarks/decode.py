"""Decoding: this project in four precisions, transformers and llama.cpp, on the same weights.

The weights are nano's SmolLM2-135M (GGUF: Q4_1, head Q8_0); every engine has the same ones,
int8 excepted, which rounds them anew. Each engine runs in a process of its own, one after the
other, several rounds in turn; figures are medians over rounds. Measured:
- decode: tokens a second, greedy, behind a prompt of 16, 512 and 2,048 tokens;
- prefill: tokens a second of a prompt of 512;
- memory: the most that the process ever had resident, after all of that;
- agreement with float32 at every position of real text in windows of 500 tokens: how often the
  most probable token is the same, and the mean KL divergence in nats. The text is README.md,
  CONTRIBUTING.md, docs/architecture.md and LICENSE of this repository, in this order.

llama.cpp takes part if `llama_cpp` can be imported, here or by the interpreter given with
`--llama-cpp`. Run: `python benchmarks/decode.py --out out/decode`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from decode_engines import OURS, THEIRS, make, peak_memory, rereads

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "LICENSE")
CONTEXTS = (16, 512, 2048)
PREFILL = 512
WINDOW = 500
BASE = "transformers-float32"


def main() -> None:
    """Measure, print, write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--out", type=Path, default=ROOT / "out" / "decode", help="folder for results")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tokens", type=int, default=64, help="tokens decoded per measurement")
    p.add_argument("--positions", type=int, default=2000, help="of text, for the agreement")
    p.add_argument("--engines", nargs="+", default=[*OURS, *THEIRS], choices=[*OURS, *THEIRS])
    p.add_argument("--contexts", nargs="+", type=int, default=list(CONTEXTS))
    p.add_argument("--llama-cpp", default=sys.executable, help="interpreter that has llama_cpp")
    p.add_argument("--job", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.job:
        print(json.dumps(work(json.loads(args.job))))
        return
    if args.rounds < 1 or args.tokens < 2 or args.positions < WINDOW:
        p.error(f"at least 1 round, 2 tokens and {WINDOW} positions")
    report = compare(args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "decode.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)
    draw(report, args.out / "decode.png")


# ---------------------------------------------------------------- one engine, in its own process


def work(job: dict[str, Any]) -> dict[str, Any]:
    """What a child process does: time one engine, or write its logits."""
    began = time.perf_counter()
    path, name = Path(job["path"]), job["engine"]
    ids: list[int] = job["ids"]
    engine = make(name, path, job["threads"], every="logits" in job)
    if "logits" in job:
        windows = [engine.logits(ids[i : i + WINDOW]) for i in range(0, len(ids), WINDOW)]
        np.save(job["logits"], np.concatenate(windows))
        return {}
    loaded = time.perf_counter() - began
    count = job["tokens"]
    engine.go_on(engine.start(ids[:32], 40), 8)  # warm
    out: dict[str, Any] = {"load_seconds": loaded, "decode": {}}
    for context in job["contexts"]:
        prompt = (ids * (context // len(ids) + 1))[:context]
        began = time.perf_counter()
        token = engine.start(prompt, count + 1)
        reading = time.perf_counter() - began
        began = time.perf_counter()
        engine.go_on(token, count)
        spent = time.perf_counter() - began - (reading if rereads(name) else 0.0)
        out["decode"][str(context)] = count / spent
    prompt = (ids * (PREFILL // len(ids) + 1))[:PREFILL]
    times = []
    for _ in range(3):
        began = time.perf_counter()
        engine.start(prompt, 1)
        times.append(time.perf_counter() - began)
    out["prefill"] = PREFILL / min(times)
    out["memory"] = peak_memory()
    return out


def child(job: dict[str, Any], interpreter: str) -> dict[str, Any] | None:
    """Run a job in a fresh process; None if it fails."""
    env = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
    done = subprocess.run(
        [interpreter, __file__, "--job", json.dumps(job)], capture_output=True, text=True, env=env
    )
    if done.returncode:
        print(f"{job['engine']} is left out: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---------------------------------------------------------------- all of them


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Run every engine in turn, several times, and its agreement once."""
    from anybind.assembly import Assembly

    assembly = Assembly("nano")
    path = assembly.weight("smollm2")
    ids = text_ids(path, args.positions)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in args.engines}
    for turn in range(args.rounds):
        for name in list(rounds):
            job = {
                "engine": name, "path": str(path), "threads": args.threads, "tokens": args.tokens,
                "contexts": args.contexts, "ids": ids,
            }  # fmt: skip
            result = child(job, _interpreter(name, args))
            if result is None:
                del rounds[name]
                continue
            rounds[name].append(result)
            rates = ", ".join(f"{c}: {r:.1f}" for c, r in result["decode"].items())
            print(f"round {turn + 1}, {name}: decode {rates}; prefill {result['prefill']:.0f}")
    engines = {name: _median(results) for name, results in rounds.items()}
    for name, figures in agreement(path, ids, list(engines), args).items():
        engines[name] |= figures
    load = os.getloadavg()[0]
    return {
        "threads": args.threads, "rounds": args.rounds, "tokens": args.tokens,
        "processor": _processor(), "load_at_end": load, "positions": len(ids),
        "texts": TEXTS, "prefill_tokens": PREFILL, "engines": engines, "all": rounds,
    }  # fmt: skip


def agreement(
    path: Path, ids: list[int], names: list[str], args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Top-1 agreement and KL divergence of each engine with our float32."""
    out: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = ["float32", *(n for n in names if n != "float32")]
        for name in names:
            file = Path(folder) / f"{name}.npy"
            job = {
                "engine": name, "path": str(path), "threads": args.threads, "ids": ids,
                "logits": str(file),
            }  # fmt: skip
            if child(job, _interpreter(name, args)) is None:
                continue
            reference = np.load(Path(folder) / "float32.npy", mmap_mode="r")
            out[name] = _divergence(reference, np.load(file, mmap_mode="r"))
            if name != "float32":
                file.unlink()
    return {n: f for n, f in out.items() if n in args.engines}


def _divergence(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    same = total = 0.0
    for i in range(0, len(reference), 250):
        p, q = _log_softmax(reference[i : i + 250]), _log_softmax(other[i : i + 250])
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
        total += float((np.exp(p) * (p - q)).sum())
    return {"top1": same / len(reference), "kl": total / len(reference)}


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def text_ids(path: Path, count: int) -> list[int]:
    """The first tokens of the repository's own texts."""
    from anybind.core_model.checkpoints.gguf import read_gguf_fields
    from anybind.core_model.tokenizer import from_gguf

    text = "\n\n".join((ROOT / name).read_text(encoding="utf-8") for name in TEXTS)
    ids = from_gguf(read_gguf_fields(path)).encode(text)
    if len(ids) < count:
        raise SystemExit(f"The texts have {len(ids)} tokens; ask for fewer positions.")
    return ids[: count - count % WINDOW]


def _interpreter(name: str, args: argparse.Namespace) -> str:
    return args.llama_cpp if name == "llama.cpp" else sys.executable


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(read: Any) -> float:
        return statistics.median(read(r) for r in results)

    return {
        "decode": {c: middle(lambda r, c=c: r["decode"][c]) for c in results[0]["decode"]},
        "prefill": middle(lambda r: r["prefill"]),
        "memory": middle(lambda r: r["memory"]),
        "load_seconds": middle(lambda r: r["load_seconds"]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


# ---------------------------------------------------------------- results


def show(report: dict[str, Any]) -> None:
    """A table; ratios are against transformers in float32."""
    engines = report["engines"]
    base = engines.get(BASE)
    contexts = list(next(iter(engines.values()))["decode"])
    columns = [f"decode@{c}" for c in contexts] + ["prefill"]
    titles = [*(f"{c:>13} {'ratio':>6}" for c in columns), f"{'MB':>6}", "   top-1        KL"]
    print(f"\n{report['threads']} threads, {report['processor']}; tokens a second")
    print(f"{'':22}" + " ".join(titles))
    for name, e in engines.items():
        cells: list[str] = []
        for key in (*contexts, "prefill"):
            rate = e["decode"].get(key) or e["prefill"]
            other = None if base is None else base["decode"].get(key) or base["prefill"]
            cells.append(f"{rate:13.1f} " + (f"{rate / other:6.2f}" if other else " " * 6))
        exact = f"  {e['top1']:.4f}  {e['kl']:.2e}" if "top1" in e else ""
        print(f"{name:22}" + " ".join(cells) + f" {e['memory'] / 1e6:6.0f}" + exact)


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars: decode by context, prefill, memory."""
    from anybind.optional import require

    require("matplotlib", "plots").use("Agg")
    from matplotlib import pyplot

    engines = report["engines"]
    names = list(engines)
    contexts = list(next(iter(engines.values()))["decode"])
    figure, (left, middle, right) = pyplot.subplots(
        1, 3, figsize=(13, 4), width_ratios=(2, 1, 1), layout="constrained"
    )
    places, width = np.arange(len(names)), 0.8 / len(contexts)
    for i, context in enumerate(contexts):
        rates = [engines[n]["decode"][context] for n in names]
        bars = left.bar(places + (i - (len(contexts) - 1) / 2) * width, rates, width,
                        label=f"behind {context} tokens")  # fmt: skip
        left.bar_label(bars, fmt="%.0f", fontsize=7)
    left.set_title("decode, tokens a second")
    left.legend(fontsize=8)
    for axes, key, scale, title in (
        (middle, "prefill", 1.0, f"prefill of {report['prefill_tokens']}, tokens a second"),
        (right, "memory", 1e-6, "peak memory, MB"),
    ):
        bars = axes.bar(places, [engines[n][key] * scale for n in names], color="tab:gray")
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
        axes.set_title(title)
    for axes in (left, middle, right):
        axes.set_xticks(places, names, rotation=30, ha="right", fontsize=8)
    figure.suptitle(f"SmolLM2-135M, {report['threads']} threads, {report['processor']}")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
