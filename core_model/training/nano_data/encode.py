"""Renders drawings, composes pictures of them, encodes all with a bundle, and keeps the embeddings.

    python -m anybind.core_model.training.nano_data.encode drawings --archives DIR --world FILE \\
        --out drawings.safetensors
    python -m anybind.core_model.training.nano_data.encode sounds --out sounds.safetensors

An embedding is what the decoder is given at run time: through the bundle's encoder and its cache.
Only sets that are not held out are read. What the embeddings carry is measured and kept with them.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from anybind.content import AnyPart, Audio, Image, Waveform
from anybind.core_model.training.nano_data import composing
from anybind.core_model.training.nano_data.carried import measure
from anybind.core_model.training.nano_data.drawings import SETS, Drawing, drawings
from anybind.core_model.training.nano_data.seen import Row, Seen
from anybind.core_model.training.nano_data.world import Thing, World
from anybind.errors import UserError

Made = tuple[Row, AnyPart]


class Composer:
    """Pictures of one set of drawings and what they show, in a fixed order."""

    def __init__(self, found: list[tuple[Drawing, Thing]], seed: int) -> None:
        self.rng = random.Random(f"compose:{seed}")
        self.found = found
        self.mono = [f for f in found if not SETS[f[0].set].coloured and "currentColor" in f[0].svg]
        self.whole = [f for f in found if SETS[f[0].set].coloured] or found

    def ones(self, views: int) -> Iterator[Made]:
        """Every drawing, so many times; a drawing without colours of its own gets dark ones."""
        for drawing, thing in self.found:
            for view in range(views):
                # Drawings of one colour are mostly met as black on white.
                dark = (
                    None
                    if SETS[drawing.set].coloured
                    else (20, 20, 20)
                    if view == 0
                    else self._any()
                )
                drawn = composing.render(drawing.svg, colour=dark)
                if drawn is None:
                    break
                yield self._row("one", drawing, (thing,)), _part(composing.alone(drawn, self.rng))

    def colours(self, count: int) -> Iterator[Made]:
        """Drawings of one colour."""
        for number in range(count if self.mono else 0):
            drawing, thing = self.rng.choice(self.mono)
            name = list(composing.COLOURS)[number % len(composing.COLOURS)]
            drawn = composing.render(drawing.svg, colour=composing.COLOURS[name])
            if drawn is not None:
                yield (
                    self._row("colour", drawing, (thing,), colour=name),
                    _part(composing.alone(drawn, self.rng, plain=0.8)),
                )

    def counts(self, count: int) -> Iterator[Made]:
        """One thing several times, one to five."""
        for number in range(count):
            drawing, thing = self.rng.choice(self.whole)
            drawn = composing.render(drawing.svg)
            if drawn is not None:
                many = 1 + number % 5
                picture = composing.several(drawn, many, self.rng)
                yield self._row("count", drawing, (thing,), count=many), _part(picture)

    def groups(self, count: int, size: int) -> Iterator[Made]:
        """Different things side by side; every third pair also the other way round."""
        for number in range(count):
            picked = self.rng.sample(self.whole, size)
            things = tuple(t for _, t in picked)
            parts = [composing.render(d.svg) for d, _ in picked]
            if len({t.id for t in things}) < size or any(p is None for p in parts):
                continue
            drawn = [p for p in parts if p is not None]
            what = "pair" if size == 2 else "triple"
            yield self._row(what, picked[0][0], things), _part(composing.together(drawn, self.rng))
            if size == 2 and number % 3 == 0:
                turned = composing.together(drawn[::-1], self.rng)
                yield self._row(what, picked[0][0], things[::-1]), _part(turned)

    def _any(self) -> tuple[int, int, int]:
        return composing.COLOURS[self.rng.choice(list(composing.COLOURS))]

    def _row(self, what: str, drawing: Drawing, things: tuple[Thing, ...], **more: Any) -> Row:
        return Row(0, what, tuple(t.id for t in things), set=drawing.set, **more)


def _part(picture: Picture.Image) -> Image:
    return Image.of(picture)


def encoded(model: Any, made: Iterator[Made], batch: int = 16, report: str = "") -> Seen:
    """What a model gives for parts, as rows."""
    rows: list[Row] = []
    blocks: list[np.ndarray] = []
    waiting: list[Made] = []
    began = time.time()

    def flush() -> None:
        embedded = [model.condition([part]) for _, part in waiting]
        block = np.stack([np.asarray(e.data, np.float32) for e in embedded])
        blocks.append(block / np.linalg.norm(block, axis=1, keepdims=True))
        for row, _ in waiting:
            rows.append(Row(len(rows), row.what, row.things, row.colour, row.count, row.set))
        waiting.clear()

    for item in made:
        waiting.append(item)
        if len(waiting) == batch:
            flush()
            if report and len(rows) % (batch * 40) == 0:
                print(f"{report}: {len(rows)} rows, {time.time() - began:.0f} s", flush=True)
    if waiting:
        flush()
    if not rows:
        raise UserError("Nothing could be encoded.")
    return Seen(rows, np.concatenate(blocks))


def labelled(archives: Path, world: World, names: list[str] | None) -> list[tuple[Drawing, Thing]]:
    """Drawings whose label means a thing; the same content only once."""
    out: dict[str, tuple[Drawing, Thing]] = {}
    for drawing in drawings(archives, names):
        thing = world.labelled(drawing.label, drawing.rule)
        if thing is not None:
            out.setdefault(drawing.digest, (drawing, thing))
    return list(out.values())


def _sounds(each: int, seed: int) -> Iterator[Made]:
    """Clips made from scratch (`audio_events_synth`), each as the ears are given it."""
    from anybind.core_model.training.audio_events_sources import synth_clips
    from anybind.core_model.training.audio_events_synth import RATE

    for clip in synth_clips(each, seed):
        wave = Waveform(clip.samples[None], RATE)
        yield Row(0, "sound", (clip.label,), set="synth"), Audio.of(wave)


def main() -> None:
    """Command line."""
    from anybind.core_model.model import ImageBindLLM

    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("what", choices=["drawings", "sounds"])
    p.add_argument("--archives", type=Path, help="folder of the packages named in drawings.py")
    p.add_argument("--world", type=Path, help="things, as written by nano_data --kinds world")
    p.add_argument("--bundle", default="nano")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--sets", nargs="*", help=f"of {', '.join(SETS)}")
    p.add_argument("--views", type=int, default=2, help="pictures of each drawing")
    p.add_argument("--colours", type=int, default=1500)
    p.add_argument("--counts", type=int, default=1000)
    p.add_argument("--pairs", type=int, default=3000)
    p.add_argument("--triples", type=int, default=800)
    p.add_argument("--each", type=int, default=20, help="clips of each made sound")
    p.add_argument("--limit", type=int, help="only so many drawings, taken at random")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    model = ImageBindLLM.from_bundle(args.bundle)
    if args.what == "sounds":
        seen = encoded(model, _sounds(args.each, args.seed), report="sounds")
        seen.save(
            args.out, model.space, [{"package": "audio_events_synth.py", "licence": "Apache-2.0"}]
        )
        print(f"{args.out}: {len(seen.rows)} rows")
        return
    if args.archives is None or args.world is None:
        p.error("drawings take --archives and --world")
    found = labelled(args.archives, World.load(args.world), args.sets or None)
    if args.limit:
        found = random.Random(args.seed).sample(found, min(args.limit, len(found)))
    composer = Composer(found, args.seed)

    def everything() -> Iterator[Made]:
        yield from composer.ones(args.views)
        yield from composer.colours(args.colours)
        yield from composer.counts(args.counts)
        yield from composer.groups(args.pairs, 2)
        yield from composer.groups(args.triples, 3)

    seen = encoded(model, everything(), report="drawings")
    seen.carries = measure(seen)
    used: dict[str, int] = defaultdict(int)
    for row in seen.rows:
        used[row.set] += 1
    sources = [
        {"package": SETS[s].package, "by": SETS[s].by, "licence": SETS[s].licence, "rows": str(n)}
        for s, n in sorted(used.items())
    ]
    seen.save(args.out, model.space, sources)
    short = {k: {n: v for n, v in d.items() if n != "weights"} for k, d in seen.carries.items()}
    print(json.dumps({"rows": len(seen.rows), "carries": short, "sources": sources}, indent=1))


if __name__ == "__main__":
    main()
