"""What the eye would give for a photograph of a known ImageNet class, without the photograph.

The backbone's classifier is linear, so under one Gaussian a class (linear discriminant analysis)
its rows fix the class means: `mu_c = m + a * Sigma (W_c - mean W)`. The covariance `Sigma` inside
a class follows from the covariance of features over all pictures, `T = Sigma + Sigma M Sigma`
with `M` the covariance of the rows of `W`. Sampled features then go through the shipped
classifier and mapping. The bind network learns from these samples, so that it is fed in training
what it will be fed in use: confusions, doubt and clutter of the right shape.

Knows features and classes. The statistics file is made by `anybind.core_model.training.image_hub`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.encoders.efficientnet import EfficientNetLite
from anybind.core_model.encoders.image_hub import ImageHub
from anybind.errors import ModelError

FORMAT = "anybind-eye-noise-1"
"""`format` in the metadata of the file; others are refused."""


@dataclass(frozen=True, slots=True)
class NoiseConfig:
    """How far samples stray. The defaults are overwritten by the calibration in the file."""

    signal: float = 1.0
    """Factor `a` on the way from the mean picture to the class mean."""
    noise: float = 1.0
    """Median factor on the spread inside a class."""
    hardness: float = 0.25
    """Spread of the logarithm of that factor from picture to picture."""
    clutter: float = 0.3
    """Share of pictures that show something else beside."""
    clutter_most: float = 0.45
    """Largest weight of that something else."""


def within_class_covariance(total: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    """Solve `total = S + scale * S M S` for the covariance S inside a class.

    Args:
        total: Covariance of features over all pictures [D, D].
        weight: Rows of the classifier [K, D].
        scale: `a` squared.

    Returns:
        [D, D], symmetric, positive.
    """
    total, weight = total.double(), weight.double()
    centred = weight - weight.mean(0)
    spread = centred.T @ centred / len(weight)
    spread += 1e-6 * spread.diagonal().mean() * torch.eye(len(spread), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(spread)
    root = (vectors * values.clamp(min=1e-12).sqrt()) @ vectors.T
    back = (vectors * values.clamp(min=1e-12).rsqrt()) @ vectors.T
    # In the basis where M is the identity, S and S + a S S commute: one quadratic a direction.
    level, basis = torch.linalg.eigh(root @ total @ root)
    solved = (torch.sqrt(1 + 4 * scale * level.clamp(min=0)) - 1) / (2 * scale)
    inside = back @ ((basis * solved) @ basis.T) @ back
    return (inside + inside.T) / 2


class EyeNoise:
    """Samples of what the eye gives for photographs of a class."""

    def __init__(
        self,
        backbone: EfficientNetLite,
        hub: ImageHub,
        mean: Tensor,
        factor: Tensor,
        config: NoiseConfig,
    ) -> None:
        """`mean` [D] over all pictures; `factor` [D, R] with Sigma = factor factor^T."""
        self.hub = hub
        self.weight = backbone.classifier.weight.detach()
        self.bias = backbone.classifier.bias.detach()
        self.mean, self.factor, self.config = mean.float(), factor.float(), config
        centred = self.weight - self.weight.mean(0)
        self.shift = centred @ self.factor @ self.factor.T
        """Way of every class from the mean [K, D], before `signal`."""

    def features(self, class_ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Penultimate features [B, D] of made-up photographs of classes [B]."""
        config, count = self.config, len(class_ids)

        def uniform() -> Tensor:
            return torch.rand(count, 1, generator=generator)

        other = torch.randint(len(self.shift), (count,), generator=generator)
        beside = (uniform() < config.clutter) * uniform() * config.clutter_most
        signal = (1 - beside) * self.shift[class_ids] + beside * self.shift[other]
        hard = config.noise * torch.exp(
            config.hardness * torch.randn(count, 1, generator=generator)
        )
        spread = torch.randn(count, self.factor.shape[1], generator=generator) @ self.factor.T
        # Pooled ReLU6 features are never negative.
        return (self.mean + config.signal * signal + hard * spread).clamp(min=0.0)

    def logits(self, class_ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Class logits [B, K] of made-up photographs."""
        return F.linear(self.features(class_ids, generator), self.weight, self.bias)

    @torch.inference_mode()
    def sample(self, class_ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unit-norm hub embeddings [B, C] as the image encoder would give them.

        Args:
            class_ids: ImageNet classes [B], in the order of the classifier.
            generator: Source of randomness.
        """
        return F.normalize(self.hub(self.logits(class_ids, generator)), dim=-1)


def save_noise(path: Path, mean: Tensor, factor: Tensor, config: NoiseConfig) -> None:
    """Write the statistics file (half precision)."""
    tensors = {"mean": mean.half().contiguous(), "factor": factor.half().contiguous()}
    data = {"format": FORMAT, "config": json.dumps(asdict(config))}
    save_file(tensors, path, metadata=data)


def load_noise(path: Path, backbone: EfficientNetLite, hub: ImageHub) -> EyeNoise:
    """The sampler from the statistics file, the backbone and the mapping.

    Raises:
        ModelError: the file can't be read or does not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            data = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error
    if data.get("format") != FORMAT:
        raise ModelError(f"{path.name} holds no eye statistics ({FORMAT}).")
    settings: dict[str, Any] = json.loads(data["config"])
    if tensors["mean"].shape[0] != backbone.config.head:
        raise ModelError(f"{path.name} was made for another backbone.")
    config = NoiseConfig(**settings)
    return EyeNoise(backbone, hub, tensors["mean"], tensors["factor"], config)
