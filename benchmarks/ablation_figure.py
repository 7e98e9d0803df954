"""Tables, judgements and the figure of `ablations.py`, from its JSON files alone."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation_arms import ARMS, REFERENCE
from ablation_runs import QUERIES, TOP_K, USUAL_K, USUAL_WEIGHT, WEIGHTS

from anybind.core_model.training.curves import smoothed
from anybind.errors import UserError
from anybind.optional import require

SETS = {
    "rows": "seen things", "things": "new things", "drawings": "new drawings",
    "text": "texts", "sound": "sounds", "eye": "raw photographs",
}  # fmt: skip
WAYS = (REFERENCE, "linear", "attention-output", "prompt-token", "prefix")
STARTS = (REFERENCE, "gate-0.5", "gate-1")
CACHES = {"classes": "-", "training": "--"}
Many = list[float]
"""A figure of each seed."""


@dataclass(frozen=True)
class Results:
    """Everything that was found in a folder."""

    arms: dict[str, list[dict[str, Any]]]
    """Of each arm the runs of its best rate, a seed each."""
    tried: dict[str, dict[float, float]]
    """Of each arm the loss on `dev` by rate, with the first seed."""
    cache: list[dict[str, Any]]
    mixing: list[dict[str, Any]]


def read(folder: Path) -> Results:
    """The results in a folder.

    Raises:
        UserError: there are none, or they are of different settings.
    """
    every = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("*-s*.json"))]
    if not every:
        raise UserError(f"There are no results in {folder}.")
    if any(e["setting"] != every[0]["setting"] for e in every):
        raise UserError(f"The results in {folder} are of different settings.")
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for e in every:
        if "arm" in e:
            runs[e["arm"]].append(e)
    arms: dict[str, list[dict[str, Any]]] = {}
    tried: dict[str, dict[float, float]] = {}
    for arm in (a for a in ARMS if a in runs):
        first = min(e["seed"] for e in runs[arm])
        tried[arm] = {e["rate"]: e["dev"] for e in runs[arm] if e["seed"] == first}
        best = min(tried[arm], key=lambda rate: tried[arm][rate])
        arms[arm] = [e for e in runs[arm] if e["rate"] == best]
    studies = [[e for e in every if e["name"].startswith(f"{s}-s")] for s in ("cache", "mixing")]
    return Results(arms, tried, *studies)


# ---------------------------------------------------------------- tables


def spread(values: Sequence[float], digits: int = 3) -> str:
    """ "0.512 ± 0.010": mean and standard deviation (of one seed the figure alone)."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def table(results: Results) -> str:
    """Arms and caches in Markdown."""
    sets = [s for s in SETS if any(s in e["sets"] for es in results.arms.values() for e in es)]
    head = ["arm", "parameters", "rate", "seeds", "loss, seen things", "... new things"]
    head += [f"named: {SETS[s]}" for s in sets] + ["name tokens: seen things"]
    head += ["plain text: alone", "... before", "... after", "s a step"]
    rows = [head, ["---"] * len(head)]
    for arm, es in results.arms.items():
        cells = [ARMS[arm].title, f"{es[0]['parameters']:,}", f"{es[0]['rate']:g}", str(len(es))]
        cells += [spread(of(es, s, "loss")) for s in ("rows", "things")]
        cells += [spread(of(es, s, "exact")) for s in sets] + [spread(of(es, "rows", "tokens"))]
        cells += [spread([e["plain"][k] for e in es]) for k in ("alone", "before", "after")]
        cells.append(spread([e["step_seconds"] for e in es], 2))
        rows.append(cells)
    text = _markdown(rows)
    rates = sorted({r for tried in results.tried.values() for r in tried})
    rows = [
        ["loss on dev, first seed", *(f"rate {r:g}" for r in rates)],
        ["---"] * (1 + len(rates)),
    ]
    for arm, tried in results.tried.items():
        rows.append([ARMS[arm].title, *(f"{tried[r]:.3f}" if r in tried else "-" for r in rates)])
    text += "\n" + _markdown(rows)
    if results.cache:
        names = [q for q in QUERIES if named(results, q, "")]
        rows = [["named, by cache", *(QUERIES[q] for q in names)], ["---"] * (1 + len(names))]
        rows.append(["off", *(spread(named(results, q, "")) for q in names)])
        grid = [(k, USUAL_WEIGHT) for k in TOP_K] + [(USUAL_K, w) for w in WEIGHTS]
        for cache in CACHES:
            for k, w in dict.fromkeys(grid):
                cells = [spread(named(results, q, cache, k, w)) for q in names]
                rows.append([f"{cache}, top-k {k}, weight {w:g}", *cells])
        text += "\n" + _markdown(rows)
    return text


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def of(runs: Iterable[dict[str, Any]], held: str, figure: str) -> Many:
    """A figure of a set, a run each; runs without the set are passed over."""
    return [e["sets"][held][figure] for e in runs if held in e["sets"]]


