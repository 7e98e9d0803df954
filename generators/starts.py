"""Where denoising begins: pure noise, or the noised latents of the nearest known pictures.

Knows the memory file `starts.safetensors` (unit embeddings and latents of training pictures, four
bits a value) and how a diffusers DDIM schedule is entered late. This is the
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
        # diffusers annotates `device` without the None that is its default.
        super().set_timesteps(num_inference_steps, device)  # pyright: ignore[reportArgumentType]
        steps = max(1, round(num_inference_steps * self.strength))
        self.timesteps = self.timesteps[num_inference_steps - steps :]


@dataclass(frozen=True)
class Starts:
    """Embeddings and latents of known pictures."""

    keys: torch.Tensor
    """[N, C], unit norm."""
    latents: torch.Tensor
    """[N, L, h, w]"""

    @classmethod
    def load(cls, path: Path) -> Starts:
        """Read the memory."""
        data = load_file(path)
        shape = data["shape"].tolist()
        keys = F.normalize(_unpack(data["keys"]), dim=1)
        latents = _unpack(data["latents"]).reshape(-1, *shape)
        return cls(keys, latents * data["scale"].float()[:, None, None])

    def save(self, path: Path) -> None:
        """Write the memory, four bits a value (latents are cut at four standard deviations)."""
        scale = self.latents.std((0, 2, 3)) * 4 / 7
        keys = self.keys / self.keys.abs().amax(1, keepdim=True) * 7
        data = {
            "keys": _pack(keys),
            "latents": _pack((self.latents / scale[:, None, None]).flatten(1)),
            "scale": scale.contiguous(),
            "shape": torch.tensor(self.latents.shape[1:]),
        }
        save_file(data, path)

    def near(
        self, embedding: torch.Tensor, size: tuple[int, int], top_k: int, temperature: float
    ) -> torch.Tensor:
        """A latent `[1, L, *size]` mixed from those of the nearest keys to `embedding` `[1, C]`."""
        similarity = self.keys @ F.normalize(embedding.float(), dim=1)[0]
        best = similarity.topk(min(top_k, len(self.keys)))
        shares = (temperature * best.values).softmax(0)
        mixed = (shares[:, None, None, None] * self.latents[best.indices]).sum(0, keepdim=True)
        return F.interpolate(mixed, size=size, mode="bilinear", align_corners=False)


def _pack(values: torch.Tensor) -> torch.Tensor:
    """Rows of an even number of values, rounded to -7...7, two to a byte."""
    low, high = (values.round().clamp(-7, 7) + 8).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return low | high << 4


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """What `_pack` was given, rounded, in float32."""
    return torch.stack([packed & 15, packed >> 4], 2).flatten(1).float() - 8
