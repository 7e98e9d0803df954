"""I2P-MAE's hierarchical point encoder, as Point-Bind's `pointbind_i2pmae.pt` holds it.

Three levels (Zhang et al. 2023): centres among the points, then among those centres, then again; a
token of a level is made of the tokens of its neighbourhood one level below, and looks only at tokens
within a radius. Attribute names give the tensor names below `point_trunk.` once the converter has
put the file under the names of `imagebind_w3D.pth`. Plain torch: the original needs a CUDA library
for the neighbours. Inference only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anybind.core_model.encoders.point_bert import GroupEncoder, PointBlocks, neighbourhoods


@dataclass(frozen=True, slots=True)
class HierarchyConfig:
    """Sizes, one number a level. The defaults are those of the released weights."""

    width: tuple[int, ...] = (96, 192, 384)
    blocks: tuple[int, ...] = (5, 5, 5)
    heads: int = 6
    groups: tuple[int, ...] = (512, 256, 64)
    group_size: tuple[int, ...] = (48, 24, 24)
    radius: tuple[float, ...] = (0.24, 0.48, 0.96)
    """Tokens that are this far apart, or farther, do not see each other."""
    projection: int = 512


class _Levels(nn.Module):
    def __init__(self, config: HierarchyConfig) -> None:
        super().__init__()
        self.config = config
        embed, places, blocks = [], [], []
        below = 3
        for width, depth in zip(config.width, config.blocks, strict=True):
            inner = (128, 256, 512) if below == 3 else (below, below, width)
            embed.append(GroupEncoder(width, below, inner))
            places.append(nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width)))
            blocks.append(PointBlocks(width, depth, config.heads))
            below = width
        self.token_embed = nn.ModuleList(embed)
        self.encoder_pos_embeds = nn.ModuleList(places)
        self.encoder_blocks = nn.ModuleList(blocks)

    def forward(self, points: Tensor) -> Tensor:
        """[B, N, 3] to the tokens of the last level [B, G, width]."""
        dtype = next(self.parameters()).dtype
        config, cloud, x = self.config, points.float(), None
        for level, (count, size) in enumerate(zip(config.groups, config.group_size, strict=True)):
            groups = neighbourhoods(cloud, count, size)
            if x is None:
                inside = groups.offsets.to(dtype)
            else:
                rows = groups.group_idx.flatten(1)[:, :, None].expand(-1, -1, x.shape[-1])
                inside = x.gather(1, rows).unflatten(1, groups.group_idx.shape[1:])
            cloud = groups.centers
            apart = (cloud[:, :, None] - cloud[:, None]).square().sum(-1).sqrt()
            near = (apart < config.radius[level])[:, None]
            places = self.encoder_pos_embeds[level](cloud.to(dtype))
            x = self.encoder_blocks[level](self.token_embed[level](inside), places, near)
        assert x is not None
        return x


class PointHierarchy(nn.Module):
    """Clouds [B, N, 3] to mean plus maximum over the last level's tokens [B, width]."""

    def __init__(self, config: HierarchyConfig) -> None:
        super().__init__()
        self.h_encoder = _Levels(config)
        self.norm = nn.LayerNorm(config.width[-1], eps=1e-5)

    def forward(self, points: Tensor) -> Tensor:
        x = self.norm(self.h_encoder(points))
        return x.mean(1) + x.amax(1)


class HierarchyTrunk(nn.Module):
    """The hierarchical encoder with Point-Bind's projection: [B, N, 3] to [B, projection]."""

    def __init__(self, config: HierarchyConfig) -> None:
        super().__init__()
        self.config = config
        self.point_encoder = PointHierarchy(config)
        self.pc_projection = nn.Parameter(torch.zeros(config.width[-1], config.projection))

    def forward(self, points: Tensor) -> Tensor:
        return self.point_encoder(points) @ self.pc_projection
