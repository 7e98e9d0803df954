"""EfficientNet-lite: the image backbone, in a form made for inference.

No squeeze-and-excitation, ReLU6, TensorFlow's "same" padding, input `(pixel - 127) / 128`
(Tan & Le 2019 and the lite variants of the TPU repository). Batch norms are folded into the
convolutions when the file is loaded. Knows pixels, features and ImageNet logits; what they mean
in a joint space, `image_hub` knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

FORMAT = "anybind-efficientnet-lite-1"
"""`format` in the metadata of the file; others are refused."""

_EPS = 1e-3
_LIMIT = 10_000

# repeats, kernel, stride, expansion, channels: the stages of the smallest network.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


INNER = 4
"""Of so many last stages the inner features are pooled too."""


@dataclass(frozen=True, slots=True)
class LiteConfig:
    """Sizes of one network. Stem and head keep their width; first and last stage their depth."""

    width: float = 1.0
    """Factor on the channels of the stages (rounded to multiples of 8)."""
    depth: float = 1.0
    """Factor on the repeats (rounded up)."""
    resolution: int = 224
    """Side in pixels that it was trained on."""
    stem: int = 32
    head: int = 1280
    classes: int = 1000

    @property
    def pooled(self) -> int:
        """Width P of the pooled features."""
        return self.head + 2 * sum(channels for *_, channels in self.stages()[-INNER:])

    def stages(self) -> list[tuple[int, int, int, int, int]]:
        """(repeats, kernel, stride, expansion, channels) of every stage."""
        last = len(_STAGES) - 1
        return [
            (
                repeats if place in (0, last) else math.ceil(self.depth * repeats),
                kernel,
                stride,
                expansion,
                _round_channels(channels * self.width),
            )
            for place, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES)
        ]


CONFIGS: dict[str, LiteConfig] = {
    "lite0": LiteConfig(1.0, 1.0, 224),
    "lite1": LiteConfig(1.0, 1.1, 240),
    "lite2": LiteConfig(1.1, 1.2, 260),
    "lite3": LiteConfig(1.2, 1.4, 280),
    "lite4": LiteConfig(1.4, 1.8, 300),
}
"""The published sizes."""


def _round_channels(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class _Conv(nn.Conv2d):
    """A convolution (with the folded norm as its bias) under TensorFlow's "same" padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        # Stride 1 pads evenly, which torch does itself; stride 2 may pad one more at the end.
        self.uneven = stride > 1
        even = 0 if self.uneven else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, even, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        if self.uneven:
            kernel, stride = self.kernel_size[0], self.stride[0]
            pads: list[int] = []
            for size in (input.shape[-1], input.shape[-2]):
                total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
                pads += [total // 2, total - total // 2]
            input = F.pad(input, pads)
        return super().forward(input)


class _Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel, project; a skip where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        middle = inputs * expansion
        self.widen = _Conv(inputs, middle, 1) if expansion != 1 else None
        self.filter = _Conv(middle, middle, kernel, stride, groups=middle)
        self.project = _Conv(middle, outputs, 1)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.widen is None else F.relu6(self.widen(x))
        y = self.project(F.relu6(self.filter(y)))
        return x + y if self.skip else y


class EfficientNetLite(nn.Module):
    """The backbone and its classifier."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _Conv(3, config.stem, 3, 2)
        blocks: list[_Block] = []
        channels = config.stem
        for repeats, kernel, stride, expansion, outputs in config.stages():
            for repeat in range(repeats):
                blocks.append(
                    _Block(channels, outputs, kernel, stride if repeat == 0 else 1, expansion)
                )
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _Conv(channels, config.head, 1)
        self.classifier = nn.Linear(config.head, config.classes)

    def features(self, pixels: Tensor) -> Tensor:
        """Feature map [B, 1280, H/32, W/32] (rounded up) of pixels [B, 3, H, W], see `pixels`."""
        x = F.relu6(self.stem(pixels))
        return F.relu6(self.head(self.blocks(x)))

    def pooled(self, pixels: Tensor) -> Tensor:
        """Features [B, P] of pixels [B, 3, H, W]: the mean over the feature map, then the mean and
        the maximum over what each of the last four stages gives.

        The last map knows the classes that the network was trained for; what came before knows
        shapes and patterns that other pictures are made of too.
        """
        x = F.relu6(self.stem(pixels))
        inner: list[Tensor] = []
        at = 0
        for number, (repeats, *_) in enumerate(self.config.stages()):
            for block in self.blocks[at : at + repeats]:
                x = block(x)
            at += repeats
            if number >= len(_STAGES) - INNER:
                inner += [x.mean((2, 3)), x.amax((2, 3))]
        return torch.cat([F.relu6(self.head(x)).mean((2, 3)), *inner], 1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Class logits [..., classes] of pooled features [..., P]."""
        return self.classifier(pooled[..., : self.config.head])

    def forward(self, pixels: Tensor) -> Tensor:
        """Class logits [B, classes]."""
        return self.classifier(self.features(pixels).mean((2, 3)))


def pixels(picture: PILImage) -> Tensor:
    """An RGB picture as network input [3, H, W], float32 in about -1..1, at its own size."""
    array = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy((array - 127.0) / 128.0).permute(2, 0, 1)


# ---------------------------------------------------------------- the file


def tensor_names(config: LiteConfig) -> Iterator[tuple[str, str, str]]:
    """(our convolution, its weight's prefix in the file, its batch norm's prefix in the file)."""
    yield "stem", "_conv_stem", "_bn0"
    place = 0
    for repeats, _, _, expansion, _ in config.stages():
        for _ in range(repeats):
            ours, theirs = f"blocks.{place}", f"_blocks.{place}"
            if expansion != 1:
                yield f"{ours}.widen", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}.filter", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
            place += 1
    yield "head", "_conv_head", "_bn1"


