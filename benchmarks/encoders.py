"""Throughput of the ImageBind towers at their released sizes, against the same maths written plainly.

Weights are random: speed does not depend on them, and the outputs of both are compared. The plain
version is what a textbook has: three projections, scores = q k^T / sqrt(d), softmax, weights times
v, every row of every block, the neighbourhoods of points by the expanded square, the small PointNet
on the concatenation. Both use the same tensors, the same thread count and the same run, by turns.
`text-short` shows what the encoder does with 14 words: 16 ids instead of 77, with the same result.
Run: `python benchmarks/encoders.py` (all towers need about 5 GB).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.encoders.imagebind import ImageBind
from anybind.core_model.encoders.imagebind_config import OFFICIAL, ImageBindConfig
from anybind.core_model.encoders.point_bert import PointConfig, farthest_points

SHAPES: dict[str, tuple[int, ...]] = {
    "vision": (3, 224, 224),
    "text": (77,),
    "text-short": (77,),
    "audio": (3, 1, 128, 204),
    "depth": (1, 224, 224),
    "thermal": (1, 224, 224),
    "imu": (6, 2000),
    "point": (8192, 3),
    "video": (15, 3, 2, 224, 224),
}
"""One item: audio is three clips of two seconds, a film five clips of three crops."""
DEFAULT = ("vision", "text", "text-short", "audio", "depth", "thermal", "imu", "point")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT = 16


# ---------------------------------------------------------------- the same maths, plainly


class Plain:
    """ImageBind's forward pass from a table of tensors, one textbook step after the other."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def __call__(self, modality: str, x: Tensor) -> Tensor:
        """Unit embeddings [B, C]."""
        heads = PointConfig().heads if modality == "point" else OFFICIAL[modality].heads
        clips = x.shape[1] if modality == "audio" or x.ndim == 6 else 0
        if clips:
            x = x.flatten(0, 1)
        raw = self.point(x, heads) if modality == "point" else self.tower(modality, x, heads)
        unit = raw.float() / raw.float().norm(dim=-1, keepdim=True)
        if clips:
            unit = unit.unflatten(0, (-1, clips)).mean(1)
        return unit / unit.norm(dim=-1, keepdim=True)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[name + ".weight"], self.state.get(name + ".bias"))

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        weight, bias = self.state[name + ".weight"], self.state[name + ".bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if causal:
            scores = scores + torch.full_like(scores[0, 0], float("-inf")).triu(1)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def tower(self, modality: str, x: Tensor, heads: int) -> Tensor:
        s, stem = self.state, f"modality_preprocessors.{modality}."
        ids = x
        if modality == "text":
            x = F.embedding(ids, s[stem + "token_embedding.weight"]) + s[stem + "pos_embed"]
        else:
            x = x.to(s[stem + "cls_token"].dtype)
            if modality == "vision":
                film = x if x.ndim == 5 else torch.stack((x, x), 2)
                x = F.conv3d(film, s[stem + "rgbt_stem.proj.1.weight"], stride=(2, 14, 14))
                x = x.flatten(2).transpose(1, 2)
            elif modality == "imu":
                x = x.unflatten(-1, (-1, 8)).transpose(1, 2).flatten(2)
                x = self.norm(
                    stem + "imu_stem.norm_layer", self.linear(stem + "imu_stem.proj", x), 1e-5
                )
            else:
                name = stem + ("depth_stem" if modality == "depth" else "rgbt_stem")
                x = F.conv2d(x, s[name + ".proj.weight"], stride=10 if modality == "audio" else 16)
                x = self.norm(name + ".norm_layer", x.flatten(2).transpose(1, 2), 1e-5)
            places = stem + ("" if modality == "imu" else "pos_embedding_helper.") + "pos_embed"
            x = torch.cat((s[stem + "cls_token"].expand(len(x), -1, -1), x), 1) + s[places]
        trunk = f"modality_trunks.{modality}."
        if modality == "vision":
            x = self.norm(trunk + "pre_transformer_layer.0", x, 1e-6)
        for i in range(OFFICIAL[modality].blocks):
            x = self.block(f"{trunk}blocks.{i}.", x, heads, modality == "text")
        head = f"modality_heads.{modality}."
        if modality == "text":
            x = x[torch.arange(len(x)), ids.argmax(-1)]
            return self.linear(head + "proj.1", self.norm(head + "proj.0", x, 1e-6))
        last = head + ("3" if modality == "imu" else "2")
        return self.linear(last, self.norm(head + "0", x, 1e-6)[:, 0])

    def block(self, name: str, x: Tensor, heads: int, causal: bool) -> Tensor:
        s, y = self.state, self.norm(name + "norm_1", x, 1e-6)
        weights = s[name + "attn.in_proj_weight"].chunk(3)
        biases = s[name + "attn.in_proj_bias"].chunk(3)
        q, k, v = (F.linear(y, w, b) for w, b in zip(weights, biases, strict=True))
        if name + "attn.bias_k" in s:
            k = torch.cat((k, s[name + "attn.bias_k"].expand(len(k), -1, -1)), 1)
            v = torch.cat((v, s[name + "attn.bias_v"].expand(len(v), -1, -1)), 1)
        x = x + self.linear(name + "attn.out_proj", self.attend(q, k, v, heads, causal))
        y = F.gelu(self.linear(name + "mlp.fc1", self.norm(name + "norm_2", x, 1e-6)))
        return x + self.linear(name + "mlp.fc2", y)

    def conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv1d(x, self.state[name + ".weight"], self.state[name + ".bias"])

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{key}"] for key in keys))

    def point(self, xyz: Tensor, heads: int) -> Tensor:
        s, config, name = self.state, PointConfig(), "point_trunk.point_encoder."
        rows = torch.arange(len(xyz))[:, None]
        centers = xyz[rows, farthest_points(xyz, config.groups)]
        square = (centers**2).sum(-1)[:, :, None] + (xyz**2).sum(-1)[:, None, :]
        near = (square - 2 * centers @ xyz.transpose(1, 2)).topk(config.group_size, largest=False)
        offsets = xyz[rows[:, :, None], near.indices] - centers[:, :, None]
        dtype = s[name + "cls_token"].dtype
        x = offsets.flatten(0, 1).transpose(1, 2).to(dtype)  # [B G, 3, K]
        first, second = name + "encoder.first_conv.", name + "encoder.second_conv."
        x = self.conv(first + "3", self.batch_norm(first + "1", self.conv(first + "0", x)).relu())
        whole = x.max(-1, keepdim=True).values.expand(-1, -1, x.shape[-1])
        x = self.conv(second + "0", torch.cat((whole, x), 1))
        x = self.conv(second + "3", self.batch_norm(second + "1", x).relu()).max(-1).values
        x = self.linear(name + "reduce_dim", x.unflatten(0, (len(xyz), -1)))
        x = torch.cat((s[name + "cls_token"].expand(len(x), -1, -1), x), 1)
        places = F.gelu(self.linear(name + "pos_embed.0", centers.to(dtype)))
        places = self.linear(name + "pos_embed.2", places)
        places = torch.cat((s[name + "cls_pos"].expand(len(x), -1, -1), places), 1)
        for i in range(config.blocks):
            block = f"{name}blocks.blocks.{i}."
            x = x + places
            qkv = self.linear(block + "attn.qkv", self.norm(block + "norm1", x, 1e-5))
            x = x + self.linear(block + "attn.proj", self.attend(*qkv.chunk(3, -1), heads))
            y = F.gelu(self.linear(block + "mlp.fc1", self.norm(block + "norm2", x, 1e-5)))
            x = x + self.linear(block + "mlp.fc2", y)
        x = self.norm(name + "norm", x, 1e-5)
        x = torch.cat((x[:, 0], x[:, 1:].max(1).values), -1) @ s["point_trunk.pc_projection"]
        return self.linear("modality_heads.point.2", self.norm("modality_heads.point.0", x, 1e-6))


# ---------------------------------------------------------------- measuring


def random_model(tower: str, dtype: torch.dtype) -> ImageBind:
    """One tower at its released size, with weights of a sensible spread."""
    point = PointConfig() if tower == "point" else None
    with torch.device("meta"):
        model = ImageBind(ImageBindConfig(1024, {} if point else {tower: OFFICIAL[tower]}, point))
    state: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.int64)
        elif name.endswith(("norm.weight", "running_var")) or value.ndim == 1 and "weight" in name:
            state[name] = torch.ones(value.shape, dtype=dtype)
        else:
            state[name] = torch.empty(value.shape, dtype=dtype).normal_(
                0, 0.02, generator=generator
            )
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def inputs(case: str, batch: int) -> Tensor:
    """Random items of one case [batch, ...]."""
    generator = torch.Generator().manual_seed(1)
    if not case.startswith("text"):
        return torch.randn(batch, *SHAPES[case], generator=generator)
    ids = torch.randint(1, 49_000, (batch, 77), generator=generator)
    if case == "text-short":
        ids[:, SHORT:] = 0
        ids[:, SHORT - 1] = 49_407
    else:
        ids[:, -1] = 49_407
    return ids


