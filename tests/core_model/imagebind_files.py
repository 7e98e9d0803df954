"""ImageBind files for tests: the tiny fixtures, and the official names and shapes without the data.

The manifest is written from what is published about the files, not from our model: a wrong name or
size in the model fails against it.
"""

from __future__ import annotations

import json
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(
    os.environ.get("ANYBIND_PARITY_DIR") or Path(__file__).parent.parent / "data" / "parity"
)
Manifest = dict[str, tuple[int, ...]]

TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "vision": {"heads": 4}, "text": {"heads": 6}, "audio": {"heads": 4}, "depth": {"heads": 4},
    "thermal": {"heads": 4}, "imu": {"heads": 2},
    "point": {"heads": 4, "groups": 64, "group_size": 16},
}  # fmt: skip


@cache
def tiny() -> dict[str, Tensor]:
    """A complete tiny `imagebind_w3D.pth`."""
    names = ("imagebind_tiny", "point_tiny")
    return {k: v for n in names for k, v in load_file(FOLDER / f"{n}.safetensors").items()}


@cache
def arrays() -> dict[str, Any]:
    """Inputs and expected outputs; those of the point encoder under "point." names."""
    found = dict(np.load(FOLDER / "imagebind_tiny_io.npz"))
    return found | {f"point.{k}": v for k, v in np.load(FOLDER / "point_tiny_io.npz").items()}


# ---------------------------------------------------------------- the official files


def _linear(out: Manifest, name: str, rows: int, columns: int) -> None:
    out[f"{name}.weight"], out[f"{name}.bias"] = (rows, columns), (rows,)


def _norm(out: Manifest, name: str, width: int) -> None:
    out[f"{name}.weight"] = out[f"{name}.bias"] = (width,)


def _convolutions(out: Manifest, name: str, first: int, second: int, last: int) -> None:
    """Two convolutions of width 1 with a batch norm between."""
    out[f"{name}.0.weight"], out[f"{name}.0.bias"] = (second, first, 1), (second,)
    _norm(out, f"{name}.1", second)
    out[f"{name}.1.running_mean"] = out[f"{name}.1.running_var"] = (second,)
    out[f"{name}.1.num_batches_tracked"] = ()
    out[f"{name}.3.weight"], out[f"{name}.3.bias"] = (last, second, 1), (last,)


def huge() -> Manifest:
    """`imagebind_huge.pth`: 1,311 tensors."""
    out: Manifest = {}
    pre, joint = "modality_preprocessors", 1024
    out[f"{pre}.vision.cls_token"] = (1, 1, 1280)
    out[f"{pre}.vision.rgbt_stem.proj.1.weight"] = (1280, 3, 2, 14, 14)
    out[f"{pre}.vision.pos_embedding_helper.pos_embed"] = (1, 257, 1280)
    out[f"{pre}.text.token_embedding.weight"] = (49408, 1024)
    out[f"{pre}.text.pos_embed"] = (1, 77, 1024)
    out[f"{pre}.text.mask"] = (77, 77)
    for m, stem, width, places in (
        ("audio", "rgbt_stem", 768, 229),
        ("depth", "depth_stem", 384, 197),
        ("thermal", "rgbt_stem", 768, 197),
    ):
        out[f"{pre}.{m}.cls_token"] = (1, 1, width)
        out[f"{pre}.{m}.{stem}.proj.weight"] = (width, 1, 16, 16)
        _norm(out, f"{pre}.{m}.{stem}.norm_layer", width)
        out[f"{pre}.{m}.pos_embedding_helper.pos_embed"] = (1, places, width)
    out[f"{pre}.imu.cls_token"] = (1, 1, 512)
    out[f"{pre}.imu.pos_embed"] = (1, 251, 512)
    out[f"{pre}.imu.imu_stem.proj.weight"] = (512, 48)
    _norm(out, f"{pre}.imu.imu_stem.norm_layer", 512)
    for m, width, blocks, extra in (
        ("vision", 1280, 32, False), ("text", 1024, 24, False), ("audio", 768, 12, True),
        ("depth", 384, 12, True), ("thermal", 768, 12, True), ("imu", 512, 6, True),
    ):  # fmt: skip
        if m == "vision":
            _norm(out, "modality_trunks.vision.pre_transformer_layer.0", width)
        for i in range(blocks):
            block = f"modality_trunks.{m}.blocks.{i}"
            out[f"{block}.attn.in_proj_weight"] = (3 * width, width)
            out[f"{block}.attn.in_proj_bias"] = (3 * width,)
            _linear(out, f"{block}.attn.out_proj", width, width)
            if extra:
                out[f"{block}.attn.bias_k"] = out[f"{block}.attn.bias_v"] = (1, 1, width)
            _norm(out, f"{block}.norm_1", width)
            _norm(out, f"{block}.norm_2", width)
            _linear(out, f"{block}.mlp.fc1", 4 * width, width)
            _linear(out, f"{block}.mlp.fc2", width, 4 * width)
        head = f"modality_heads.{m}" + (".proj" if m == "text" else "")
        _norm(out, f"{head}.0", width)
        place = {"text": 1, "imu": 3}.get(m, 2)
        out[f"{head}.{place}.weight"] = (joint, width)
        if m != "vision":
            out[f"modality_postprocessors.{m}.1.log_logit_scale"] = ()
    return out


