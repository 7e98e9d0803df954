"""SR on seen and unseen tools: our own test set in the GPT4Tools format, scored as GPT4Tools does.

Requests are worded by other templates than those of training (`toolchat_words.json`), and eight tools
that training may not name (`core_model/training/heldout_tools.json`) make the unseen half. Two ways
to answer: "loop", the agent's own (choice by the bundle's prior, calls under a grammar), and
"decoder", the language model alone, which continues the prompt freely up to each observation.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anybind.agent import protocol
from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.statistics import bootstrap, share
from anybind.agent.runtime import Runtime
from anybind.agent.session import Session
from anybind.contracts import Delta, Message, Sampling, Tool
from anybind.core_model.training.scoring import exact, score
from anybind.errors import AnybindError

WORDS = Path(__file__).with_name("toolchat_words.json")
HELD_OUT = "heldout_tools.json"
EACH = {"seen": 6, "unseen": 12}
NONE = 16
ABSENT = "Thought: Do I need to use a tool? No\nAI: Done."


@dataclass(frozen=True, slots=True)
class Item:
    """One request: the tools that are listed, what is asked, the right calls."""

    id: str
    split: str
    listed: tuple[str, ...]
    request: str
    calls: tuple[tuple[str, tuple[str, ...]], ...]
    """(tool, arguments without the picture); empty if no tool is wanted."""


def held_out() -> frozenset[str]:
    """The tools that training leaves out."""
    from anybind.core_model import training

    path = Path(training.__file__).with_name(HELD_OUT)
    return frozenset(json.loads(path.read_text(encoding="utf-8"))["tools"])


def make_items(seed: int, tools: Sequence[str]) -> list[Item]:
    """The test set over the given tools, the same for the same seed.

    Tools for which there are no words (a plugin's) are only listed, never wanted.
    """
    words: dict[str, Any] = json.loads(WORDS.read_text(encoding="utf-8"))
    unseen = held_out()
    items: list[Item] = []
    for name in sorted(set(tools) & set(words["tools"])):
        split = "unseen" if name in unseen else "seen"
        r = random.Random(f"toolchat {seed} {name}")
        templates = r.sample(words["tools"][name], len(words["tools"][name]))
        for i in range(EACH[split]):
            text, args = _filled(templates[i % len(templates)], words["fillers"], r)
            listed = _listed(r, [name], tools)
            items.append(Item(f"{split}-{len(items):03d}", split, listed, text, ((name, args),)))
    r = random.Random(f"toolchat none {seed}")
    for text in r.sample(words["none"], NONE):
        listed = _listed(r, [], [t for t in tools if t not in unseen])
        items.append(Item(f"none-{len(items):03d}", "seen", listed, text, ()))
    return items


def _filled(
    template: str, fillers: dict[str, list[str]], r: random.Random
) -> tuple[str, tuple[str, ...]]:
    """A template with its slots filled, and the fillers in the order of the tool's arguments."""
    text, slots = template, [n for n in ("object", "old", "new", "box", "text", "question",
                                         "instruction") if "{" + n + "}" in template]  # fmt: skip
    args: list[str] = []
    for slot in slots:
        pool = fillers.get(slot) or fillers["object"]
        value = r.choice([v for v in pool if v not in args])
        text = text.replace("{" + slot + "}", value)
        args.append(value)
    return text, tuple(args)


def _listed(r: random.Random, wanted: Sequence[str], tools: Sequence[str]) -> tuple[str, ...]:
    others = r.sample([t for t in sorted(tools) if t not in wanted], r.randint(2, 4))
    listed = [*wanted, *others]
    r.shuffle(listed)
    return tuple(listed)


class _Listed(Runtime):
    """A runtime that offers the tools of one prompt, available or not: none of them is run."""

    def __init__(self, base: Runtime, tools: Sequence[Tool]) -> None:
        _ = base.model, base.chooser  # built once, shared
        self.__dict__.update(base.__dict__)
        self._listed = list(tools)

    def available_tools(self) -> list[Tool]:
        return self._listed


def gold_text(item: Item, picture: str) -> str:
    """The right trace of an item about a picture."""
    if not item.calls:
        return ABSENT
    text = ""
    for name, args in item.calls:
        takes_picture = name != "Generate Image From User Input Text"
        raw = ", ".join([picture, *args] if takes_picture else args)
        text += f"{protocol.USE}Yes\nAction: {name}\nAction Input: {raw}\nObservation: done\n"
    return text + ABSENT


def by_loop(bench: Bench, item: Item, tools: Sequence[Tool]) -> tuple[str, str]:
    """(the agent's trace, the name that the picture got)."""
    picture = bench.data.folder / "request.png"
    with tempfile.TemporaryDirectory(prefix="anybind-eval-") as folder:
        with Session(_Listed(bench.runtime, tools), folder=Path(folder) / "s") as session:
            name = _name(picture)
            try:
                plans = session.plan(item.request, picture)
            except AnybindError as error:
                return f"(failed: {error})", name
    calls = [p.trace.rstrip() + "\nObservation: done\n" for p in plans if p.tool]
    return "".join(calls) + ABSENT, name


def _name(picture: Path) -> str:
    from anybind.agent.artifacts import ArtifactStore
    from anybind.media import from_value

    with tempfile.TemporaryDirectory(prefix="anybind-eval-") as folder:
        return ArtifactStore(Path(folder)).add(from_value(str(picture))).name


def by_decoder(bench: Bench, item: Item, tools: Sequence[Tool], picture: str) -> str:
    """What the language model writes under the prompt, step by step, at most three calls."""
    language: Any = bench.runtime.model.language
    history = [protocol.upload_line(picture, "a picture")]
    prompt = protocol.prompt(tools, history, item.request)
    written = ""
    for _ in range(3):
        rendered = language.render([Message("user", prompt)], reply_prefix=written)
        sampling = Sampling(max_tokens=100, stop=protocol.STOPS)
        stream = language.stream(rendered, None, sampling)
        step = "".join(part.text for part in stream if isinstance(part, Delta))
        written += step
        if "Action Input:" not in step:
            break
        written = written.rstrip() + "\nObservation: done\n"
    return written


def toolchat(bench: Bench) -> Iterator[Row]:
    """Every item both ways; of the decoder every third, for it is slow."""
    every = {t.name: t for t, _ in bench.runtime.tools()}
    for number, item in enumerate(bench.some(make_items(bench.seed, sorted(every)))):
        tools = [every[name] for name in item.listed]
        said, picture = by_loop(bench, item, tools)
        gold = gold_text(item, picture)
        ways = {"loop": said}
        if number % 3 == 0:
            ways["decoder"] = by_decoder(bench, item, tools, picture)
        for way, text in ways.items():
            scores = score(gold, text)
            yield {
                "id": f"{item.id}:{way}", "way": way, "split": item.split,
                "wanted": [c[0] for c in item.calls], "request": item.request, "gold": gold,
                "answer": text, **asdict(scores), "exact": exact(gold, text),
                "hit": scores.success == 1,
            }  # fmt: skip


def sum_toolchat(rows: list[Row]) -> dict[str, Any]:
    """SR and its parts for each way and split; the headline is the loop on seen tools."""
    found: dict[str, Any] = {}
    for way in ("loop", "decoder"):
        for split in ("seen", "unseen"):
            some = [r for r in rows if r["way"] == way and r["split"] == split]
            parts = share([r["hit"] for r in some])
            for name in ("thought", "action", "arguments"):
                parts[f"SR {name}"] = bootstrap(some, lambda g, n=name: _mean(g, n))["value"]
            parts["calls right to the letter"] = share([r["exact"] for r in some])
            found[f"{way}, {split} tools"] = parts
    head = found["loop, seen tools"]
    return {k: head[k] for k in ("value", "hits", "total", "interval")} | found


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(r[name] for r in rows) / max(1, len(rows))