def by_turns(
    functions: dict[str, Callable[[], Tensor]], seconds: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Median seconds of each function, called in turn after one call to warm up; and results."""
    results = {name: function() for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    while len(times["ours"]) < 3 or time.perf_counter() - start < seconds:
        for name, function in functions.items():
            before = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - before)
    return {name: statistics.median(taken) for name, taken in times.items()}, results


@torch.inference_mode()
def measure(case: str, model: ImageBind, batch: int, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    tower = {"text-short": "text", "video": "vision"}.get(case, case)
    x = inputs(case, batch)
    ours = x[:, :SHORT] if case == "text-short" else x
    plain = Plain(dict(model.state_dict()))
    taken, results = by_turns(
        {"ours": lambda: model(tower, ours).unit, "plain": lambda: plain(tower, x)}, seconds
    )
    cosine = (results["ours"] * results["plain"]).sum(-1)
    if float(cosine.min()) < (0.9999 if next(model.parameters()).dtype == torch.float32 else 0.99):
        raise SystemExit(f"{case}: the two do not agree (cosine {float(cosine.min()):.5f})")
    return {
        "case": case,
        "batch": batch,
        "ours_per_second": batch / taken["ours"],
        "plain_per_second": batch / taken["plain"],
        "ratio": taken["plain"] / taken["ours"],
        "lowest_cosine": float(cosine.min()),
        "largest_difference": float((results["ours"] - results["plain"]).abs().max()),
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    p.add_argument("--modality", nargs="+", choices=list(SHAPES), default=list(DEFAULT))
    p.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    p.add_argument("--precision", choices=list(PRECISIONS), default="float32")
    p.add_argument("--threads", type=int, help="as torch chooses by default")
    p.add_argument("--seconds", type=float, default=10.0, help="of measuring a row, at least")
    p.add_argument("--json", type=Path, help="write the figures here")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    print(f"{'case':<12}{'batch':>6}{'ours/s':>10}{'plain/s':>10}{'ratio':>7}{'cosine':>10}")
    held, model = "", None
    for case in args.modality:
        tower = {"text-short": "text", "video": "vision"}.get(case, case)
        if tower != held:
            model = None  # give back the last tower before the next is made
            held, model = tower, random_model(tower, PRECISIONS[args.precision])
        assert model is not None
        for batch in args.batch:
            row = measure(case, model, batch, args.seconds)
            rows.append(row)
            print(
                f"{case:<12}{batch:>6}{row['ours_per_second']:>10.2f}{row['plain_per_second']:>10.2f}"
                f"{row['ratio']:>7.2f}{row['lowest_cosine']:>10.6f}",
                flush=True,
            )
    if args.json:
        told = {
            "precision": args.precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "rows": rows,
        }
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
