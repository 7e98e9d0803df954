"""Step 4: what the pictures are worth. Retrieval of the asked label, a sheet, and loss curves.

A generated picture's nearest neighbour among all training pictures (pooled EfficientNet-lite0
features, which the generator never saw) should be the concept that was asked for. Knows the sets
of conditions; runs the exported folder through the same pipeline class as use does.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from . import emoji
from .autoencoder import SIZE, as_floats
from .eye import Eye
from .hub import Hub

SHEET = (
    "a red apple", "dog", "cat face", "a car", "rocket", "pizza", "a house with a garden",
    "sun behind cloud", "guitar", "drum", "bird", "fish", "a tree", "rose", "clock",
    "a laptop computer", "soccer ball", "crown", "sad face", "a man wearing a turban",
    "the sound of a bell", "thunder and lightning", "a vehicle with two wheels",
    "a sweet dessert with candles",
)  # fmt: skip


class Runner:
    """Draws batches with an exported folder, with or without starts."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        """Take the options in the folder's ``generator.json``, but for ``changes`` not None."""
        from anybind.generators.starts import LateDDIM, Starts
        from anybind.generators.unclip import load_pipeline, saved_options

        options = saved_options(folder) | {k: v for k, v in changes.items() if v is not None}
        self.options = {k: v for k, v in options.items() if k not in ("space", "size")}

        self.pipeline = load_pipeline(folder, "cpu")
        self.pipeline.set_progress_bar_config(disable=True)
        self.guidance, self.steps = float(options["guidance"]), int(options["steps"])
        strength = float(options["strength"])
        self.mix = (int(options["top_k"]), float(options["temperature"]))
        late = LateDDIM.from_config(self.pipeline.scheduler.config)
        late.strength = strength
        self.pipeline.scheduler = late
        self.starts = Starts.load(folder / "starts.safetensors") if strength < 1 else None

    def __call__(
        self,
        embeddings: torch.Tensor,
        tokens: torch.Tensor | None,
        level: int = 0,
        seed: int = 1,
        batch: int = 16,
    ) -> torch.Tensor:
        """Pictures ``[N, 3, S, S]`` in -1…1 for conditions ``[N, 384]``, texts the same or None
        (then the embedding is its own text, as in ``anybind.generators.unclip``)."""
        found: list[torch.Tensor] = []
        for at in range(0, len(embeddings), batch):
            e = embeddings[at : at + batch]
            token = (e if tokens is None else tokens[at : at + batch])[:, None]
            generator = torch.Generator().manual_seed(seed + at)
            latents = None
            if self.starts is not None:
                side = SIZE // 8
                near = torch.cat(
                    [self.starts.near(row[None], (side, side), *self.mix) for row in e]
                )
                self.pipeline.scheduler.set_timesteps(self.steps)
                first = self.pipeline.scheduler.timesteps[:1]
                noise = torch.randn(near.shape, generator=generator)
                latents = self.pipeline.scheduler.add_noise(near, noise, first)
            images = self.pipeline(
                image_embeds=e,
                prompt_embeds=token,
                negative_prompt_embeds=torch.zeros_like(token),
                latents=latents,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                noise_level=level,
                generator=generator,
                output_type="np",
            ).images
            found.append(torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2) * 2 - 1)
        return torch.cat(found)


