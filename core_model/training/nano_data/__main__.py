"""Writes nano's training data: `python -m anybind.core_model.training.nano_data --out DIR ...`.

    ... --kinds world --wordnet DICT --imagenet DIR --emojibase DIR --archives DIR --out DIR
    ... --world DIR/world.jsonl --seen drawings.safetensors --out DATA --count 60000
    ... --kinds tools --out DATA --count 8000

The first makes the list of things; `encode` then makes the embeddings of drawings; the second writes
conversations about them; the third needs none of that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from anybind.core_model.training.nano_data.drawings import drawings
from anybind.core_model.training.nano_data.looks import Bank, Feature, Looks, Simulate
from anybind.core_model.training.nano_data.making import SHARES, Kit, counts, write, write_records
from anybind.core_model.training.nano_data.replay import answered, by_decoder
from anybind.core_model.training.nano_data.seen import Seen, joined
from anybind.core_model.training.nano_data.sounds import all_words
from anybind.core_model.training.nano_data.world import World, build, called, chinese_labels
from anybind.core_model.training.toolchat import Protocol


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--out", type=Path, required=True, help="folder to write to")
    p.add_argument("--count", type=int, default=1000, help="samples in all")
    p.add_argument("--kinds", nargs="*", help=f"world, or of {', '.join(SHARES)}")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--bundle", default="nano", help="whose encoders and weights are used")
    p.add_argument("--world", type=Path, help="list of things; by default OUT/world.jsonl")
    p.add_argument("--seen", type=Path, nargs="*", default=[], help="embeddings made by `encode`")
    p.add_argument("--eye-noise", type=Path, help="statistics of the eye: made-up photographs")
    p.add_argument("--replies", type=Path, help="answers of the decoder (.json), read or made")
    p.add_argument("--decoder", action="store_true", help="make the answers that are missing there")
    p.add_argument("--protocol", type=Path, help="tool protocol, if not the shipped one")
    p.add_argument(
        "--gpt4tools", action="store_true", help="also write gpt4tools.json, in that set's own form"
    )
    p.add_argument("--wordnet", type=Path, help="WordNet 3.0 dict folder, for world")
    p.add_argument("--imagenet", type=Path, help="timm/data/_info, for world")
    p.add_argument("--emojibase", type=Path, help="folder of emojibase-data, for world")
    p.add_argument("--archives", type=Path, help="packages of drawings, for world")
    args = p.parse_args()
    if args.kinds == ["world"]:
        if args.wordnet is None or args.imagenet is None:
            p.error("world takes --wordnet and --imagenet")
        _world(args)
        return
    kinds = args.kinds or [k for k, share in SHARES.items() if share]
    if "replay" in kinds and args.replies is None:
        if args.kinds:
            p.error("replay takes --replies")
        kinds.remove("replay")
        print("replay is left out: no --replies")
    kit = _kit(args, looking=bool(set(kinds) - {"tools"}))
    wanted = counts(kinds, args.count)
    summary = write(kit, args.out, wanted, seed=args.seed)
    if args.gpt4tools:
        write_records(
            kit, args.out / "gpt4tools.json", wanted.get("tools", args.count), seed=args.seed
        )
    print(json.dumps(summary, indent=1))


def _world(args: argparse.Namespace) -> None:
    labels = [] if args.archives is None else [(d.label, d.rule) for d in drawings(args.archives)]
    chinese = None if args.emojibase is None else chinese_labels(args.emojibase)
    world = build(args.wordnet, args.imagenet, labels, chinese)
    args.out.mkdir(parents=True, exist_ok=True)
    world.save(args.out / "world.jsonl")
    drawn = sum(t.drawn for t in world.things)
    print(
        f"{len(world.things)} things, {drawn} of them drawn, {sum(bool(t.zh) for t in world.things)} in Chinese"
    )


def _kit(args: argparse.Namespace, *, looking: bool) -> Kit:
    protocol = Protocol(args.protocol) if args.protocol else Protocol()
    assembly: Any = None
    replies: dict[str, str] = {}
    if args.replies is not None:
        answer = None
        if args.decoder:
            from anybind.assembly import Assembly

            assembly = Assembly(args.bundle)
            answer = by_decoder(assembly.weight(assembly.bundle.model.weights["decoder"]))
        replies = answered(args.replies, answer)
    if not looking:
        return Kit(None, replies, protocol)
    from anybind.core_model.model import ImageBindLLM

    world = World.load(args.world or args.out / "world.jsonl")
    model = ImageBindLLM.from_bundle(args.bundle)
    parts = [Seen.load(path) for path in args.seen]
    drawn = [p for p in parts if "sound" not in p.by_what]
    heard = [p for p in parts if "sound" in p.by_what]

    def embed(texts: list[str]) -> Feature:
        from anybind.content import Text

        rows: list[Feature] = []
        for at in range(0, len(texts), 256):
            parts = model.embed_parts([Text.of(t) for t in texts[at : at + 256]])
            rows += [np.asarray(e.data, np.float32) for e in parts]
        return np.stack(rows)

    names = [n for t in world.things for n in (t.name, called(t))]
    bank = Bank([*names, *all_words()], embed, args.out / "bank")
    simulate = None if args.eye_noise is None else made_up(args.bundle, args.eye_noise, model)
    looks = Looks(world, bank, simulate=simulate, seen=joined(drawn), sounds=joined(heard))
    return Kit(looks, replies, protocol, model.space)


def made_up(bundle: str, noise_file: Path, model: Any) -> Simulate:
    """Photographs of ImageNet's classes as the bundle's eye would give them, through its cache."""
    import torch

    from anybind.assembly import Assembly
    from anybind.core_model.encoders.efficientnet import load_efficientnet
    from anybind.core_model.encoders.image_hub import load_image_hub
    from anybind.core_model.training.eye_noise import load_noise

    assembly = Assembly(bundle)
    eye = next(c for c in assembly.bundle.encoders if c.use == "image-hub")
    backbone = load_efficientnet(assembly.weight(eye.weights["backbone"]))
    hub = load_image_hub(assembly.weight(eye.weights["projection"]))
    noise = load_noise(noise_file, backbone, hub)
    cached = "image" in model.cache_kinds

    def simulate(number: int, seed: int) -> Feature:
        rng = torch.Generator().manual_seed(seed)
        row = noise.sample(torch.tensor([number]), rng)[0].numpy().astype(np.float32)
        if cached:
            row = np.asarray(model.cache.apply(row[None])[0], np.float32)
        return row

    return simulate


if __name__ == "__main__":
    main()
