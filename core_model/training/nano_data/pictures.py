"""Pictures made of labelled drawings, and what the image backbone gives for them.

    python -m anybind.core_model.training.nano_data.pictures --archives DIR --world FILE \\
        --out pictures.safetensors [--views 4] [--pairs 5000] [--figures]

What is kept is the backbone's pooled features, before they are mapped into the joint space, so that
the mapping can be trained on them (`image_head`) and applied again when it has changed, in seconds:
of the whole, and with --figures, where several stand apart, of each of them.
Only sets that are not held out are read.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from anybind.core_model.training.nano_data import composing
from anybind.core_model.training.nano_data.drawings import SETS, Drawing, drawings
from anybind.core_model.training.nano_data.seen import Row, Seen
from anybind.core_model.training.nano_data.world import Thing, World
from anybind.errors import UserError

Made = tuple[Row, Picture.Image]
_BATCH = 16
VIEWS = ("centre", "whole")
"""The views of a picture that the image encoder averages."""
FIGURES = 3
"""Of so many figures at most the features are kept."""


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
            kept: Picture.Image | None = None
            for view in range(views):
                # Drawings of one colour are mostly met as black on white.
                dark = (
                    None
                    if SETS[drawing.set].coloured
                    else (20, 20, 20)
                    if view == 0
                    else self._any()
                )
                if kept is None or dark is not None:
                    kept = composing.render(drawing.svg, colour=dark)
                drawn = kept
                if drawn is None:
                    break
                yield self._row("one", drawing, (thing,)), composing.alone(drawn, self.rng)

    def colours(self, count: int) -> Iterator[Made]:
        """Drawings of one colour."""
        for number in range(count if self.mono else 0):
            drawing, thing = self.rng.choice(self.mono)
            name = list(composing.COLOURS)[number % len(composing.COLOURS)]
            drawn = composing.render(drawing.svg, colour=composing.COLOURS[name])
            if drawn is not None:
                yield (
                    self._row("colour", drawing, (thing,), colour=name),
                    composing.alone(drawn, self.rng, plain=0.8),
                )

    def counts(self, count: int) -> Iterator[Made]:
        """One thing several times, one to five."""
        for number in range(count):
            drawing, thing = self.rng.choice(self.whole)
            drawn = composing.render(drawing.svg)
            if drawn is not None:
                many = 1 + number % 5
                picture = composing.several(drawn, many, self.rng)
                yield self._row("count", drawing, (thing,), count=many), picture

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
            yield self._row(what, picked[0][0], things), composing.together(drawn, self.rng)
            if size == 2 and number % 3 == 0:
                turned = composing.together(drawn[::-1], self.rng)
                yield self._row(what, picked[0][0], things[::-1]), turned

    def _any(self) -> tuple[int, int, int]:
        return composing.COLOURS[self.rng.choice(list(composing.COLOURS))]

    def _row(self, what: str, drawing: Drawing, things: tuple[Thing, ...], **more: Any) -> Row:
        return Row(0, what, tuple(t.id for t in things), set=drawing.set, **more)


def labelled(archives: Path, world: World, names: list[str] | None) -> list[tuple[Drawing, Thing]]:
    """Drawings whose label means a thing; the same content only once."""
    out: dict[str, tuple[Drawing, Thing]] = {}
    for drawing in drawings(archives, names):
        thing = world.labelled(drawing.label, drawing.rule)
        if thing is not None:
            out.setdefault(drawing.digest, (drawing, thing))
    return list(out.values())


def encoded(eye: Eye, made: Iterator[Made], report: str = "") -> Seen:
    """What the backbone gives for pictures, as rows [N, D]."""
    rows: list[Row] = []
    blocks: list[NDArray[np.float32]] = []
    began = time.time()
    while batch := list(itertools.islice(made, _BATCH)):
        blocks.append(eye(batch))
        for row, _ in batch:
            rows.append(Row(len(rows), row.what, row.things, row.colour, row.count, row.set))
        if report and len(blocks) % 40 == 0:
            print(f"{report}: {len(rows)} rows, {time.time() - began:.0f} s", flush=True)
    if not rows:
        raise UserError("Nothing could be rendered.")
    return Seen(rows, np.concatenate(blocks))


class Eye:
    """The image backbone of a bundle, in bfloat16 (twice as fast, cosines to 0.001)."""

    def __init__(self, bundle: str, *, figures: bool = False) -> None:
        """`figures` keeps the features of figures too."""
        import torch

        from anybind.assembly import Assembly
        from anybind.core_model.encoders.efficientnet import load_efficientnet

        assembly = Assembly(bundle)
        eye = next(c for c in assembly.bundle.encoders if c.use == "image-hub")
        backbone = load_efficientnet(assembly.weight(eye.weights["backbone"]))
        self.side = backbone.config.resolution
        self.backbone = backbone.to(torch.bfloat16)
        self.most = FIGURES if figures else 0

    def __call__(self, batch: list[Made]) -> NDArray[np.float32]:
        """Pooled features [B, P] of pictures, or [B, (1 + FIGURES) P] of them and their figures from
        left to right; zeros where there are no figures, or more than FIGURES.

        Figures and groups are seen in both views that the encoder averages at run time, a single
        thing as a whole in one by turns: a network that is trained on these finds its way with the
        mean.
        """
        import torch

        from anybind.core_model.encoders.efficientnet import pixels
        from anybind.core_model.encoders.figures import cut_out, figures
        from anybind.core_model.encoders.image_hub import view

        places: list[tuple[int, int, int]] = []
        """Picture, part of it, and how many views there are of that."""
        seen: list[torch.Tensor] = []
        for at, (row, picture) in enumerate(batch):
            boxes = figures(picture) if self.most else []
            parts = [cut_out(picture, b) for b in boxes] if 2 <= len(boxes) <= self.most else []
            for part, shown in enumerate([picture, *parts]):
                both = part > 0 or row.what in ("pair", "triple")
                kinds = VIEWS if both else VIEWS[at % 2 : at % 2 + 1]
                for kind in kinds:
                    places.append((at, part, len(kinds)))
                    seen.append(pixels(view(shown, kind, self.side, 0.875)))
        pooled: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for some in torch.stack(seen).split(_BATCH):
                block = some.contiguous(memory_format=torch.channels_last).bfloat16()
                pooled.append(self.backbone.pooled(block).float().numpy())
        rows = np.concatenate(pooled)
        out = np.zeros((len(batch), 1 + self.most, rows.shape[1]), np.float32)
        for (at, part, views), row in zip(places, rows, strict=True):
            out[at, part] += row / views
        return out.reshape(len(batch), -1)


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--archives", type=Path, required=True, help="packages named in drawings.py")
    p.add_argument("--world", type=Path, required=True, help="by nano_data --kinds world")
    p.add_argument("--bundle", default="nano")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--sets", nargs="*", help=f"of {', '.join(SETS)}")
    p.add_argument("--views", type=int, default=4, help="pictures of each drawing")
    p.add_argument("--colours", type=int, default=300)
    p.add_argument("--counts", type=int, default=300)
    p.add_argument("--pairs", type=int, default=5000)
    p.add_argument("--triples", type=int, default=800)
    p.add_argument("--figures", action="store_true", help="keep the features of figures too")
    p.add_argument("--limit", type=int, help="only so many drawings, taken at random")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    found = labelled(args.archives, World.load(args.world), args.sets or None)
    if args.limit:
        found = random.Random(args.seed).sample(found, min(args.limit, len(found)))
    composer = Composer(found, args.seed)
    made = itertools.chain(
        composer.ones(args.views),
        composer.colours(args.colours),
        composer.counts(args.counts),
        composer.groups(args.pairs, 2),
        composer.groups(args.triples, 3),
    )
    seen = encoded(Eye(args.bundle, figures=args.figures), made, report="pictures")
    used = Counter(row.set for row in seen.rows)
    seen.save(args.out, "efficientnet-lite2", sources_of(used))
    print(f"{args.out}: {len(seen.rows)} rows")


def sources_of(used: Counter[str]) -> list[dict[str, str]]:
    """What went in, for the metadata and the cards."""
    return [
        {"package": SETS[s].package, "by": SETS[s].by, "licence": SETS[s].licence, "rows": str(n)}
        for s, n in sorted(used.items())
        if s in SETS
    ]


if __name__ == "__main__":
    main()
