"""Where denoising begins: pure noise, or the noised latents of the nearest known pictures.

Knows the memory file `starts.safetensors` (unit embeddings and coarse latents of the training
pictures, both int8 with a scale) and how a diffusers DDIM schedule is entered late. This is the
paper's cache-enhanced generation; the share of the schedule that is still run is `strength`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch.nn import functional as F


class LateDDIM(DDIMScheduler):
    """DDIM that runs only the last `strength` of its steps; all of them by default."""

    strength: float = 1.0

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """The timesteps of a whole run, less those before the start."""
        super().set_timesteps(num_inference_steps, device)
        steps = max(1, round(num_inference_steps * self.strength))
        self.timesteps = self.timesteps[num_inference_steps - steps :]


@dataclass(frozen=True)
class Starts:
    """Embeddings and coarse latents of known pictures."""

    keys: torch.Tensor
    """[N, C], unit norm."""
    latents: torch.Tensor
    """[N, L, h, w], area means of the latents."""

    @classmethod
    def load(cls, path: Path) -> Starts:
        """Read the memory."""
        data = load_file(path)
        keys = F.normalize(data["keys"].float(), dim=1)
        return cls(keys, data["latents"].float() * data["scale"].float())

    def save(self, path: Path) -> None:
        """Write the memory, eight bits a value."""
        scale = self.latents.abs().amax((0, 2, 3), keepdim=True) / 127
        keys = self.keys / self.keys.abs().amax(1, keepdim=True) * 127
        save_file(
            {
                "keys": keys.round().to(torch.int8),
                "latents": (self.latents / scale).round().to(torch.int8).contiguous(),
                "scale": scale,
            },
            path,
        )

    def near(
        self, embedding: torch.Tensor, size: tuple[int, int], top_k: int, temperature: float
    ) -> torch.Tensor:
        """A latent `[1, L, *size]` mixed from those of the nearest keys to `embedding` `[1, C]`."""
        similarity = self.keys @ F.normalize(embedding.float(), dim=1)[0]
        best = similarity.topk(min(top_k, len(self.keys)))
        shares = (temperature * best.values).softmax(0)
        mixed = (shares[:, None, None, None] * self.latents[best.indices]).sum(0, keepdim=True)
        return F.interpolate(mixed, size=size, mode="bilinear", align_corners=False)
