"""What an encoder would give for a thing: real embeddings of drawings, made-up photographs, words.

Every embedding is float32 [C], norm 1, and comes from the random source of its sample alone, so that
a sample can be made again by its number. Knows no sentence.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.training.nano_data.seen import Seen
from anybind.core_model.training.nano_data.world import Thing, World, called, related

Feature = NDArray[np.float32]
Embed = Callable[[list[str]], Feature]
"""Texts to unit rows [N, C]."""
Simulate = Callable[[int, int], Feature]
"""An ImageNet class and a seed to an embedding [C]: see `eye_noise`."""

FORMS = ("{}", "a {}", "a photo of a {}", "a picture of a {}")
MODES = {"drawn": 0.45, "eye": 0.40, "word": 0.15}
"""How a thing is shown, of the ways there are for it."""
SHARE = (0.5, 1.06)
"""Where no pairs were measured: the larger of two things takes between these of the mixture (cut
at 1). Measured on 226 composed pictures: 0.58, 0.79 and 1.00 at the quantiles 0.1, 0.5 and 0.9."""
REST = (0.17, 0.50, 0.78)
"""Length of what is neither thing, at those quantiles."""


def unit(x: Feature) -> Feature:
    """At norm 1."""
    return (x / max(float(np.linalg.norm(x)), 1e-9)).astype(np.float32)


class Bank:
    """Embeddings of names in several forms, [forms, N, C]; kept in a file."""

    def __init__(self, names: Sequence[str], embed: Embed, keep: Path | None = None) -> None:
        self.names = list(dict.fromkeys(names))
        self.at = {name: i for i, name in enumerate(self.names)}
        digest = hashlib.sha256("\n".join([*FORMS, *self.names]).encode()).hexdigest()[:16]
        file = None if keep is None else keep / f"bank-{digest}.npy"
        if file is not None and file.exists():
            self.rows: Feature = np.load(file)
            return
        self.rows = np.stack([np.asarray(embed([f.format(n) for n in self.names])) for f in FORMS])
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, self.rows)

    def of(self, name: str, form: int = 0) -> Feature:
        """The embedding of a name."""
        return self.rows[form, self.at[name]]


class Looks:
    """Draws embeddings of things."""

    def __init__(
        self,
        world: World,
        bank: Bank,
        *,
        simulate: Simulate | None = None,
        seen: Seen | None = None,
        sounds: Seen | None = None,
    ) -> None:
        self.world, self.bank, self.simulate = world, bank, simulate
        dim = bank.rows.shape[-1]
        self.seen = _known(seen, world) if seen else Seen.empty(dim)
        self.sounds = sounds or Seen.empty(dim)
        self.eye = world.eye if simulate else []
        self.drawn = [world.by_id[t] for t in sorted(self.seen.of_thing)]
        self.words = [t for t in world.things if t.common > 0 or t.eye >= 0 or t.drawn]
        self._weights = [1.0 + min(t.common, 30) for t in self.words]
        self._names = [n for n in (called(t) for t in self.words) if n in bank.at]
        self._names = list(dict.fromkeys(self._names))
        self._near: dict[str, list[str]] = {}

    # ------------------------------------------------------------ things

    def thing(self, rng: random.Random) -> Thing:
        """A thing to talk about: an ImageNet class, something drawn, or a common word."""
        pools = [(self.drawn, 0.45), (self.eye, 0.40), (self.words, 0.15)]
        pools = [(p, w) for p, w in pools if p]
        pool = rng.choices([p for p, _ in pools], [w for _, w in pools])[0]
        if pool is self.words:
            return rng.choices(self.words, self._weights)[0]
        return rng.choice(pool)

    def near(self, thing: Thing, count: int = 12) -> list[str]:
        """Words for other things that are easily mistaken for it, likeliest first."""
        name = called(thing)
        if thing.id not in self._near:
            rows = self.bank.rows[2][[self.bank.at[n] for n in self._names]]
            own = self.bank.of(name, 2) if name in self.bank.at else rows.mean(0)
            found: list[str] = []
            for at in np.argsort(-(rows @ own)):
                other = self.world.by_name.get(self._names[at].lower())
                if other is not None and not related(thing, other) and _apart(thing, other):
                    found.append(self._names[at])
                if len(found) >= count:
                    break
            self._near[thing.id] = found
        return self._near[thing.id]

    def other(self, thing: Thing, rng: random.Random, *, hard: bool) -> str:
        """A word for something that it is not."""
        near = self.near(thing)
        if hard and near:
            return rng.choice(near[:6])
        while True:
            other = rng.choice(self.drawn or self.eye or self.words)
            if not related(thing, other) and _apart(thing, other):
                return called(other)

    # ------------------------------------------------------------ embeddings

    def look(self, thing: Thing, rng: random.Random) -> Feature:
        """What an encoder might give for a picture of it."""
        ways = {
            "drawn": bool(self.seen.of_thing.get(thing.id)),
            "eye": thing.eye >= 0 and self.simulate is not None,
            "word": thing.name in self.bank.at,
        }
        there = [m for m, way in ways.items() if way]
        mode = rng.choices(there, [MODES[m] for m in there])[0]
        if mode == "drawn":
            row = rng.choice(self.seen.of_thing[thing.id])
            # Another view of the same drawing differs a little.
            return self._jitter(self.seen.features[row.number], rng, 0.25)
        if mode == "eye" and self.simulate is not None:
            return unit(self.simulate(thing.eye, rng.getrandbits(62)))
        return self.word(thing.name, rng, near=self.near(thing))

    def word(
        self,
        name: str,
        rng: random.Random,
        *,
        near: Sequence[str] = (),
        most: float = 0.7,
        forms: int = len(FORMS),
    ) -> Feature:
        """The embedding of a word, mixed with some neighbours and moved by up to `most`."""
        base = self.bank.of(name, rng.randrange(forms))
        if near and rng.random() < 0.7:
            for other in rng.sample(list(near[:8]), min(2, len(near[:8]))):
                base = base + rng.random() ** 2 * 0.6 * self.bank.of(other)
        return self._jitter(unit(base), rng, most)

    def mixed(self, features: Sequence[Feature], rng: random.Random) -> tuple[Feature, list[float]]:
        """The embedding of a scene, and the share that each of its things has in it.

        Two or three unit embeddings are added with weights as measured on composed pictures
        (`carried.mixtures`), and something that is none of them.
        """
        table = self.seen.carries.get("mixture", {}).get("weights")
        if table:
            a, b, rest = rng.choice(table)
            first, second = max(a, b), min(a, b)
        else:
            first = min(1.0, rng.uniform(*SHARE))
            first, second, rest = first, 1 - first, rng.triangular(REST[0], REST[2], REST[1])
        weights = [first, second, *(second * rng.uniform(0.4, 1.0) for _ in features[2:])]
        order = list(range(len(features)))
        rng.shuffle(order)
        shares = [0.0] * len(features)
        total = sum(weights) or 1.0
        for place, weight in zip(order, weights, strict=True):
            shares[place] = weight / total
        out = sum(w * f for w, f in zip(shares, features, strict=True))
        noise = self._noise(rng)
        return unit(unit(np.asarray(out, np.float32)) + rest * noise), shares

    def _noise(self, rng: random.Random) -> Feature:
        source = np.random.default_rng(rng.getrandbits(62))
        return unit(source.standard_normal(self.bank.rows.shape[-1]).astype(np.float32))

    def _jitter(self, feature: Feature, rng: random.Random, most: float) -> Feature:
        return unit(feature + rng.random() * most * self._noise(rng))


def _known(seen: Seen, world: World) -> Seen:
    """The rows whose things are all in the world."""
    rows = [r for r in seen.rows if all(t in world.by_id for t in r.things)]
    return Seen(rows, seen.features, seen.carries)


def _apart(a: Thing, b: Thing) -> bool:
    """Whether two things do not merely differ in breed or make: not children of one basic word."""
    return not (a.basic and a.basic == b.basic) and not (set(a.above[1:3]) & set(b.above[1:3]))
