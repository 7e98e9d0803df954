"""Point-BERT as Point-Bind uses it: a point cloud to the 512 features before the joint head.

Knows farthest-point sampling, neighbourhoods, the small PointNet over each of them and the
transformer over their tokens (Yu et al. 2022; Guo et al. 2023 for the projection). Attribute names
give the tensor names of `imagebind_w3D.pth` below `point_trunk.`. Does not know files of points
(`anybind.core_model.preprocess.points`), checkpoints, nor the joint space. Inference only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.errors import UserError


@dataclass(frozen=True, slots=True)
class PointConfig:
    """Sizes of the point encoder. The defaults are those of the released weights."""

    width: int = 384
    blocks: int = 12
    heads: int = 6
    groups: int = 512
    """Centres that farthest-point sampling picks: tokens of the transformer."""
    group_size: int = 32
    """Nearest neighbours around each centre."""
    features: int = 256
    """Width of the small PointNet's result."""
    projection: int = 512
    """Width of what goes into the joint head."""


class Groups(NamedTuple):
    """Neighbourhoods of a batch of clouds."""

    center_idx: Tensor
    """int64 [B, G], rows of the cloud."""
    centers: Tensor
    """[B, G, 3]."""
    group_idx: Tensor
    """int64 [B, G, K], rows of the cloud, nearest first."""
    offsets: Tensor
    """[B, G, K, 3], neighbours minus their centre."""


def farthest_points(xyz: Tensor, count: int, start: int = 0) -> Tensor:
    """Farthest-point sampling: int64 [B, count] rows of clouds [B, N, 3].

    The first row is `start` (the original draws it at random, so that the same cloud gives a
    different embedding each time). Distances by direct subtraction: the expanded square loses
    digits where points lie close. Of equals, the lowest row wins.
    """
    batch, total, _ = xyz.shape
    chosen = torch.empty(batch, count, dtype=torch.int64, device=xyz.device)
    nearest = torch.full((batch, total), float("inf"), dtype=xyz.dtype, device=xyz.device)
    current = torch.full((batch, 1), start, dtype=torch.int64, device=xyz.device)
    for step in range(count):
        chosen[:, step : step + 1] = current
        point = xyz.gather(1, current[:, :, None].expand(-1, -1, 3))
        nearest = torch.minimum(nearest, (xyz - point).square().sum(-1))
        current = nearest.argmax(-1, keepdim=True)
    return chosen


