"""What `ablations.py` trains on and measures with: captions split by hash, and features of others.

Knows files of `nano_data` and no model but the text encoder. A row is used if its answer is one of
the four sentences that name a thing ("This is a dog, probably a beagle."): bare names and titles
leave out the everyday word.

Held out, always the same, whatever the seed:
- `things`: every row of 6 % of the things, by their everyday word;
- `rows`: 4 % of the rows, of things that other rows show;
- `drawings`: real embeddings of drawings, 8 % of the pairs of thing and set; training rows that are
  made of one of them (cosine above 0.955; the pipeline's jitter stays above 0.96) are left out;
- `text`: sentence embeddings of trained things ("a photo of a dog");
- `sound`: real embeddings of made sounds whose name is a trained thing;
- `eye`: made-up photographs as the eye gives them, before the bundle's cache (`--eye-noise`);
- `dev`: 4 % of the rows more, which rates are chosen on and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.training.data.features import FeatureFile
from anybind.core_model.training.nano_data.english import article
from anybind.core_model.training.nano_data.seen import Row, Seen
from anybind.core_model.training.nano_data.world import World, phrase
from anybind.errors import UserError

Rows = NDArray[np.float32]
Embed = Callable[[list[str]], Rows]
"""Texts to unit rows [N, C]."""
Record = tuple[str, dict[str, Any], str, Rows]
"""A line, what it says, what is said of the thing, and its embedding [C]."""
THINGS, ROWS, DRAWINGS = 0.06, 0.04, 0.08
MOST_OF_A_THING = 30
"""Rows that one thing may have, where things are chosen: there are 600 of dogs."""
SAME = 0.955
_SAYS = re.compile(r"(?:The (?:picture|photo) shows|This is|I see) (.+)\.", re.DOTALL)


@dataclass(frozen=True)
class HeldOut:
    """Features to be named."""

    features: Rows
    """[N, C]."""
    said: tuple[str, ...]
    """What is right to say of each: "a dog, probably a beagle"."""

    def __len__(self) -> int:
        return len(self.said)

    @property
    def names(self) -> list[str]:
        """The everyday word of each."""
        return [name_of(s) for s in self.said]

    def first(self, count: int) -> HeldOut:
        """The first so many."""
        return HeldOut(self.features[:count], self.said[:count])


@dataclass(frozen=True)
class Split:
    """Where the training rows lie, and what was held out."""

    train: Path
    features: Path
    space: str
    count: int
    """Rows to train on."""
    digest: str
    """Of the training rows."""
    trained: Rows
    """Their embeddings [N, C]."""
    sets: dict[str, HeldOut]


def said_in(answer: str) -> str:
    """ "This is a dog." -> "a dog"; "" for another form."""
    found = _SAYS.fullmatch(answer.strip())
    return found[1] if found else ""


def name_of(said: str) -> str:
    """ "a dog, probably a beagle" -> "dog"."""
    return re.sub(r"^(?:an?) ", "", said.split(", probably ")[0]).lower()


def bucket(text: str) -> float:
    """A place in 0..1 that the text decides."""
    raw = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") / 2**64


def split(
    data: Path, out: Path, embed: Embed, *, each: int = 200, things: int = 0,
    eye_noise: Path | None = None, say: Callable[[str], None] = print,
) -> Split:  # fmt: skip
    """Write `out/train.jsonl` and give everything held out.

    Args:
        data: Folder with `caption.jsonl` and `features.safetensors`; `drawings`, `sounds`
            (.safetensors and .jsonl) and `world.jsonl` are used if they are there.
        out: Where the training rows go.
        embed: The text encoder of the space.
        each: Most of each set.
        things: How many things, those that most captions show; 0 for all.
        eye_noise: Statistics of the eye, for `eye`.
        say: Told of what is left out for want of files.

    Raises:
        UserError: files are missing, or nothing is left to train on.
    """
    file = FeatureFile(data / "features.safetensors")
    captions = data / "caption.jsonl"
    if not captions.is_file():
        raise UserError(f"There is no {captions}; docs/nano-data.md makes it.")
    records: list[Record] = []
    for line in captions.read_text("utf-8").splitlines():
        record = json.loads(line)
        said = said_in(record["messages"][-1]["content"])
        row = file.find(record["attachments"][0]) if said and record.get("attachments") else None
        if row is not None:
            records.append((line, record, said, row))
    if things:
        records = _commonest(records, things)
    seen, words = _read(data, "drawings", say), _world(data)
    drawn = [] if seen is None or words is None else _drawings(seen, words)
    near = _near([r[3] for r in records], seen, [row for row, _ in drawn])
    train, parts = [], {"things": [], "rows": [], "dev": []}
    for record, close in zip(records, near, strict=True):
        key, name = bucket("row:" + record[1]["id"]), name_of(record[2])
        if bucket("thing:" + name) < THINGS:
            parts["things"].append(record)
        elif close:
            continue
        elif key < 2 * ROWS:
            parts["rows" if key < ROWS else "dev"].append(record)
        else:
            train.append(record)
    if not train:
        raise UserError(f"{captions} holds no caption that is trained on.")
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(record[0] + "\n" for record in train)
    (out / "train.jsonl").write_text(lines, encoding="utf-8")
    known = Counter(name_of(record[2]) for record in train)
    sets = {name: _set([(r[3], r[2]) for r in rows], each) for name, rows in parts.items()}
    # A thing that no other row shows is not what `rows` is about.
    for name in ("rows", "dev"):
        sets[name] = _set([(r[3], r[2]) for r in parts[name] if name_of(r[2]) in known], each)
    if seen is not None:
        pairs = [(seen.features[row.number], said) for row, said in drawn if name_of(said) in known]
        sets["drawings"] = _set(pairs, each)
    heads = list(dict.fromkeys(r[2].split(", probably ")[0] for r in train))
    chosen = sorted(heads, key=bucket)[:each]
    sets["text"] = HeldOut(embed([f"a photo of {h}" for h in chosen]), tuple(chosen))
    sounds = _read(data, "sounds", say)
    if sounds is not None:
        sets["sound"] = _set(list(_sounds(sounds, known)), each)
    if eye_noise is None:
        say("eye: left out, no --eye-noise; the cache is not tried on pictures")
    else:
        sets["eye"] = _eye(data, eye_noise, known, each)
    digest = hashlib.sha256(lines.encode()).hexdigest()[:16]
    return Split(
        out / "train.jsonl", data / "features.safetensors", file.space, len(train), digest,
        np.stack([r[3] for r in train]), {n: s for n, s in sets.items() if len(s)},
    )  # fmt: skip


def _commonest(records: Sequence[Record], things: int) -> list[Record]:
    """The records of the things that most of them show, so many of each at most, by hash."""
    counts = Counter(name_of(record[2]) for record in records)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    left = dict.fromkeys(order[:things], MOST_OF_A_THING)
    kept: list[Record] = []
    for record in sorted(records, key=lambda record: bucket("few:" + record[1]["id"])):
        name = name_of(record[2])
        if left.get(name, 0):
            left[name] -= 1
            kept.append(record)
    return kept


def _set(pairs: Sequence[tuple[Rows, str]], most: int) -> HeldOut:
    """The pairs with the smallest hashes, so that the order of the file decides nothing."""
    order = sorted(pairs, key=lambda p: hashlib.blake2b(p[0].tobytes()).digest())[:most]
    features = np.stack([p[0] for p in order]) if order else np.zeros((0, 1), np.float32)
    return HeldOut(features, tuple(p[1] for p in order))


def _read(data: Path, name: str, say: Callable[[str], None]) -> Seen | None:
    if (data / f"{name}.safetensors").is_file():
        return Seen.load(data / f"{name}.safetensors")
    say(f"{name}: left out, {data} has no {name}.safetensors")
    return None


def _world(data: Path) -> World | None:
    return World.load(data / "world.jsonl") if (data / "world.jsonl").is_file() else None


def _drawings(seen: Seen, world: World) -> list[tuple[Row, str]]:
    """Held-out drawings of one thing and what to say of them; a set draws a thing alike."""
    return [
        (row, phrase(world.by_id[row.things[0]]))
        for row in seen.by_what.get("one", [])
        if row.things[0] in world.by_id and bucket(f"{row.things[0]}:{row.set}") < DRAWINGS
    ]


def _near(rows: Sequence[Rows], seen: Seen | None, held: Sequence[Row]) -> list[bool]:
    """Which rows are made of a held-out drawing."""
    if seen is None or not held or not rows:
        return [False] * len(rows)
    table = seen.features[[row.number for row in held]]
    found = [np.stack(rows[i : i + 4096]) @ table.T for i in range(0, len(rows), 4096)]
    return (np.concatenate(found).max(1) > SAME).tolist()


def _sounds(sounds: Seen, known: Counter[str]) -> Iterable[tuple[Rows, str]]:
    for row in sounds.by_what.get("sound", []):
        label = row.things[0]
        name = next((n for n in (label, label.split()[0]) if n in known), "")
        if name:
            yield sounds.features[row.number], article(name)


def _eye(data: Path, noise: Path, known: Counter[str], each: int) -> HeldOut:
    from anybind.core_model.training.nano_data.__main__ import made_up

    world = _world(data)
    if world is None:
        raise UserError(f"--eye-noise needs {data / 'world.jsonl'}.")
    simulate = made_up("nano", noise, SimpleNamespace(cache_kinds=frozenset[str]()))
    things = [t for t in world.eye if name_of(phrase(t)) in known]
    things = sorted(things, key=lambda t: bucket(t.id))[:each]
    # Seeds that no sample of training has: those are drawn from far larger numbers.
    rows = [simulate(t.eye, number) for number, t in enumerate(things)]
    return HeldOut(np.stack(rows), tuple(phrase(t) for t in things))
