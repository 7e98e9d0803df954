"""What the eye would give for a photograph of a known ImageNet class, without the photograph.

The backbone's classifier is linear and its classes stand about equally far apart, as training
with smoothed labels leaves them: the features of a class lie along its own row of the classifier.
A made-up photograph is the mean picture, plus the rows of its class and of a few classes that it
is easily taken for (similar sentences), sometimes of something that stands beside it, plus the
spread of real pictures. Its features then go through the shipped classifier and mapping. The bind
network learns from such samples, so that it is fed in training what it will be fed in use:
confusions, doubt and clutter of the right shape. How they were fitted to the accuracy and the
confidence on real photographs is told in the card of the bundle's `image_hub`.

Knows features and classes. The statistics file is made by `anybind.core_model.training.image_head`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
    """How samples stray; the fitted numbers lie in the statistics file."""

    signal: float = 2.55
    """Length of the way from the mean picture along the row of the class."""
    hardness: float = 0.2
    """Spread of the logarithm of that length from picture to picture."""
    noise: float = 0.5
    """Factor on the spread of real pictures."""
    doubt: tuple[float, float] = (1.5, 2.4)
    """Shape (Kumaraswamy) of the weight of the classes it may be taken for."""
    rivals: int = 4
    """How many such classes a picture has."""
    likeness: float = 0.03
    """Temperature of the cosine between class embeddings by which rivals are drawn."""
    clutter: float = 0.2
    """Share of pictures that show something else beside."""
    clutter_most: float = 0.5
    """Largest weight of that something else."""


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
        """`mean` [D] over real pictures; `factor` [D, R], their covariance = factor factor^T."""
        self.hub = hub
        self.weight = backbone.classifier.weight.detach()
        self.bias = backbone.classifier.bias.detach()
        self.mean, self.factor, self.config = mean.float(), factor.float(), config
        self.rows = self.weight - self.weight.mean(0)
        unit = F.normalize(hub.classes, dim=-1)
        alike = (unit @ unit.T / config.likeness).fill_diagonal_(float("-inf"))
        self.likeness = alike.softmax(-1)
        """Chance that a class [K] is taken for another [K]."""

    def features(self, class_ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Penultimate features [B, D] of made-up photographs of classes [B]."""
        config, count = self.config, len(class_ids)

        def normal(width: int) -> Tensor:
            return torch.randn(count, width, generator=generator)

        def uniform(width: int) -> Tensor:
            return torch.rand(count, width, generator=generator)

        rivals = torch.multinomial(self.likeness[class_ids], config.rivals, generator=generator)
        # A few rivals share the doubt unevenly: the squares of normals are gamma(1/2) variates.
        shares = normal(config.rivals).square()
        doubt = self._doubt(uniform, *config.doubt)
        parts = torch.cat([1 - doubt, doubt * shares / shares.sum(1, keepdim=True)], 1)
        ids = torch.cat([class_ids[:, None], rivals], 1)
        beside = (uniform(1) < config.clutter) * uniform(1) * config.clutter_most
        parts = torch.cat([parts * (1 - beside), beside], 1)
        other = torch.randint(len(self.rows), (count, 1), generator=generator)
        ids = torch.cat([ids, other], 1)
        # Doubt moves the evidence between classes; it does not take it away.
        parts = F.normalize(parts, dim=-1)
        signal = torch.bmm(parts[:, None, :], self.rows[ids])[:, 0]
        length = config.signal * torch.exp(config.hardness * normal(1))
        spread = normal(self.factor.shape[1]) @ self.factor.T
        # Pooled ReLU6 features are never negative.
        return (self.mean + length * signal + config.noise * spread).clamp(min=0.0)

    @staticmethod
    def _doubt(uniform: Callable[[int], Tensor], a: float, b: float) -> Tensor:
        """Weights [B, 1] in 0..1 by Kumaraswamy's distribution: like a beta, but its inverse is
        closed, so it follows the generator."""
        return (1 - (1 - uniform(1)).pow(1 / b)).pow(1 / a)

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
        # The gate of the head is all but shut for photographs.
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error
    if data.get("format") != FORMAT:
        raise ModelError(f"{path.name} holds no eye statistics ({FORMAT}).")
    settings: dict[str, Any] = json.loads(data["config"])
    settings["doubt"] = tuple(settings["doubt"])
    if tensors["mean"].shape[0] != backbone.config.head:
        raise ModelError(f"{path.name} was made for another backbone.")
    config = NoiseConfig(**settings)
    return EyeNoise(backbone, hub, tensors["mean"], tensors["factor"], config)