def named(results: Results, held: str, cache: str, k: int = 0, weight: float = 0.0) -> Many:
    """Share named with a cache ("" is none), a seed each."""
    return [
        row["exact"]
        for e in results.cache
        for row in e["rows"]
        if row["set"] == held and row["cache"] == cache
        and (not cache or (row["k"] == k and row["weight"] == weight))
    ]  # fmt: skip


# ---------------------------------------------------------------- judgements


def judge(better: Sequence[float], other: Sequence[float], *, small: bool) -> str:
    """Whether the first is better than the other by more than both standard deviations together.

    Args:
        better: What the paper says is better, a seed each.
        other: The other.
        small: Whether small figures are good ones.
    """
    if len(better) < 2 or len(other) < 2:
        return "too few seeds"
    by = statistics.mean(better) - statistics.mean(other)
    by = -by if small else by
    if abs(by) <= statistics.stdev(better) + statistics.stdev(other):
        return "NOT DECIDED, within the spread"
    return "holds" if by > 0 else "DOES NOT HOLD, the other way round"


def judge_gain(gains: Sequence[float]) -> str:
    """Whether the same weights do better with something than without it: by more than two standard
    deviations of what each seed gains. Seeds differ by far more than that, alike with and without.
    """
    if len(gains) < 2:
        return "too few seeds"
    by = statistics.mean(gains)
    if abs(by) <= 2 * statistics.stdev(gains):
        return "NOT DECIDED, within the spread"
    return "holds" if by > 0 else "DOES NOT HOLD, the other way round"


def gains(results: Results, held: str, cache: str, k: int, weight: float) -> Many:
    """What a cache adds to the share named, a seed each."""
    pair = named(results, held, cache, k, weight), named(results, held, "")
    return [one - off for one, off in zip(*pair, strict=True)] if all(pair) else []


def judgements(results: Results) -> str:
    """The paper's claims, one a line, and what became of them."""
    ours = results.arms.get(REFERENCE, [])
    said: list[tuple[str, str]] = []

    def against(claim: str, arm: str, held: str, figure: str) -> None:
        other = results.arms.get(arm, [])
        pair = of(ours, held, figure), of(other, held, figure)
        if all(pair):
            small = figure == "loss"
            what = "loss" if small else "named"
            shown = f"{what}, {SETS[held]}: {spread(pair[0])} against {spread(pair[1])}"
            said.append((f"{claim} ({shown})", judge(*pair, small=small)))

    for figure in ("loss", "exact"):
        against("a bind network beats one linear layer", "linear", "rows", figure)
        against("residual beats attention_output", "attention-output", "rows", figure)
        against("injection beats one prompt token", "prompt-token", "rows", figure)
        against("residual beats gated prefix attention", "prefix", "rows", figure)
        for start in STARTS[1:]:
            against(f"gates from zero beat {start}", start, "rows", figure)
    for start in (s for s in STARTS[1:] if s in results.arms):
        pair = [[e["plain"]["before"] for e in es] for es in (ours, results.arms[start])]
        if all(pair):
            shown = f"{spread(pair[0])} against {spread(pair[1])}"
            claim = (
                f"gates from zero leave the decoder whole at the start, {start} do not ({shown})"
            )
            said.append((claim, judge(*pair, small=True)))
    for held, what in QUERIES.items():
        for cache in CACHES:
            by = gains(results, held, cache, USUAL_K, USUAL_WEIGHT)
            if by:
                shown = f"{spread(by)} more are named than without"
                claim = f"a cache of {cache} helps {what} queries ({shown})"
                said.append((claim, judge_gain(by)))
    return "".join(f"- {claim}: **{verdict}**\n" for claim, verdict in said)


# ---------------------------------------------------------------- the figure


