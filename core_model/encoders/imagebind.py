"""ImageBind: six modalities into one space of 1,024 numbers (Girdhar et al. 2023, appendix B).

One class, `ImageBind`: stem, transformer, head and scale of each modality; the seventh, point
clouds, is `point_bert`. Attribute names give the tensor names of `imagebind_huge.pth` and
`imagebind_w3D.pth`, so loading needs no table. Knows tensors only: no file (`imagebind_weights`), no
picture, sound or text (`imagebind_encoder`). Inference only.

Three outputs (`Outputs`), which users of the original mix up:

- `raw`: the head's output; for generators of pictures, which start from it.
- `scaled`: `raw` at length 1, times the modality's logit scale (vision none, text learned, audio 20,
  depth 5, thermal 10, imu 5, point 1; 100 at most): what the original returns. Good for the logits
  of one modality against another; its length means nothing.
- `unit`: `scaled` at length 1. Cosines, mixing, search and the language model want this one.

Of several clips, `raw` and `scaled` are means over the clips (the mean of `scaled` is not brought
back to its length, as in the original), `unit` is the direction of the mean of `scaled`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.core_model.encoders.imagebind_config import ImageBindConfig, TowerConfig
from anybind.core_model.encoders.point_bert import Groups, Mlp, PointTrunk
from anybind.core_model.encoders.point_hierarchy import HierarchyConfig, HierarchyTrunk
from anybind.errors import UserError

MAX_SCALE = 100.0
"""The logit scale is cut here."""


_RANK = {"vision": 4, "text": 2, "audio": 4, "depth": 4, "thermal": 4, "imu": 3, "point": 3}


class Outputs(NamedTuple):
    """What a batch becomes, float32 [B, C] each; the module's docstring tells them apart."""

    unit: Tensor
    scaled: Tensor
    raw: Tensor


# ---------------------------------------------------------------- stems: input to tokens


class _Repeat(nn.Module):
    """A still picture [B, C, H, W] as a film of `frames` equal frames; films pass."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, self.frames, -1, -1) if x.ndim == 4 else x


class _Stem(nn.Module):
    """Patches to vectors. Vision has no norm here (it has one before the transformer)."""

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        width, kernel, stride = tower.width, tower.kernel, tower.stride
        if tower.channels == 6:
            self.proj = nn.Linear(tower.channels * kernel, width, bias=False)
        elif tower.frames > 1:
            conv = nn.Conv3d(
                tower.channels,
                width,
                (tower.frames, kernel, kernel),
                (tower.frames, stride, stride),
                bias=False,
            )
            self.proj = nn.Sequential(_Repeat(tower.frames), conv)
        else:
            self.proj = nn.Conv2d(tower.channels, width, kernel, stride, bias=False)
        self.norm_layer = nn.LayerNorm(width, eps=1e-5) if tower.frames == 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return self.norm_layer(x if x.ndim == 3 else x.flatten(2).transpose(1, 2))


class _Positions(nn.Module):
    """A learned vector for the class token and for each patch of a grid."""

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.grid = tower.grid
        down, across = self.grid
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + down * across, tower.width))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """[1, 1 + patches, width]; the table is resized bicubically for another grid."""
        if grid == self.grid:
            return self.pos_embed
        first, table = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        table = table.unflatten(1, self.grid).permute(0, 3, 1, 2).float()
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        return torch.cat((first, table.flatten(2).transpose(1, 2).to(first.dtype)), 1)


class _Pixels(nn.Module):
    """Vision, audio, depth, thermal: class token and patches, with positions."""

    def __init__(self, tower: TowerConfig, stem: str) -> None:
        super().__init__()
        self.tower, self.stem = tower, stem
        self.cls_token = nn.Parameter(torch.zeros(1, 1, tower.width))
        self.add_module(stem, _Stem(tower))
        self.pos_embedding_helper = _Positions(tower)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] or [B, C, T, H, W] to [B, 1 + patches, width]."""
        grid = self.tower.patches(x.shape[-2], x.shape[-1])
        tokens = getattr(self, self.stem)(x.to(self.cls_token.dtype))
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), tokens), 1)
        return tokens + self.pos_embedding_helper(grid)


