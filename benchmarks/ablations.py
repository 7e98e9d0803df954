"""The paper's own claims (ImageBind-LLM, arXiv 2309.03905) tried at nano's size.

    python benchmarks/ablations.py --data DATA --out OUT [--eye-noise FILE]

Ways to bring an embedding into the frozen decoder, with equal data, steps and order, several seeds
each, the rate chosen for each way; gates that start at zero or not; the cache by top-k and weight;
mixtures of two modalities. DATA is what docs/nano-data.md makes (`caption.jsonl`,
`features.safetensors`; `world.jsonl`, `drawings` and `sounds` if they are there). Every result is a
JSON in OUT, made once: a second call goes on. `--plot-only` makes table and figure of what is there.
What is held out and how it is measured is said in docs/ablations.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ablation_arms import ARMS
from ablation_data import Rows, split
from ablation_figure import draw, judgements, read, table
from ablation_runs import Setting, all_runs

from anybind.errors import UserError

STUDIES = ("cache", "mixing")


def main() -> None:
    """Run what is missing, print the table, draw the figure."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data", type=Path, help="folder of captions and features")
    p.add_argument("--out", type=Path, required=True, help="folder of results")
    p.add_argument(
        "--eye-noise", type=Path, help="statistics of the eye, for the cache on pictures"
    )
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--tokens", type=int, default=512, help="positions of a step")
    p.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    p.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3])
    p.add_argument("--things", type=int, default=300, help="the commonest so many; 0 for all")
    p.add_argument("--each", type=int, default=80, help="most of each held-out set")
    p.add_argument("--only", nargs="+", choices=[*ARMS, *STUDIES], default=[*ARMS, *STUDIES])
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--plot-only", action="store_true", help="no runs: table and figure")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    try:
        if not args.plot_only:
            if args.data is None:
                p.error("give --data, or --plot-only")
            run(args)
        results = read(args.out)
    except UserError as error:
        p.exit(1, f"{error}\n")
    text = f"{table(results)}\n{judgements(results)}"
    (args.out / "ablations.md").write_text(text, encoding="utf-8")
    print(text)
    draw(results, args.out / "ablations.png")
    print(f"{args.out / 'ablations.md'}, {args.out / 'ablations.png'}")


def run(args: argparse.Namespace) -> None:
    """Everything that is not there yet."""
    held = split(
        args.data, args.out, nano_texts, each=args.each, things=args.things,
        eye_noise=args.eye_noise,
    )  # fmt: skip
    sizes = ", ".join(f"{name} {len(s)}" for name, s in held.sets.items())
    print(f"{held.count} rows to train on; held out: {sizes}", flush=True)
    setting = Setting(
        out=args.out, split=held, steps=args.steps, tokens=args.tokens, rates=tuple(args.rates),
        seeds=tuple(range(args.seeds)),
    )  # fmt: skip

    def caches() -> Mapping[str, Rows]:
        return {"classes": nano_classes(), "training": held.trained}

    all_runs(setting, args.only, caches)


def nano_texts(texts: list[str]) -> Rows:
    """Sentence embeddings [N, C] of nano's hub."""
    from anybind.core_model.model import ImageBindLLM

    return np.asarray(ImageBindLLM.from_bundle("nano", encoders_only=True).embed(*texts))


def nano_classes() -> Rows:
    """The rows of nano's own cache [N, C]: embeddings of ImageNet's classes."""
    from anybind.assembly import Assembly
    from anybind.core_model.retrieval import RetrievalCache

    assembly = Assembly("nano")
    cache = assembly.bundle.cache
    assert cache  # nano has one
    file, tensor = assembly.weight(cache["file"]), str(cache["tensor"])
    return RetrievalCache.load(file, tensor=tensor, bundle_space=assembly.bundle.space).rows


if __name__ == "__main__":
    main()