def neighbourhoods(xyz: Tensor, groups: int, size: int, start: int = 0) -> Groups:
    """Centres by farthest-point sampling, and the `size` nearest points around each.

    Args:
        xyz: float [B, N, 3]; computed in float32.
        groups: number of centres G.
        size: number of neighbours K, the centre among them.
        start: row of the first centre.

    Raises:
        UserError: not [B, N, 3], or fewer than K points.
    """
    if xyz.ndim != 3 or xyz.shape[-1] != 3:
        raise UserError(f"Points must be [batch, points, 3], not {list(xyz.shape)}.")
    if xyz.shape[1] < size:
        raise UserError(
            f"The point encoder needs at least {size} points a cloud, not {xyz.shape[1]}."
        )
    if not 0 <= start < xyz.shape[1]:
        raise UserError(f"The first centre, {start}, is no row of {xyz.shape[1]} points.")
    xyz = xyz.float()
    chosen = farthest_points(xyz, groups, start)
    centers = xyz.gather(1, chosen[:, :, None].expand(-1, -1, 3))
    # One coordinate at a time: [B, G, N, 3] at once would be three times the memory.
    distance = torch.zeros(*chosen.shape, xyz.shape[1], device=xyz.device)
    for axis in range(3):
        distance += (centers[:, :, None, axis] - xyz[:, None, :, axis]).square()
    near = distance.topk(size, largest=False).indices
    rows = near.flatten(1)[:, :, None].expand(-1, -1, 3)
    offsets = xyz.gather(1, rows).unflatten(1, near.shape[1:]) - centers[:, :, None]
    return Groups(chosen, centers, near, offsets)


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class GroupEncoder(nn.Module):
    """The small PointNet: each neighbourhood [.., K, inputs] to one vector [.., features].

    `widths` are those of the three maps between; the released ones for coordinates by default.
    """

    def __init__(
        self, features: int, inputs: int = 3, widths: tuple[int, int, int] = (128, 256, 512)
    ) -> None:
        super().__init__()
        a, b, c = widths
        self.first_conv = nn.Sequential(
            nn.Conv1d(inputs, a, 1), nn.BatchNorm1d(a), nn.ReLU(), nn.Conv1d(a, b, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(2 * b, c, 1), nn.BatchNorm1d(c), nn.ReLU(), nn.Conv1d(c, features, 1)
        )

    def forward(self, offsets: Tensor) -> Tensor:
        lead, size = offsets.shape[:-2], offsets.shape[-2]
        x = _each(self.first_conv[0], offsets.flatten(0, -2))
        x = _each(self.first_conv[3], F.relu(self.first_conv[1](x)))
        x = x.unflatten(0, (-1, size))
        # The next map sees [maximum over the group, point]. The maximum is the same for all points
        # of a group, so its half of the map is taken once a group instead of once a point.
        mix = self.second_conv[0]
        assert isinstance(mix, nn.Conv1d)
        whole, single = mix.weight[:, :, 0].chunk(2, 1)
        x = F.linear(x, single) + F.linear(x.amax(1), whole, mix.bias)[:, None]
        x = _each(self.second_conv[3], F.relu(self.second_conv[1](x.flatten(0, 1))))
        return x.unflatten(0, (-1, size)).amax(1).unflatten(0, lead)


def _each(conv: nn.Module, rows: Tensor) -> Tensor:
    """A convolution of width 1 as what it is: a linear map of each row."""
    weight = conv.weight
    assert isinstance(weight, Tensor)
    bias = conv.bias
    assert isinstance(bias, Tensor)
    return F.linear(rows, weight[:, :, 0], bias)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class PointBlocks(nn.Module):
    """Positions are added before every block, not only the first."""

    def __init__(self, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, width]; `mask` (True: may look) broadcasts to [B, heads, T, T]."""
        for block in self.blocks:
            x = block(x + positions, mask)
        return x


class PointBert(nn.Module):
    """Neighbourhoods to [class token, maximum over the groups]: [B, 2 width]."""

    def __init__(self, config: PointConfig) -> None:
        super().__init__()
        self.encoder = GroupEncoder(config.features)
        self.reduce_dim = nn.Linear(config.features, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Sequential(
            nn.Linear(3, 128), nn.GELU(), nn.Linear(128, config.width)
        )  # fmt: skip
        self.blocks = PointBlocks(config.width, config.blocks, config.heads)
        self.norm = nn.LayerNorm(config.width, eps=1e-5)

    def forward(self, offsets: Tensor, centers: Tensor) -> Tensor:
        """[B, 2 width] of offsets [B, G, K, 3] and centres [B, G, 3]."""
        dtype, batch = self.cls_token.dtype, offsets.shape[0]
        tokens = self.reduce_dim(self.encoder(offsets.to(dtype)))
        tokens = torch.cat((self.cls_token.expand(batch, -1, -1), tokens), 1)
        places = self.pos_embed(centers.to(dtype))
        places = torch.cat((self.cls_pos.expand(batch, -1, -1), places), 1)
        x = self.norm(self.blocks(tokens, places))
        return torch.cat((x[:, 0], x[:, 1:].amax(1)), -1)


class PointTrunk(nn.Module):
    """The point encoder with Point-Bind's projection: clouds [B, N, 3] to [B, projection]."""

    def __init__(self, config: PointConfig) -> None:
        super().__init__()
        self.config = config
        self.point_encoder = PointBert(config)
        self.pc_projection = nn.Parameter(torch.zeros(2 * config.width, config.projection))

    def group(self, points: Tensor, start: int = 0) -> Groups:
        """The neighbourhoods of clouds [B, N, 3]; a loop of many small steps, not for compiling."""
        return neighbourhoods(points, self.config.groups, self.config.group_size, start)

    def grouped(self, offsets: Tensor, centers: Tensor) -> Tensor:
        """What follows the sampling (made for `torch.compile`): [B, projection]."""
        return self.point_encoder(offsets, centers) @ self.pc_projection

    def forward(self, points: Tensor) -> Tensor:
        groups = self.group(points)
        return self.grouped(groups.offsets, groups.centers)