def ranks(wanted: list[set[int]], features: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """For each picture the best rank (0 is nearest) among known pictures of a wanted concept."""
    order = (features @ known.T).argsort(1, descending=True)
    return torch.tensor(
        [min((row == i).nonzero().item() for i in w) for w, row in zip(wanted, order, strict=True)]
    )


def condition_sets(
    emojis: list[emoji.Emoji], hub: Hub, count: int, seed: int
) -> dict[str, tuple[list[set[int]], torch.Tensor, torch.Tensor | None, int]]:
    """Name → (concepts that count as right, embeddings, text tokens, noise level)."""
    rng = random.Random(seed)
    usual = [i for i, e in enumerate(emojis) if e.group != emoji.FLAG_GROUP]
    chosen = rng.sample(usual, count)
    labels = hub([emojis[i].label for i in chosen])
    own: list[set[int]] = [{i} for i in chosen]
    noise = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed)) / 384**0.5
    unsure = F.normalize(labels + 0.9 * noise, dim=1)
    texts = [emoji.HELD_OUT_TEMPLATES[n % 2].format(emojis[i].label) for n, i in enumerate(chosen)]
    paraphrases = hub(texts)
    tagged = [i for i in usual if emojis[i].held_out_tag is not None]
    with_tag = rng.sample(tagged, count)
    tags = [str(emojis[i].held_out_tag) for i in with_tag]
    having: list[set[int]] = [
        {j for j, e in enumerate(emojis) if tag in (e.label, e.held_out_tag, *e.tags)}
        for tag in tags
    ]
    tag_embeddings = hub(tags)
    return {
        "trained labels, text and embedding": (own, labels, labels, 0),
        "trained labels, embedding alone": (own, labels, None, 0),
        "noisy embedding (cosine 0.74), alone": (own, unsure, None, 100),
        "held-out templates": (own, paraphrases, paraphrases, 0),
        "held-out tags (any picture with the tag)": (having, tag_embeddings, tag_embeddings, 0),
    }


