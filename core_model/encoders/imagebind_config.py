"""Sizes of an ImageBind: which modalities it holds and how wide, deep and fine each one is.

Knows numbers only. What the shapes of tensors say about them, `imagebind_weights` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anybind.core_model.encoders.point_bert import PointConfig
from anybind.core_model.encoders.point_hierarchy import HierarchyConfig


@dataclass(frozen=True, slots=True)
class TowerConfig:
    """Sizes of one modality's stem and transformer; what a modality lacks is 0."""

    width: int
    blocks: int
    heads: int
    bias_kv: bool = False
    """One learned key and value more than there are tokens, in every block."""
    channels: int = 0
    frames: int = 1
    """Frames of a patch; a still picture is repeated that many times."""
    kernel: int = 0
    """Side of a patch in pixels (imu: steps)."""
    stride: int = 0
    size: tuple[int, int] = (0, 0)
    """Height and width the table of positions was made for (imu: 1 and the steps)."""
    vocabulary: int = 0
    context: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across at `size`."""
        return self.patches(*self.size)

    def patches(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across of an input of this size."""
        down = 1 if self.channels == 6 else (height - self.kernel) // self.stride + 1
        return down, (width - self.kernel) // self.stride + 1


OFFICIAL: dict[str, TowerConfig] = {
    "vision": TowerConfig(
        1280, 32, 16, channels=3, frames=2, kernel=14, stride=14, size=(224, 224)
    ),
    "text": TowerConfig(1024, 24, 16, vocabulary=49408, context=77),
    "audio": TowerConfig(
        768, 12, 12, bias_kv=True, channels=1, kernel=16, stride=10, size=(128, 204)
    ),
    "depth": TowerConfig(
        384, 12, 8, bias_kv=True, channels=1, kernel=16, stride=16, size=(224, 224)
    ),
    "thermal": TowerConfig(
        768, 12, 12, bias_kv=True, channels=1, kernel=16, stride=16, size=(224, 224)
    ),
    "imu": TowerConfig(512, 6, 8, bias_kv=True, channels=6, kernel=8, stride=8, size=(1, 2000)),
}  # fmt: skip
"""The sizes of ImageBind-huge, the only released ones."""

TOWERS = (*OFFICIAL, "point")
"""Every modality as the tensors are named; pictures and films share "vision"."""


@dataclass(frozen=True)
class ImageBindConfig:
    """Which modalities a model holds, and their sizes."""

    dim: int = 1024
    towers: Mapping[str, TowerConfig] = field(default_factory=lambda: dict(OFFICIAL))
    point: PointConfig | HierarchyConfig | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names from `TOWERS`, in its order."""
        held = {*self.towers, "point"} if self.point else set(self.towers)
        return tuple(name for name in TOWERS if name in held)
