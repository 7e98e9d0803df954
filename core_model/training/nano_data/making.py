"""The kinds of nano's training data, and samples of each by number and seed.

Knows where each kind comes from and how much of it there is by default; writes them out. Sample i
of a kind is the same whatever else is made.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anybind.core_model.training.data.features import write_features
from anybind.core_model.training.nano_data import asking, naming, scenes, sounds, turns
from anybind.core_model.training.nano_data.kit import Maker
from anybind.core_model.training.nano_data.looks import Looks
from anybind.core_model.training.nano_data.replay import replay
from anybind.core_model.training.nano_data.writing import as_json
from anybind.core_model.training.samples import TrainingSample
from anybind.core_model.training.toolchat import Protocol, ToolChat
from anybind.errors import UserError

PLAIN: dict[str, Maker] = {
    "caption": naming.caption,
    "detail": naming.detail,
    "chinese": naming.chinese,
    "scene": scenes.scene,
    "colour": scenes.colour,
    "count": scenes.count,
    "exists": asking.exists,
    "choice": asking.choice,
    "kind": asking.kind,
    "use": asking.use,
    "about": asking.about,
    "cant": asking.cant,
    "sound": sounds.sound,
    "dialogue": turns.dialogue,
    "scene-dialogue": turns.scene_dialogue,
    "context": turns.context,
    "heard": turns.heard_only,
}
"""Kinds that need nothing but looks."""

SHARES = {
    "caption": 0.26, "detail": 0.03, "chinese": 0.01, "scene": 0.10, "colour": 0.015, "count": 0.015,
    "exists": 0.13, "choice": 0.04, "kind": 0.03, "use": 0.02, "about": 0.02, "cant": 0.03,
    "sound": 0.08, "dialogue": 0.07, "scene-dialogue": 0.02, "context": 0.04, "heard": 0.01,
    "replay": 0.08, "tools": 0.0,
}  # fmt: skip
"""Shares by default. Tool conversations are ten times as long as the others; they have a stage of
their own and are made when asked for."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What samples are made with."""

    looks: Looks | None
    replies: Mapping[str, str]
    """Plain requests with the decoder's own answers; may be empty."""
    protocol: Protocol | None = None
    space: str = ""


def samples(kind: str, kit: Kit, *, seed: int = 0, start: int = 0) -> Iterator[TrainingSample]:
    """Samples of a kind, endlessly, from number `start` on.

    Raises:
        UserError: there is no such kind, or what it needs is not there.
    """
    make = _maker(kind, kit, seed)
    number = start
    while True:
        yield make(number)
        number += 1


def _maker(kind: str, kit: Kit, seed: int) -> Callable[[int], TrainingSample]:
    if kind == "tools":
        if kit.protocol is None:
            raise UserError("Tool conversations need the tool protocol.")
        chat = ToolChat(kit.protocol, seed=seed, replies=kit.replies)
        protocol = kit.protocol
        return lambda number: chat[number].sample(protocol)
    if kind not in SHARES:
        raise UserError(f"There is no kind {kind!r}; there are {', '.join(SHARES)}.")
    looks = kit.looks
    if looks is None:
        raise UserError(f"{kind} needs things to look at.")
    if kind == "replay" and not kit.replies:
        raise UserError("replay needs answers of the decoder: --replies or --decoder.")
    maker = replay(dict(kit.replies)) if kind == "replay" else PLAIN[kind]

    def make(number: int) -> TrainingSample:
        draft = maker(looks, random.Random(f"{kind}:{seed}:{number}"))
        return TrainingSample(
            draft.messages, draft.feature, f"nano:{kind}", f"{kind}/{number}", words=draft.words
        )

    return make


def counts(kinds: list[str], total: int) -> dict[str, int]:
    """How many of each kind: by `SHARES`; kinds without a share of their own get the mean."""
    shares = {k: SHARES.get(k, 0.0) for k in kinds}
    given = [s for s in shares.values() if s]
    mean = sum(given) / len(given) if given else 1.0
    shares = {k: s or mean for k, s in shares.items()}
    whole = sum(shares.values())
    return {k: max(1, round(total * s / whole)) for k, s in shares.items()}


def write(kit: Kit, out: Path, wanted: Mapping[str, int], *, seed: int = 0) -> dict[str, Any]:
    """Write samples: a JSONL a kind, one file of features for all, and a summary.

    Each line names its embedding as its attachment; sources read both with `features:`.

    Args:
        kit: What they are made with.
        out: Folder.
        wanted: How many of each kind.
        seed: Of everything.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, keys = out / "features.rows", []
    summary: dict[str, Any] = {"seed": seed, "space": kit.space, "kinds": {}}
    dim = 0
    try:
        with rows.open("wb") as sink:
            for kind, count in wanted.items():
                about: Counter[str] = Counter()
                digest = hashlib.sha256()
                with (out / f"{kind}.jsonl").open("w", encoding="utf-8") as lines:
                    made = samples(kind, kit, seed=seed)
                    for _ in range(count):
                        sample = next(made)
                        name = ""
                        if sample.feature is not None:
                            name, dim = sample.key, len(sample.feature)
                            keys.append(name)
                            sink.write(sample.feature.astype("<f2").tobytes())
                        line = json.dumps(as_json(sample, name), ensure_ascii=False) + "\n"
                        lines.write(line)
                        digest.update(line.encode())
                        _tally(about, sample)
                summary["kinds"][kind] = {**about, "sha256": digest.hexdigest()}
        if keys:
            notes = {"seed": str(seed), "made_by": "anybind.core_model.training.nano_data"}
            write_features(out / "features.safetensors", rows, dim, keys, kit.space, notes)
    finally:
        rows.unlink(missing_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def write_records(kit: Kit, out: Path, count: int, *, seed: int = 0) -> None:
    """Tool conversations as one JSON file of GPT4Tools records (see `ToolConversation.record`)."""
    if kit.protocol is None:
        raise UserError("Tool conversations need the tool protocol.")
    chat = ToolChat(kit.protocol, seed=seed, replies=kit.replies)
    with out.open("w", encoding="utf-8") as sink:
        for number in range(count):
            row = json.dumps(chat[number].record(kit.protocol), ensure_ascii=False)
            sink.write(("[\n" if not number else ",\n") + row)
        sink.write("\n]\n")


def _tally(about: Counter[str], sample: TrainingSample) -> None:
    about["samples"] += 1
    about["with a feature"] += sample.feature is not None
    said = [m for m in sample.messages if m.role == "assistant"]
    about["turns"] += len(said)
    about["characters of answers"] += sum(len(m.content) for m in said)
    first = said[-1].content
    about["yes"] += first.startswith("Yes")
    about["no"] += first.startswith("No") and not first.startswith("Nothing")


def is_unit(sample: TrainingSample) -> bool:
    """Whether its embedding, if any, has norm 1."""
    return sample.feature is None or abs(float(np.linalg.norm(sample.feature)) - 1) < 1e-3