def sheet(pictures: torch.Tensor, titles: list[str], columns: int, file: Path) -> None:
    """A contact sheet with the text under each picture."""
    scale, foot = 128, 16
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * scale, rows * (scale + foot)), "white")
    pen = ImageDraw.Draw(canvas)
    for n, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        array = ((picture.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        left, top = n % columns * scale, n // columns * (scale + foot)
        tile = Image.fromarray(array).resize((scale, scale), Image.Resampling.LANCZOS)
        canvas.paste(tile, (left, top))
        pen.text((left + 2, top + scale + 2), title[:21], fill="black")
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.quantize(192).save(file, optimize=True)


def curves(run: Path, file: Path) -> None:
    """Loss curves of both steps, drawn with PIL: diffusion loss, autoencoder pixel error."""
    canvas = Image.new("RGB", (900, 360), "white")
    pen = ImageDraw.Draw(canvas)
    sources = (("autoencoder.jsonl", "pixel"), ("diffusion.jsonl", "mse"))
    for panel, (name, key) in enumerate(sources):
        if not (run / name).exists():
            continue
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
        points = [(line["step"], line[key]) for line in lines if key in line]
        left, right, top, bottom = 60 + 450 * panel, 430 + 450 * panel, 40, 310
        far = max(step for step, _ in points)
        low, high = min(v for _, v in points), max(v for _, v in points)
        high = min(high, sorted(v for _, v in points)[int(0.95 * len(points))] * 1.15)
        pen.rectangle((left, top, right, bottom), outline="#999999")
        pen.text((left, 15), f"{name.split('.')[0]}: {key} per step", fill="black")
        line_points = [
            (
                left + (right - left) * step / far,
                bottom - (bottom - top) * (min(v, high) - low) / max(high - low, 1e-9),
            )
            for step, v in points
        ]
        pen.line(line_points, fill="#0060c0", width=2)
        pen.text((left - 45, top), f"{high:.3f}", fill="black")
        pen.text((left - 45, bottom - 10), f"{low:.3f}", fill="black")
        pen.text((right - 30, bottom + 6), str(far), fill="black")
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.quantize(32).save(file, optimize=True)


def write_card(card: Path, figures: dict[str, Any], setting: str) -> None:
    """Put the figures between the two marks of a model card."""
    rows = ["| condition | top-1 | top-10 | median rank | chance top-1 / top-10 |"]
    rows += ["| --- | --- | --- | --- | --- |"]
    for name, f in figures.items():
        chance = f"{f['chance_top1']} / {f['chance_top10']}" if "chance_top1" in f else ""
        rank = f.get("median_rank", f"PSNR {f.get('psnr')} dB")
        rows.append(f"| {name} | {f['top1']} | {f['top10']} | {rank} | {chance} |")
    text = card.read_text("utf-8")
    before, _, rest = text.partition("<!-- figures -->")
    _, _, after = rest.partition("<!-- end of figures -->")
    middle = "\n".join(["", setting, "", *rows, ""])
    card.write_text(before + "<!-- figures -->" + middle + "<!-- end of figures -->" + after)


@torch.inference_mode()
def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Run all sets; returns and prints the figures."""
    torch.set_num_threads(1)
    emojis = emoji.load(Path(args.data))
    hub, eye = Hub(Path(args.hub)), Eye(Path(args.eye))
    runner = Runner(
        Path(args.folder),
        guidance=args.guidance,
        steps=args.steps,
        strength=args.strength,
        top_k=args.top_k,
        temperature=args.temperature,
    )
    run = Path(args.run)
    if args.pictures:
        out = Path(args.pictures)
        embeddings = hub(list(SHEET))
        begun = time.time()
        runner(embeddings[:1], embeddings[:1])
        print(f"one picture: {time.time() - begun:.2f} s")
        sheet(runner(embeddings, embeddings), list(SHEET), 8, out / "generator_sheet.png")
        curves(run, out / "generator_loss.png")
    if not args.count:
        return {}
    pixels = torch.from_numpy(emoji.pictures(emojis, SIZE, run / f"pictures_{SIZE}.npy"))
    cache = run / "known_features.pt"
    if cache.exists():
        known = torch.load(cache, weights_only=True)
    else:
        known = torch.cat([eye.pooled(as_floats(p)) for p in pixels.split(32)])
        torch.save(known, cache)
    figures: dict[str, Any] = {}
    sets = condition_sets(emojis, hub, args.count, 3)
    first = next(iter(sets))
    free = Runner(Path(args.folder), steps=args.steps, guidance=6.0, strength=1.0)
    sets["the same labels from pure noise, guidance 6"] = sets[first]
    for name, (wanted, e, tokens, level) in sets.items():
        made = (free if "pure noise" in name else runner)(e, tokens, level)
        rank = ranks(wanted, torch.cat([eye.pooled(m) for m in made.split(32)]), known)
        size = sum(len(w) for w in wanted) / len(wanted)
        figures[name] = {
            "top1": round((rank < 1).float().mean().item(), 3),
            "top10": round((rank < 10).float().mean().item(), 3),
            "median_rank": int(rank.median()),
            "chance_top1": round(size / len(emojis), 5),
            "chance_top10": round(min(1.0, 10 * size / len(emojis)), 4),
        }
        print(name, json.dumps(figures[name]), flush=True)
    usual = [next(iter(w)) for w in sets[first][0]]
    x = as_floats(pixels[usual])
    vae = runner.pipeline.vae
    back = torch.cat([vae.decode(vae.encode(p).latent_dist.mode()).sample for p in x.split(32)])
    rank = ranks([{i} for i in usual], torch.cat([eye.pooled(p) for p in back.split(32)]), known)
    error = (back.clamp(-1, 1) - x).square().mean((1, 2, 3))
    figures["ceiling: real pictures through the autoencoder"] = {
        "top1": round((rank < 1).float().mean().item(), 3),
        "top10": round((rank < 10).float().mean().item(), 3),
        "psnr": round((10 * torch.log10(4 / error)).mean().item(), 2),
    }
    print(json.dumps(figures["ceiling: real pictures through the autoencoder"]))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    if args.card:
        setting = (
            f"{args.count} conditions a row; {len(emojis)} pictures to choose from; "
            f"{', '.join(f'{k} {v}' for k, v in runner.options.items())}."
        )
        write_card(Path(args.card), figures, setting)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with the two unpacked npm packages")
    parser.add_argument("--hub", required=True, help="MiniLM model folder")
    parser.add_argument("--eye", required=True, help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--run", required=True, help="run folder (picture cache, logs)")
    parser.add_argument("--folder", required=True, help="exported pipeline folder")
    parser.add_argument("--pictures", default="", help="folder for the sheet and the curves")
    parser.add_argument("--json", default="", help="file for the figures")
    parser.add_argument("--card", default="", help="model card to put the figures into")
    parser.add_argument("--count", type=int, default=96, help="conditions a set; 0 for none")
    for name, kind in (("guidance", float), ("steps", int), ("strength", float)):
        parser.add_argument(f"--{name}", type=kind, help="instead of the folder's own")
    parser.add_argument("--top-k", type=int, help="instead of the folder's own")
    parser.add_argument("--temperature", type=float, help="instead of the folder's own")
    evaluate(parser.parse_args())


if __name__ == "__main__":
    main()