def point_encoder(prefix: str = "point_trunk.point_encoder") -> Manifest:
    """Point-BERT's tensors in the released size."""
    out: Manifest = {f"{prefix}.cls_token": (1, 1, 384), f"{prefix}.cls_pos": (1, 1, 384)}
    for name, a, b, c in (("first_conv", 3, 128, 256), ("second_conv", 512, 512, 256)):
        _convolutions(out, f"{prefix}.encoder.{name}", a, b, c)
    _linear(out, f"{prefix}.reduce_dim", 384, 256)
    _linear(out, f"{prefix}.pos_embed.0", 128, 3)
    _linear(out, f"{prefix}.pos_embed.2", 384, 128)
    for i in range(12):
        block = f"{prefix}.blocks.blocks.{i}"
        _norm(out, f"{block}.norm1", 384)
        _norm(out, f"{block}.norm2", 384)
        out[f"{block}.attn.qkv.weight"] = (1152, 384)
        _linear(out, f"{block}.attn.proj", 384, 384)
        _linear(out, f"{block}.mlp.fc1", 1536, 384)
        _linear(out, f"{block}.mlp.fc2", 384, 1536)
    _norm(out, f"{prefix}.norm", 384)
    return out


def w3d() -> Manifest:
    """`imagebind_w3D.pth`: 1,476 tensors, 1,223,565,617 elements."""
    out = huge() | point_encoder()
    out["point_trunk.pc_projection"] = (768, 512)
    _norm(out, "modality_heads.point.0", 512)
    out["modality_heads.point.2.weight"] = (1024, 512)
    out["modality_postprocessors.point.1.log_logit_scale"] = ()
    return out


def pointbind() -> Manifest:
    """`pointbind_pointbert.pt`: ImageBind under "bind.", the point encoder at the top."""
    out: Manifest = {f"bind.{name}": shape for name, shape in huge().items()}
    out |= point_encoder("point_encoder")
    out["logit_scale"], out["pc_projection"] = (), (768, 512)
    _norm(out, "bind.modality_head_point.0", 512)
    out["bind.modality_head_point.2.weight"] = (1024, 512)
    out["bind.modality_postprocessor_point.1.log_logit_scale"] = ()
    return out


def hierarchy(
    prefix: str = "point_trunk.point_encoder",
    widths: tuple[int, ...] = (96, 192, 384),
    blocks: tuple[int, ...] = (5, 5, 5),
) -> Manifest:
    """I2P-MAE's tensors, in the released size unless told otherwise."""
    out: Manifest = {}
    below = 3
    for i, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
        a, b, c = (128, 256, 512) if below == 3 else (below, below, width)
        for name, first, second, last in (
            ("first_conv", below, a, b), ("second_conv", 2 * b, c, width),
        ):  # fmt: skip
            conv = f"{prefix}.h_encoder.token_embed.{i}.{name}"
            _convolutions(out, conv, first, second, last)
        _linear(out, f"{prefix}.h_encoder.encoder_pos_embeds.{i}.0", width, 3)
        _linear(out, f"{prefix}.h_encoder.encoder_pos_embeds.{i}.2", width, width)
        for j in range(depth):
            block = f"{prefix}.h_encoder.encoder_blocks.{i}.blocks.{j}"
            _norm(out, f"{block}.norm1", width)
            _norm(out, f"{block}.norm2", width)
            out[f"{block}.attn.qkv.weight"] = (3 * width, width)
            _linear(out, f"{block}.attn.proj", width, width)
            _linear(out, f"{block}.mlp.fc1", 4 * width, width)
            _linear(out, f"{block}.mlp.fc2", width, 4 * width)
        below = width
    _norm(out, f"{prefix}.norm", below)
    return out


def i2pmae() -> Manifest:
    """`pointbind_i2pmae.pt`."""
    known = point_encoder("point_encoder")
    out = {name: shape for name, shape in pointbind().items() if name not in known}
    return out | hierarchy("point_encoder") | {"pc_projection": (384, 512)}


def drawn(manifest: Manifest) -> dict[str, Tensor]:
    """Weights that are the same everywhere: drawn in the order of their names, seed 7."""
    random = np.random.default_rng(7)
    out: dict[str, Tensor] = {}
    for name in sorted(manifest):
        shape = manifest[name]
        if name.endswith("num_batches_tracked"):
            out[name] = torch.tensor(3)
            continue
        value = random.normal(0, 1, shape)
        if name.endswith("running_var"):
            value = 0.5 + np.abs(value)
        elif len(shape) < 2:
            value = float(name.endswith(".weight")) + 0.2 * value
        else:
            value = value / np.sqrt(shape[1])
        out[name] = torch.from_numpy(np.asarray(value, np.float32))
    return out


def mask(side: int = 77) -> Tensor:
    return torch.full((side, side), float("-inf")).triu(1)


def hollow(manifest: Manifest) -> dict[str, Tensor]:
    """Tensors of these shapes over one element each: saved, they take next to no room."""
    out: dict[str, Tensor] = {}
    for name, shape in manifest.items():
        kind = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        out[name] = mask() if name.endswith("text.mask") else torch.ones((), dtype=kind)
        if not name.endswith("text.mask"):
            out[name] = out[name].expand(shape)
    return out


def write_sparse(path: Path, manifest: Manifest, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file of these shapes, all zeros, as a hole on the disk."""
    counted = [n for n in manifest if n.endswith("num_batches_tracked")]
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end, at = 0, -1
    for name in [*counted, *(n for n in manifest if n not in counted)]:
        kind, width = ("I64", 8) if name in counted else ("F32", 4)
        start, end = end, end + width * int(np.prod(manifest[name], dtype=np.int64))
        at = start if name.endswith("text.mask") else at
        header[name] = {"dtype": kind, "shape": manifest[name], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if at >= 0:
            file.seek(8 + len(text) + at)
            file.write(mask().numpy().tobytes())
        file.truncate(8 + len(text) + end)
