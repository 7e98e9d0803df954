"""Runs of `ablations.py`: an arm trained and measured, the cache and mixtures tried on its weights.

Each result is one JSON; what is there already is not made again, and results of other settings are
refused.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ablation_arms import ARMS, FIRST_LAYER, REFERENCE, build
from ablation_data import HeldOut, Rows, Split
from ablation_measures import Examiner, says

from anybind.core_model.retrieval import RetrievalCache
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.progress import METRICS, read_metrics
from anybind.core_model.training.trainer import train
from anybind.errors import UserError

NANO: dict[str, Any] = {"bundle": "nano"}
NANO_SIZES: dict[str, Any] = {"joint_dim": 384, "hidden_dim": 1152, "input_scale": 19.595918}
TOP_K = (1, 5, 20, 100)
WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
USUAL_K, USUAL_WEIGHT = 5, 0.5
TEMPERATURE = 20.0
"""Of the bundle and of the released code."""
QUERIES = {"eye": "picture", "text": "text", "sound": "sound"}
RATIOS = tuple(i / 10 for i in range(11))
PAIRS = 100
_DISTURBED = 4
"""Features that plain sentences are read under."""


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    out: Path
    split: Split
    steps: int
    tokens: int
    """Positions of a step, padding included."""
    rates: tuple[float, ...]
    """Tried with the first seed."""
    seeds: tuple[int, ...]
    model: Mapping[str, Any] = field(default_factory=lambda: NANO)
    sizes: Mapping[str, Any] = field(default_factory=lambda: NANO_SIZES)
    precision: str = "bf16"

    @property
    def identity(self) -> dict[str, Any]:
        """What results must agree in to be set side by side."""
        held = {name: len(s) for name, s in self.split.sets.items()}
        return {
            "steps": self.steps, "tokens": self.tokens, "data": self.split.digest,
            "rows": self.split.count, "held out": held,
        }  # fmt: skip


def stage(setting: Setting, arm: str, seed: int, rate: float) -> TrainConfig:
    """The stage of a run. Arms differ in model, trained groups and rate, and in nothing else."""
    chosen = ARMS[arm]
    sizes = {**setting.sizes, "first_layer": FIRST_LAYER, **chosen.sizes}
    source = {
        "format": "jsonl", "path": setting.split.train, "features": setting.split.features,
    }  # fmt: skip
    return TrainConfig.model_validate(
        {
            "stage": f"ablation-{arm}", "seed": seed, "steps": setting.steps,
            "model": {**setting.model, "bind": sizes}, "trainables": {"groups": chosen.groups},
            "data": {"sources": [source], "seed": seed},
            "batch": {"max_tokens": 96, "tokens": setting.tokens, "packing": False},
            "optimizer": {
                "lr": rate, "warmup": 0.05, "floor": 0.05, "weight_decay": 0.02, "gate_pace": 10,
            },
            "precision": setting.precision, "save": {"every": setting.steps, "keep": 1},
        }
    )  # fmt: skip


def run_name(arm: str, seed: int, rate: float) -> str:
    """Of a result and of the folder of its run."""
    return f"{arm}-s{seed}-r{rate:g}"


def all_runs(
    setting: Setting, only: Sequence[str], caches: Callable[[], Mapping[str, Rows]]
) -> None:
    """Every run that is not there yet, seed by seed, so that a study cut short has whole seeds.

    Args:
        setting: What all share.
        only: Arms, and "cache" and "mixing".
        caches: Gives rows [N, C] of caches by name; asked when they are needed.
    """
    arms = [arm for arm in ARMS if arm in only]
    studies = {"cache": cache_study, "mixing": mixing_study}
    left = len(arms) * (len(setting.rates) + len(setting.seeds) - 1)
    for seed in setting.seeds:
        for arm in arms:
            rates = setting.rates if seed == setting.seeds[0] else (best_rate(setting, arm),)
            for rate in rates:
                left -= 1
                name = run_name(arm, seed, rate)
                made(setting, name, partial(one, setting, arm, seed, rate), left)
        for study in (s for s in studies if s in only):
            made(setting, f"{study}-s{seed}", partial(studies[study], setting, seed, caches))


def made(setting: Setting, name: str, make: Callable[[], dict[str, Any]], left: int = 0) -> None:
    """Make a result and write it, whole or not at all, unless it is there.

    Args:
        setting: What all share.
        name: Of the result.
        make: Makes it.
        left: Results of the same kind still to come, to say how long they may take.

    Raises:
        UserError: the one that is there is of other settings.
    """
    path = setting.out / f"{name}.json"
    if path.is_file():
        found = json.loads(path.read_text("utf-8"))
        if found["setting"] != setting.identity:
            raise UserError(
                f"{path} is of other settings ({found['setting']}, now {setting.identity}): give "
                "another --out, or the settings that it was made with."
            )
        return
    began = time.perf_counter()
    print(f"== {name}", flush=True)
    result = {"name": name, "setting": setting.identity, **make()}
    result["seconds"] = round(time.perf_counter() - began, 1)
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, path)
    print(f"   {result['seconds']} s", flush=True)
    if left:
        print(
            f"   {left} runs like this may take {left * result['seconds'] / 60:.0f} min", flush=True
        )


def best_rate(setting: Setting, arm: str) -> float:
    """The rate with the smallest loss on `dev` with the first seed.

    Raises:
        UserError: it was not run with every rate.
    """
    losses: dict[float, float] = {}
    for rate in setting.rates:
        path = setting.out / f"{run_name(arm, setting.seeds[0], rate)}.json"
        if not path.is_file():
            raise UserError(f"{path.name} is needed first: run {arm} too (--only).")
        losses[rate] = json.loads(path.read_text("utf-8"))["dev"]
    return min(losses, key=lambda rate: losses[rate])


# ---------------------------------------------------------------- an arm


def one(setting: Setting, arm: str, seed: int, rate: float) -> dict[str, Any]:
    """Train an arm and measure it."""
    folder = setting.out / "work" / run_name(arm, seed, rate)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
    config = stage(setting, arm, seed, rate)
    parts = build(ARMS[arm], config)
    some = setting.split.sets["dev"].features[:_DISTURBED]
    examiner = Examiner(parts)
    alone, before = examiner.plain(some, under=False), examiner.plain(some)
    parts.trainee.train()
    outcome = train(config, folder, parts=parts, live=False)
    rows = read_metrics(folder / METRICS)
    examiner = Examiner(parts)
    sets = {n: s for n, s in setting.split.sets.items() if n != "dev"}
    result = {
        "arm": arm, "seed": seed, "rate": rate, "samples": outcome.samples,
        "parameters": sum(p.numel() for p in parts.trainables.values()),
        "dev": examiner.naming(setting.split.sets["dev"], greedy=False).loss,
        "sets": {name: asdict(examiner.naming(held)) for name, held in sets.items()},
        "plain": {"alone": alone, "before": before, "after": examiner.plain(some)},
        "curve": [row["loss"] for row in rows], "step_seconds": outcome.seconds / outcome.step,
        "skipped": outcome.skipped,
    }  # fmt: skip
    if arm != REFERENCE:
        shutil.rmtree(folder)  # only the reference's weights are used again
    return result


def reference(setting: Setting, seed: int) -> Examiner:
    """The reference arm of a seed, as it was trained.

    Raises:
        UserError: its weights are not there.
    """
    rate = best_rate(setting, REFERENCE)
    folder = setting.out / "work" / run_name(REFERENCE, seed, rate)
    if not folder.is_dir():
        raise UserError(f"{folder} is needed first: run {REFERENCE} too (--only).")
    config = stage(setting, REFERENCE, seed, rate)
    model = config.model.model_copy(update={"bind": None, "init": str(folder)})
    return Examiner(build(ARMS[REFERENCE], config.model_copy(update={"model": model})))


# ---------------------------------------------------------------- on the reference's weights


def cache_study(
    setting: Setting, seed: int, caches: Callable[[], Mapping[str, Rows]]
) -> dict[str, Any]:
    """Naming of pictures, texts and sounds with and without a cache, by top-k and by weight."""
    examiner = reference(setting, seed)
    rows: list[dict[str, Any]] = []
    sets = {n: s for n, s in setting.split.sets.items() if n in QUERIES}
    for name, held in sets.items():
        rows.append({"set": name, "cache": "", "exact": examiner.exact(held)})
    grid = [(k, USUAL_WEIGHT) for k in TOP_K]
    grid += [(USUAL_K, w) for w in WEIGHTS if w != USUAL_WEIGHT]
    for cache, keys in caches().items():
        for k, weight in grid:
            table = RetrievalCache(
                keys, space=setting.split.space, top_k=k, weight=weight, temperature=TEMPERATURE,
                mode="released",
            )  # fmt: skip
            for name, held in sets.items():
                pulled = HeldOut(table.apply(held.features), held.said)
                about = {"set": name, "cache": cache, "k": k, "weight": weight}
                rows.append({**about, "exact": examiner.exact(pulled)})
    return {"seed": seed, "rows": rows}


def mixing_study(
    setting: Setting, seed: int, caches: Callable[[], Mapping[str, Rows]]
) -> dict[str, Any]:
    """Which of two things is named, by the share of the first in the mixture (paper, figure 13)."""
    examiner = reference(setting, seed)
    found: dict[str, Any] = {}
    for other in ("sound", "text"):
        if other not in setting.split.sets:
            continue
        one, two = pairs(setting.split.sets["rows"], setting.split.sets[other])
        lines: list[dict[str, float]] = []
        for ratio in RATIOS:
            # As at run time, a mixture is not brought back to norm 1.
            mixed = ratio * one.features + (1 - ratio) * two.features
            replies = examiner.replies(mixed.astype(np.float32))
            a, b = (
                np.array([says(r, n) for r, n in zip(replies, held.names, strict=True)])
                for held in (one, two)
            )
            lines.append(
                {"ratio": ratio, "a": float(a.mean()), "b": float(b.mean()),
                 "both": float((a & b).mean()), "pairs": len(a)}
            )  # fmt: skip
        found[other] = lines
    return {"seed": seed, "with": found}


def pairs(one: HeldOut, two: HeldOut) -> tuple[HeldOut, HeldOut]:
    """Features side by side whose names can be told apart; each of `two` is used about equally."""
    left: list[int] = []
    right: list[int] = []
    for i in range(min(PAIRS, len(one))):
        for j in range(len(two)):
            at = (i + j) % len(two)
            if not says(one.names[i], two.names[at]) and not says(two.names[at], one.names[i]):
                left.append(i)
                right.append(at)
                break
    return tuple(  # type: ignore[return-value]
        HeldOut(held.features[rows], tuple(held.said[r] for r in rows))
        for held, rows in ((one, left), (two, right))
    )
