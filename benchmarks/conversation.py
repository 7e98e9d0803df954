"""A conversation with three tools: what the kept KV prefix and one-pass forced tokens save.

A real session of nano (a picture, three requests, each with a question and a tool) is run once and every call of the
language model is recorded: prompts, scores, conditions, grammars. The calls are then replayed in
order on a fresh language model, with and without
- prefix: keys and values of the prompt's known beginning are kept between calls;
- forced: tokens that the grammar leaves no choice about are appended in one pass, instead of one
  step of the decoder for each. (A call that is forced to its end costs no pass at all.)
Only the language model is timed, not tools or encoders; replies must be the same in all four.
Run: `python benchmarks/conversation.py --precision int8 --out out/conversation`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from anybind.agent import Runtime, Session
from anybind.assembly import Assembly
from anybind.bundles import load
from anybind.content import Embedding
from anybind.contracts import Delta, Finish, Sampling
from anybind.core_model.fast import PRECISIONS
from anybind.core_model.grammar import Held
from anybind.core_model.language import InjectedLanguageModel

ROOT = Path(__file__).resolve().parent.parent
REQUESTS = (
    "What is in the picture? Then detect the cat.",
    "Run edge detection on the image. What do cats like to eat?",
    "Make a sketch of the picture. Then tell me how I could colour it.",
)
MODES = (
    ("neither", False, False),
    ("forced only", False, True),
    ("prefix only", True, False),
    ("both", True, True),
)


def main() -> None:
    """Record, replay, print, write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--precision", choices=PRECISIONS, default="int8")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--picture", type=Path, default=ROOT / "examples" / "cat.png")
    p.add_argument("--out", type=Path, default=ROOT / "out" / "conversation")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    bundle = load("nano")
    options = {**bundle.model.options, "precision": args.precision}
    model = bundle.model.model_copy(update={"options": options})
    runtime = Runtime(Assembly(bundle.model_copy(update={"model": model})))
    language: Any = runtime.model.language
    calls, tools = record(runtime, args.picture)
    decoder = language.decoder
    times: dict[str, list[float]] = {name: [] for name, _, _ in MODES}
    said: dict[str, Any] = {}
    steps: dict[str, dict[str, int]] = {}
    for turn in range(args.rounds + 1):
        for name, prefix, forced in MODES if turn % 2 else reversed(MODES):
            model = InjectedLanguageModel(
                decoder, language.tokenizer, language.bind, language.profile, language.layout
            )
            spent, out, steps[name] = replay(model, calls, prefix=prefix, forced=forced)
            if turn:  # the first round warms
                times[name].append(spent)
            said[name] = out
    seconds = {name: statistics.median(t) for name, t in times.items()}
    report = {
        "precision": args.precision, "threads": args.threads, "rounds": args.rounds,
        "requests": REQUESTS, "tools": tools, "calls": len(calls),
        "forced_calls": sum(k == "stream" and bool(a[2].grammar) for k, a in calls), "seconds": seconds,
        "ratio": {name: seconds["neither"] / s for name, s in seconds.items()},
        "work": steps, "same_replies": all(said[n] == said["both"] for n in said),
        "load_at_end": os.getloadavg()[0],
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"conversation-{args.precision}"
    file.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)
    draw(report, file.with_suffix(".png"))


# ---------------------------------------------------------------- recording


def record(runtime: Runtime, picture: Path) -> tuple[list[tuple[str, tuple[Any, ...]]], list[str]]:
    """Every call that a session makes of the language model, and the tools that it used."""
    calls: list[tuple[str, tuple[Any, ...]]] = []
    stream, score = InjectedLanguageModel.stream, InjectedLanguageModel.score

    def streamed(
        self: InjectedLanguageModel, prompt: str, condition: Embedding | None, sampling: Sampling
    ) -> Iterator[Delta | Finish]:
        calls.append(("stream", (prompt, condition, sampling)))
        return stream(self, prompt, condition, sampling)

    def scored(
        self: InjectedLanguageModel,
        prompt: str,
        continuations: Sequence[str],
        condition: Embedding | None,
    ) -> list[float]:
        calls.append(("score", (prompt, list(continuations), condition)))
        return score(self, prompt, continuations, condition)

    tools: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(InjectedLanguageModel, "stream", streamed),
        mock.patch.object(InjectedLanguageModel, "score", scored),
        Session(runtime, folder=Path(folder) / "session") as session,
    ):
        for i, request in enumerate(REQUESTS):
            reply = session.ask(request, *([picture] if i == 0 else []))
            tools += [call.tool for call in reply.tool_calls]
    if len(tools) < len(REQUESTS):
        raise SystemExit(f"The session called only {tools}; the benchmark wants three tools.")
    return calls, tools


# ---------------------------------------------------------------- replaying


def replay(
    model: InjectedLanguageModel,
    calls: Sequence[tuple[str, tuple[Any, ...]]],
    *,
    prefix: bool,
    forced: bool,
) -> tuple[float, list[Any], dict[str, int]]:
    """Seconds, what was said, and how much the decoder did."""
    out: list[Any] = []
    done = {"passes": 0, "positions": 0}
    with _counted(model, done), _one_by_one(not forced):
        began = time.perf_counter()
        for kind, arguments in calls:
            if not prefix:
                model.close()
            if kind == "stream":
                items = list(model.stream(*arguments))
                out.append("".join(i.text for i in items if isinstance(i, Delta)))
            else:
                # Blocks of other lengths differ in the last bits, in float32.
                out.append([round(s, 2) for s in model.score(*arguments)])
        spent = time.perf_counter() - began
    model.close()
    return spent, out, done


@contextmanager
def _counted(model: InjectedLanguageModel, done: dict[str, int]) -> Iterator[None]:
    decoder: Any = model.decoder

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(decoder, name)

        def __call__(self, tokens: Any, **options: Any) -> Any:
            done["passes"] += 1
            done["positions"] += tokens.numel()
            return decoder(tokens, **options)

    model.decoder = Counting()
    try:
        yield
    finally:
        model.decoder = decoder


@contextmanager
def _one_by_one(on: bool) -> Iterator[None]:
    """The grammar names no forced tokens: each is chosen, alone, by a step of the decoder."""
    if not on:
        yield
        return
    with mock.patch.object(Held, "forced", lambda self: []):
        yield


# ---------------------------------------------------------------- results


def show(report: dict[str, Any]) -> None:
    """A table; ratios are against neither."""
    print(f"\n{report['precision']}, {report['threads']} threads; tools: {report['tools']}")
    print(f"{'':14}{'seconds':>9}{'faster':>8}{'passes':>8}{'positions':>11}")
    for name, seconds in report["seconds"].items():
        work = report["work"][name]
        print(
            f"{name:14}{seconds:9.3f}{report['ratio'][name]:8.2f}"
            f"{work['passes']:8}{work['positions']:11}"
        )
    print("replies are the same" if report["same_replies"] else "REPLIES DIFFER")


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars of seconds."""
    from anybind.optional import require

    require("matplotlib", "plots").use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    names = list(report["seconds"])
    bars = axes.bar(names, [report["seconds"][n] for n in names])
    labels = [f"{report['seconds'][n]:.2f} s\n{report['ratio'][n]:.2f} x" for n in names]
    axes.bar_label(bars, labels)
    axes.margins(y=0.15)
    axes.set_ylabel("seconds of the language model")
    axes.set_title(f"three tools, SmolLM2-135M, {report['precision']}, {report['threads']} threads")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