def draw(results: Results, path: Path) -> None:
    """All panels in one picture (png, svg or pdf); caches by what they gain with the same weights."""
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(17, 14), dpi=110, layout="constrained")
    panels: Any = figure.subplots(3, 3).flatten()
    _curves(panels[0], results, WAYS, "ways to inject: training loss")
    _bars(panels[1], results, "exact", "named right (greedy)")
    _bars(panels[2], results, "loss", "loss (nats an answer token)")
    _curves(panels[3], results, STARTS, "start of the gates: training loss, first half", 0.5)
    _plain(panels[4], results)
    shown = f"gain, by top-k (weight {USUAL_WEIGHT})", f"gain, by weight (top-k {USUAL_K})"
    _cache(panels[5], results, shown[0], TOP_K, lambda k: (k, USUAL_WEIGHT))
    panels[5].set_xscale("log")
    panels[5].set_xticks(TOP_K, [str(k) for k in TOP_K])
    _cache(panels[6], results, shown[1], WEIGHTS, lambda w: (USUAL_K, w))
    for axes, other in zip(panels[7:], ("sound", "text"), strict=True):
        _mixing(axes, results, other)
    seeds = max((len(es) for es in results.arms.values()), default=0)
    figure.suptitle(f"Mean and standard deviation over {seeds} seeds", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, 0.0
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _curves(
    axes: Any, results: Results, arms: Sequence[str], title: str, share: float = 1.0
) -> None:
    for arm in (a for a in arms if a in results.arms):
        curves = [smoothed(e["curve"]) for e in results.arms[arm]]
        length = max(2, int(min(map(len, curves)) * share))
        mean, by = zip(
            *(_middle(v) for v in zip(*(c[:length] for c in curves), strict=True)), strict=True
        )
        steps = range(1, len(mean) + 1)
        (line,) = axes.plot(steps, mean, label=ARMS[arm].title, linewidth=1.6)
        low, high = ([m + s * d for m, d in zip(mean, by, strict=True)] for s in (-1, 1))
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel("nats an answer token")
    _finish(axes)


def _bars(axes: Any, results: Results, what: str, title: str) -> None:
    arms = [a for a in WAYS if a in results.arms]
    sets = [s for s in SETS if any(of(results.arms[a], s, what) for a in arms)]
    width = 0.8 / max(len(arms), 1)
    for i, arm in enumerate(arms):
        found = [_middle(of(results.arms[arm], s, what)) for s in sets]
        places = [n + (i - (len(arms) - 1) / 2) * width for n in range(len(sets))]
        axes.bar(
            places, [m for m, _ in found], width, yerr=[d for _, d in found], capsize=2,
            label=ARMS[arm].title,
        )  # fmt: skip
    axes.set_xticks(range(len(sets)), [SETS[s] for s in sets], rotation=20, ha="right")
    axes.margins(y=0.45)  # room for the legend above the bars
    axes.set_ylim(bottom=0.0)
    axes.set_title(title, fontsize=11)
    _finish(axes)


def _plain(axes: Any, results: Results) -> None:
    arms = list(results.arms)
    for i, key in enumerate(("alone", "before", "after")):
        found = [_middle([e["plain"][key] for e in results.arms[a]]) for a in arms]
        places = [n + (i - 1) * 0.27 for n in range(len(arms))]
        label = {"alone": "no condition", "before": "untrained", "after": "trained"}[key]
        axes.barh(
            places, [m for m, _ in found], 0.27, xerr=[d for _, d in found], capsize=2, label=label
        )
    axes.set_yticks(range(len(arms)), [ARMS[a].title for a in arms], fontsize=8)
    axes.invert_yaxis()
    axes.set_title("plain sentences under a condition: loss (nats a token)", fontsize=11)
    _finish(axes)


def _cache(
    axes: Any, results: Results, title: str, over: Sequence[Any],
    setting: Callable[[Any], tuple[int, float]],
) -> None:  # fmt: skip
    for number, (held, what) in enumerate(QUERIES.items()):
        for cache, style in CACHES.items():
            found = [_middle(gains(results, held, cache, *setting(x))) for x in over]
            if math.isnan(found[0][0]):
                continue
            axes.errorbar(
                over, [m for m, _ in found], [d for _, d in found], color=f"C{number}",
                linestyle=style, marker="o", markersize=4, capsize=2,
                label=f"{what}, cache of {cache}",
            )  # fmt: skip
    axes.axhline(0.0, color="black", linestyle=":", linewidth=1.2)
    axes.margins(y=0.3)  # room for the legend
    axes.set_ylabel("more named than without")
    axes.set_title(f"cache: {title}", fontsize=11)
    axes.set_xlabel(title.split("by ")[-1].split(" (")[0])
    _finish(axes)


def _mixing(axes: Any, results: Results, other: str) -> None:
    lines = [e["with"][other] for e in results.mixing if other in e["with"]]
    for key, label in (("a", "picture named"), ("b", f"{other} named"), ("both", "both named")):
        found = [_middle([row[key] for row in rows]) for rows in zip(*lines, strict=True)]
        ratios = [row["ratio"] for row in lines[0]] if lines else []
        axes.errorbar(
            ratios, [m for m, _ in found], [d for _, d in found], marker="o", markersize=4,
            capsize=2, label=label,
        )  # fmt: skip
    axes.set_title(f"picture mixed with {other}", fontsize=11)
    axes.set_xlabel("share of the picture")
    axes.set_ylabel("share of replies")
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7.5)