def fold(config: LiteConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of `EfficientNetLite` from the tensors of the file, norms folded in.

    Raises:
        ModelError: a tensor is missing.
    """
    state: dict[str, Tensor] = {}
    try:
        for ours, conv, norm in tensor_names(config):
            spread = torch.rsqrt(tensors[f"{norm}.running_var"].double() + _EPS)
            scale = tensors[f"{norm}.weight"].double() * spread
            shift = tensors[f"{norm}.bias"].double()
            shift = shift - tensors[f"{norm}.running_mean"].double() * scale
            weight = tensors[f"{conv}.weight"].double() * scale[:, None, None, None]
            state[f"{ours}.weight"] = weight.float().contiguous()
            state[f"{ours}.bias"] = shift.float()
        state["classifier.weight"] = tensors["_fc.weight"].float()
        state["classifier.bias"] = tensors["_fc.bias"].float()
    except KeyError as error:
        raise ModelError(f"the EfficientNet file lacks the tensor {error}") from error
    return state


def metadata(config: LiteConfig) -> dict[str, str]:
    """The metadata that `load_efficientnet` asks of a file."""
    return {"format": FORMAT, "config": json.dumps(asdict(config))}


def _config(data: Mapping[str, str] | None, name: str) -> LiteConfig:
    if not data or data.get("format") != FORMAT:
        raise ModelError(f"{name} is not a converted EfficientNet-lite file ({FORMAT}).")
    try:
        sizes: dict[str, Any] = json.loads(data["config"])
        config = LiteConfig(**sizes)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(f"{name}: the sizes in the metadata can't be read: {error}") from error
    for field in fields(LiteConfig):
        value = getattr(config, field.name)
        if not isinstance(value, int | float) or not 0 < value < _LIMIT:
            raise ModelError(f"{name}: {field.name} = {value!r} is no size.")
    return config


def load_efficientnet(path: Path) -> EfficientNetLite:
    """The network from a file that `anybind.core_model.convert.efficientnet` wrote.

    Raises:
        ModelError: the file can't be read, or tensors and sizes don't fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config = _config(file.metadata(), path.name)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error
    with torch.device("meta"):
        model = EfficientNetLite(config)
    try:
        model.load_state_dict(fold(config, tensors), assign=True)
    except RuntimeError as error:
        raise ModelError(f"{path.name} does not fit its sizes: {error}") from error
    # Channels-last is what oneDNN's depthwise kernels like best.
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore
