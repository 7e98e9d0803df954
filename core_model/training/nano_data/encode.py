"""What the decoder is given for pictures and made sounds: through the bundle's encoders and cache.

    python -m anybind.core_model.training.nano_data.encode drawings --pictures PICTURES... \\
        --out drawings.safetensors
    python -m anybind.core_model.training.nano_data.encode sounds --out sounds.safetensors

Pictures come as features of the backbone (`nano_data.pictures`), so this takes seconds whenever the
mapping has changed. What the embeddings carry is measured and kept with them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anybind.content import AnyPart, Audio, Waveform
from anybind.core_model.training.caching import about
from anybind.core_model.training.data.features import NO_CACHE
from anybind.core_model.training.nano_data.carried import measure
from anybind.core_model.training.nano_data.pictures import sources_of
from anybind.core_model.training.nano_data.seen import Row, Seen, fold, joined
from anybind.errors import UserError

Made = tuple[Row, AnyPart]


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


def _sounds(each: int, seed: int) -> Iterator[Made]:
    """Clips made from scratch (`audio_events_synth`), each as the ears are given it."""
    from anybind.core_model.training.audio_events_sources import synth_clips
    from anybind.core_model.training.audio_events_synth import RATE

    for clip in synth_clips(each, seed):
        wave = Waveform(clip.samples[None], RATE)
        yield Row(0, "sound", (clip.label,), set="synth"), Audio.of(wave)


def through_hub(model: Any, assembly: Any, seen: Seen, hub_file: Path | None = None) -> Seen:
    """Embeddings of pictures from the backbone's features, through mapping and cache.

    Features are those of `nano_data.pictures`, [N, P] or [N, (1 + figures) P]; as `ImageEncoder.embed` does it.
    """
    import torch

    from anybind.core_model.encoders.efficientnet import load_efficientnet
    from anybind.core_model.encoders.image_hub import load_image_hub

    eye = next(c for c in assembly.bundle.encoders if c.use == "image-hub")
    hub = load_image_hub(hub_file or assembly.weight(eye.weights["projection"]))
    backbone = load_efficientnet(assembly.weight(eye.weights["backbone"]))
    with torch.inference_mode():
        blocks: list[Any] = []
        width = backbone.config.pooled
        for block in torch.from_numpy(seen.features).view(len(seen.rows), -1, width).split(1024):
            embedded = hub.embed(block, backbone.classify(block))
            out = embedded[:, 0]
            if hub.head is not None:
                drawn = hub.head(block[:, 0]).gate[:, 0] > 0.5
                there = (block[:, 1:].abs().amax(-1) > 0).sum(1)
                for count in range(2, block.shape[1]):
                    some = drawn & (there == count)
                    if bool(some.any()):
                        out[some] = hub.scene(out[some], embedded[some, 1 : 1 + count])[0]
            blocks.append(out)
    rows = torch.nn.functional.normalize(torch.cat(blocks), dim=-1).numpy()
    if "image" in model.cache_kinds:
        rows = np.asarray(model.cache.apply(rows), np.float32)
    return Seen(seen.rows, rows)


def compact(seen: Seen) -> Seen:
    """The features of the rows that there are, numbered anew."""
    features = seen.features[[r.number for r in seen.rows]]
    return Seen([replace(r, number=n) for n, r in enumerate(seen.rows)], features)


def main() -> None:
    """Command line."""
    from anybind.assembly import Assembly
    from anybind.core_model.model import ImageBindLLM

    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("what", choices=["drawings", "sounds"])
    p.add_argument("--pictures", type=Path, nargs="*", default=[], help="by nano_data.pictures")
    p.add_argument("--folds", type=Path, nargs=2, default=[], help="mappings that were trained "
                   "without either half of the sets (image_head --fold 0 and 1)")  # fmt: skip
    p.add_argument("--bundle", default="nano")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--each", type=int, default=20, help="clips of each made sound")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    model = ImageBindLLM.from_bundle(args.bundle)

    def pulled(kind: str) -> str:
        return about(model.cache, model.cache_kinds) if kind in model.cache_kinds else NO_CACHE

    if args.what == "sounds":
        seen = encoded(model, _sounds(args.each, args.seed), report="sounds")
        seen.save(
            args.out, model.space, [{"package": "audio_events_synth.py", "licence": "Apache-2.0"}],
            pulled("audio"),
        )  # fmt: skip
        print(f"{args.out}: {len(seen.rows)} rows")
        return
    assembly = Assembly(args.bundle)
    parts = [Seen.load(path, unit=False) for path in args.pictures]
    made: list[Seen] = []
    for part in parts:
        if not args.folds:
            made.append(through_hub(model, assembly, part))
        for number, hub_file in enumerate(args.folds):
            other = compact(part.only(lambda r, n=number: fold(r.set) == n))
            if other.rows:
                made.append(through_hub(model, assembly, other, hub_file))
        alone = compact(part.only(lambda r: fold(r.set) < 0))
        if args.folds and alone.rows:
            made.append(through_hub(model, assembly, alone))
    seen = joined(made)
    if seen is None:
        p.error("drawings take --pictures")
    seen.carries = measure(seen)
    sources = sources_of(Counter(row.set for row in seen.rows))
    seen.save(args.out, model.space, sources, pulled("image"))
    short = {k: {n: v for n, v in d.items() if n != "weights"} for k, d in seen.carries.items()}
    print(json.dumps({"rows": len(seen.rows), "carries": short, "sources": sources}, indent=1))


if __name__ == "__main__":
    main()