class _Motion(nn.Module):
    """IMU: pieces of 8 steps of all 6 channels, with class token and positions."""

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.tower = tower
        self.cls_token = nn.Parameter(torch.zeros(1, 1, tower.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + tower.grid[1], tower.width))
        self.imu_stem = _Stem(tower)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 6, steps] to [B, 1 + pieces, width]."""
        pieces = x.to(self.cls_token.dtype).unfold(-1, self.tower.kernel, self.tower.stride)
        tokens = self.imu_stem(pieces.transpose(1, 2).flatten(2))
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), tokens), 1)
        return tokens + self.pos_embed


class _Words(nn.Module):
    """Text: token vectors plus positions. `mask` is in the files; attention is causal by itself."""

    mask: Tensor

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(tower.vocabulary, tower.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, tower.context, tower.width))
        # Made on the CPU even for a model without memory: `triu` there loads half of the compiler.
        bare = torch.full((tower.context, tower.context), float("-inf"), device="cpu")
        self.register_buffer("mask", bare.triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, T] to [B, T, width], T up to the context length."""
        return self.token_embedding(ids) + self.pos_embed[:, : ids.shape[1]]


# ---------------------------------------------------------------- transformer


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias_kv: bool) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.bias_k = nn.Parameter(torch.zeros(1, 1, width)) if bias_kv else None
        self.bias_v = nn.Parameter(torch.zeros(1, 1, width)) if bias_kv else None
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool, first: bool) -> Tensor:
        width = x.shape[-1]
        if first:  # only the class token asks; all answer
            weight, bias = self.in_proj_weight, self.in_proj_bias
            q = F.linear(x[:, :1], weight[:width], bias[:width])
            k, v = F.linear(x, weight[width:], bias[width:]).split(width, -1)
        else:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).split(width, -1)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat((k, self.bias_k.expand(x.shape[0], -1, -1)), 1)
            v = torch.cat((v, self.bias_v.expand(x.shape[0], -1, -1)), 1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(tower.width, eps=1e-6)
        self.attn = _Attention(tower.width, tower.heads, tower.bias_kv)
        self.norm_2 = nn.LayerNorm(tower.width, eps=1e-6)
        self.mlp = Mlp(tower.width)

    def forward(self, x: Tensor, causal: bool, first: bool) -> Tensor:
        kept = x[:, :1] if first else x
        x = kept + self.attn(self.norm_1(x), causal, first)
        return x + self.mlp(self.norm_2(x))


class _Trunk(nn.Module):
    def __init__(self, tower: TowerConfig, modality: str) -> None:
        super().__init__()
        self.causal = modality == "text"
        norm = [nn.LayerNorm(tower.width, eps=1e-6)] if modality == "vision" else []
        self.pre_transformer_layer = nn.Sequential(*norm)
        self.blocks = nn.ModuleList(_Block(tower) for _ in range(tower.blocks))

    def forward(self, x: Tensor, first: bool = False) -> Tensor:
        """[B, T, width] to the same, or with `first` only to the class token's row [B, 1, width].

        The head reads that row alone, so the last block need not compute the others.
        """
        x = self.pre_transformer_layer(x)
        last = len(self.blocks) - 1
        for place, block in enumerate(self.blocks):
            x = block(x, self.causal, first and place == last)
        return x


# ---------------------------------------------------------------- heads


class _TextHead(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, unit: Tensor) -> Tensor:
        return unit * self.log_logit_scale.float().exp().clamp(max=MAX_SCALE)


def _head(modality: str, width: int, dim: int) -> nn.Module:
    if modality == "text":
        return _TextHead(width, dim)
    # Steps without weights (taking the class token, dropout) keep their place in the numbering.
    gaps = [nn.Identity() for _ in range(2 if modality == "imu" else 1)]
    norm = nn.LayerNorm(width, eps=1e-6)
    return nn.Sequential(norm, *gaps, nn.Linear(width, dim, bias=False))


def _stem(modality: str, tower: TowerConfig) -> nn.Module:
    if modality == "text":
        return _Words(tower)
    if modality == "imu":
        return _Motion(tower)
    return _Pixels(tower, "depth_stem" if modality == "depth" else "rgbt_stem")


# ---------------------------------------------------------------- the model


class ImageBind(nn.Module):
    """Tensors of some modalities to `Outputs`."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        self.config = config
        stems, trunks, heads, scales = ({} for _ in range(4))
        for modality, tower in config.towers.items():
            stems[modality] = _stem(modality, tower)
            trunks[modality] = _Trunk(tower, modality)
            heads[modality] = _head(modality, tower.width, config.dim)
        if config.point is not None:
            if isinstance(config.point, HierarchyConfig):
                self.point_trunk = HierarchyTrunk(config.point)
            else:
                self.point_trunk = PointTrunk(config.point)
            heads["point"] = _head("point", config.point.projection, config.dim)
        for modality in config.modalities:
            if modality != "vision":
                scales[modality] = nn.Sequential(nn.Identity(), _Scale())
        self.modality_preprocessors = nn.ModuleDict(stems)
        self.modality_trunks = nn.ModuleDict(trunks)
        self.modality_heads = nn.ModuleDict(heads)
        self.modality_postprocessors = nn.ModuleDict(scales)

    def forward(self, modality: str, inputs: Tensor | Groups) -> Outputs:
        """Embed a batch of one modality.

        Args:
            modality: "vision" [B, 3, H, W]; "text" int64 [B, T <= 77]; "audio" [B, 1, 128, 204];
                "depth" and "thermal" [B, 1, H, W]; "imu" [B, 6, 2000]; "point" [B, N, 3], or the
                `Groups` of such clouds (Point-BERT). With one axis more, [B, S, ...], the S clips (or pictures)
                of an item are averaged. Films are always clips: [B, S, 3, 2, H, W]; a vision
                tensor of five axes is a set of pictures, its second axis is never time.
            inputs: the tensor; numbers are cast to the precision of the weights.

        Raises:
            UserError: the model does not hold the modality, or the shape is not one of these.
        """
        if isinstance(inputs, Groups):
            trunk = getattr(self, "point_trunk", None)
            if modality != "point" or not isinstance(trunk, PointTrunk):
                raise UserError(
                    f"Groups of points are for the modality point of a Point-BERT; give {modality} "
                    "to this ImageBind as a tensor."
                )
            point = trunk.grouped(inputs.offsets, inputs.centers)
            return self._finish(modality, self.modality_heads["point"](point), 0)
        flat, clips = self._fold(modality, inputs)
        return self._finish(modality, self._raw(modality, flat), clips)

    def _raw(self, modality: str, x: Tensor) -> Tensor:
        """Head outputs [B, C], in the precision of the weights."""
        head = self.modality_heads[modality]
        if modality == "point":
            return head(self.point_trunk(x))
        tokens = self.modality_preprocessors[modality](x)
        if modality != "text":
            return head(self.modality_trunks[modality](tokens, first=True)[:, 0])
        states = self.modality_trunks["text"](tokens)
        # The end of the text is its largest id.
        end = x.argmax(-1)[:, None, None].expand(-1, -1, states.shape[-1])
        return head(states.gather(1, end)[:, 0])

    def _finish(self, modality: str, raw: Tensor, clips: int) -> Outputs:
        raw = raw.float()
        scaled = F.normalize(raw, dim=-1)
        if modality != "vision":
            scaled = self.modality_postprocessors[modality](scaled)
        if clips:
            raw, scaled = (t.unflatten(0, (-1, clips)).mean(1) for t in (raw, scaled))
        return Outputs(F.normalize(scaled, dim=-1), scaled, raw)

    def _fold(self, modality: str, x: Tensor) -> tuple[Tensor, int]:
        """[B, S, ...] as [B * S, ...] and S, or the batch as it is and 0."""
        if modality not in self.modality_heads:
            held = ", ".join(self.config.modalities)
            raise UserError(f"This ImageBind holds {held}; {modality!r} was not loaded.")
        rank, shape = _RANK[modality], list(x.shape)
        films = modality == "vision" and x.ndim == 6
        if x.ndim not in (rank, rank + 1) and not films:
            raise UserError(f"{modality} takes {rank} axes (or {rank + 1}: clips), not {shape}.")
        clips = 0 if x.ndim == rank else int(x.shape[1])
        flat = x.flatten(0, 1) if clips else x
        if modality == "text":
            context = self.config.towers["text"].context
            if flat.shape[1] > context:
                raise UserError(f"Texts have {context} ids at most, not {shape}.")
        elif modality != "point":
            _check(modality, self.config.towers[modality], flat, shape)
        return flat, clips


def _check(modality: str, tower: TowerConfig, flat: Tensor, shape: list[int]) -> None:
    """Raise a `UserError` unless channels, frames and sizes of [B, C, ...] fit the tower."""
    if flat.shape[1] != tower.channels:
        hint = " One film is [B, 1, 3, frames, H, W]." if modality == "vision" else ""
        raise UserError(f"{modality} has {tower.channels} channels, not {shape}.{hint}")
    if flat.ndim == 5 and flat.shape[2] != tower.frames:
        raise UserError(f"A clip has {tower.frames} frames, not {shape}.")
    if modality == "imu" and flat.shape[-1] != tower.size[1]:
        raise UserError(f"imu takes {tower.size[1]} steps, not {shape}.")
    if modality != "imu" and min(flat.shape[-2:]) < tower.kernel:
        raise UserError(f"{modality} is smaller than a patch of {tower.kernel}: {shape}.")
