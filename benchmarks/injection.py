"""What a condition costs: injected into the layers, against prompt tokens on the same decoder.

nano's decoder and bind network; a question of 64 tokens, then 48 tokens of reply.
- injected: 0, 1 and 5 embeddings, mixed and bound to one vector a layer (the embeddings are random
  unit vectors: their encoders are not part of this);
- as prompt tokens: 1, 10, 32 and 257 positions in front of the question, as systems do that
  project their features into soft tokens. Any ids stand in for them: a position costs the same
  whatever it holds. (257 is a ViT's patches and class token, 32 a Q-Former's queries.)
All cases run in turn, several rounds in one process; figures are medians. Run:
`python benchmarks/injection.py --precision int8 --out out/injection`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anybind.assembly import Assembly
from anybind.content import Embedding
from anybind.core_model.fast import PRECISIONS
from anybind.core_model.mixing import mix

ROOT = Path(__file__).resolve().parent.parent
QUESTION, REPLY = 64, 48
MODALITIES = (0, 1, 5)
EXTRA = (1, 10, 32, 257)


def main() -> None:
    """Measure, print, write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--precision", choices=PRECISIONS, default="int8")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--out", type=Path, default=ROOT / "out" / "injection")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args.precision)
    cases = [(f"{n} modalities injected", n, 0) for n in MODALITIES]
    cases += [(f"{n} prompt tokens", 0, n) for n in EXTRA]
    times: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in cases}
    for _, modalities, extra in cases:  # warm
        bench.run(modalities, extra)
    for turn in range(args.rounds):
        # Every other round backwards, so that drift falls on all alike.
        for name, modalities, extra in cases if turn % 2 else reversed(cases):
            times[name].append(bench.run(modalities, extra))
    base = _median(times[cases[0][0]])
    rows = {}
    for name, _, _ in cases:
        row = _median(times[name])
        rows[name] = row | {
            f"{key}_ratio": row[key] / base[key] for key in ("prefill", "decode", "whole")
        }
    report = {
        "precision": args.precision, "threads": args.threads, "rounds": args.rounds,
        "question": QUESTION, "reply": REPLY, "load_at_end": os.getloadavg()[0], "cases": rows,
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"injection-{args.precision}"
    file.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)
    draw(report, file.with_suffix(".png"))


class Bench:
    """nano's decoder, its bind network and made-up embeddings."""

    def __init__(self, precision: str) -> None:
        assembly = Assembly("nano")
        model = assembly.bundle.model
        component = model.model_copy(update={"options": {**model.options, "precision": precision}})
        language: Any = assembly.build("models", component)
        self.bind = language.bind
        self.decoder: Any = language.decoder
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((max(MODALITIES), self.bind.config.joint_dim))
        self.parts = [
            replace(
                Embedding.of((row / np.linalg.norm(row)).astype(np.float32)),
                space=language.profile.space,
            )
            for row in rows
        ]
        vocabulary = self.decoder.config.vocab_size
        self.ids = torch.from_numpy(rng.integers(0, vocabulary, (1, max(EXTRA) + QUESTION)))

    @torch.inference_mode()
    def run(self, modalities: int, extra: int) -> dict[str, float]:
        """Seconds of the condition, of the prompt, and of a token of the reply."""
        began = time.perf_counter()
        inject = None
        if modalities:
            mixed = mix(self.parts[:modalities])
            inject = self.bind(torch.from_numpy(mixed.data)[None], self.decoder)
        bound = time.perf_counter()
        prompt = self.ids[:, : extra + QUESTION]
        cache = self.decoder.new_cache(1, prompt.shape[1] + REPLY)
        step = prompt
        read = bound
        for i in range(REPLY):
            logits = self.decoder(
                step, cache=cache, inject=inject, site=self.bind.config.injection, last_only=True
            )
            step = logits[:, -1].argmax(-1, keepdim=True)
            if i == 0:
                read = time.perf_counter()
        done = time.perf_counter()
        return {
            "condition": bound - began,
            "prefill": read - bound,
            "decode": (done - read) / (REPLY - 1),
            "whole": done - began,
        }


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show(report: dict[str, Any]) -> None:
    """A table, with ratios against no condition."""
    print(f"\n{report['precision']}, {report['threads']} threads; milliseconds (ratio)")
    print(f"{'':24}{'condition':>10}{'prefill':>18}{'decode a token':>18}{'whole':>18}")
    for name, row in report["cases"].items():
        cells = [f"{row['condition'] * 1e3:10.2f}"]
        for key in ("prefill", "decode", "whole"):
            cells.append(f"{row[key] * 1e3:10.2f} ({row[key + '_ratio']:5.2f})")
        print(f"{name:24}" + "".join(cells))


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars of the ratios."""
    from anybind.optional import require

    require("matplotlib", "plots").use("Agg")
    from matplotlib import pyplot

    names = list(report["cases"])
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for i, (key, label) in enumerate((("prefill", "prompt"), ("decode", "a token of the reply"))):
        ratios = [report["cases"][n][f"{key}_ratio"] for n in names]
        bars = axes.bar(np.arange(len(names)) + (i - 0.5) * 0.4, ratios, 0.4, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_ylabel("time, against no condition")
    axes.set_title(f"SmolLM2-135M, {report['precision']}, {report['threads']} threads")
    axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
