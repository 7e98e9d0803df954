"""The backbone against a plain unfolded implementation, its converter, and the real weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.convert.efficientnet import convert
from anybind.core_model.encoders.efficientnet import (
    CONFIGS,
    EfficientNetLite,
    LiteConfig,
    load_efficientnet,
    metadata,
    pixels,
    tensor_names,
)
from anybind.errors import ModelError

TINY = LiteConfig(width=0.3, depth=0.7, resolution=45, stem=6, head=20, classes=5)


def _random_file_tensors(config: LiteConfig, seed: int = 0) -> dict[str, Tensor]:
    """Tensors as the published files hold them: convolutions without bias, separate norms."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    with torch.device("meta"):
        shapes = {k: v.shape for k, v in EfficientNetLite(config).state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for ours, conv, norm in tensor_names(config):
        shape = shapes[f"{ours}.weight"]
        tensors[f"{conv}.weight"] = noise(*shape) / math.sqrt(math.prod(shape[1:]))
        tensors[f"{norm}.weight"] = 1 + 0.2 * noise(shape[0])
        tensors[f"{norm}.bias"] = 0.5 * noise(shape[0])
        tensors[f"{norm}.running_mean"] = 0.3 * noise(shape[0])
        tensors[f"{norm}.running_var"] = noise(shape[0]).abs() + 0.1
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(3)
    tensors["_fc.weight"] = noise(config.classes, config.head)
    tensors["_fc.bias"] = noise(config.classes)
    return tensors


def _plain(config: LiteConfig, t: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-lite written down step by step, norms unfolded, every pad explicit."""

    def step(x: Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = t[f"{conv}.weight"]
        k = weight.shape[-1]
        high = max((-(-x.shape[2] // stride) - 1) * stride + k - x.shape[2], 0)
        wide = max((-(-x.shape[3] // stride) - 1) * stride + k - x.shape[3], 0)
        x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        stats = t[f"{norm}.running_mean"], t[f"{norm}.running_var"]
        return F.batch_norm(x, *stats, t[f"{norm}.weight"], t[f"{norm}.bias"], False, 0.0, 1e-3)

    def relu6(x: Tensor) -> Tensor:
        return x.clamp(0, 6)

    x = relu6(step(x, "_conv_stem", "_bn0", 2))
    place = 0
    for repeats, _, first_stride, expansion, channels in config.stages():
        for repeat in range(repeats):
            name, stride = f"_blocks.{place}", first_stride if repeat == 0 else 1
            y = x
            if expansion != 1:
                y = relu6(step(y, f"{name}._expand_conv", f"{name}._bn0"))
            y = step(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, y.shape[1])
            y = step(relu6(y), f"{name}._project_conv", f"{name}._bn2")
            x = x + y if stride == 1 and x.shape[1] == channels else y
            place += 1
    x = relu6(step(x, "_conv_head", "_bn1")).mean((2, 3))
    return x @ t["_fc.weight"].T + t["_fc.bias"]


@pytest.mark.parametrize("size", [(45, 45), (64, 38), (33, 70)])
def test_matches_the_plain_implementation(tmp_path: Path, size: tuple[int, int]) -> None:
    tensors = _random_file_tensors(TINY)
    file = tmp_path / "tiny.safetensors"
    save_file(tensors, file, metadata=metadata(TINY))
    model = load_efficientnet(file)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    want = _plain(TINY, tensors, x)
    assert want.std() > 1e-3
    assert torch.allclose(model(x), want, atol=1e-4, rtol=1e-4)
    high, wide = (-(-side // 32) for side in size)
    assert model.features(x).shape == (2, TINY.head, high, wide)


def test_published_sizes() -> None:
    def size(name: str) -> int:
        with torch.device("meta"):
            model = EfficientNetLite(CONFIGS[name])
        norms = sum(m.out_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d))
        return sum(p.numel() for p in model.parameters()) + norms  # a norm has scale and shift

    assert size("lite0") == 4_652_008
    assert size("lite2") == 6_092_072


def test_convert_recognises_the_size_and_keeps_the_numbers(tmp_path: Path) -> None:
    tensors = _random_file_tensors(CONFIGS["lite0"])
    torch.save(tensors, tmp_path / "weights.pth")
    convert(tmp_path / "weights.pth", tmp_path / "weights.safetensors")
    model = load_efficientnet(tmp_path / "weights.safetensors")
    assert model.config == CONFIGS["lite0"]
    kept = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(kept["_conv_head.weight"], tensors["_conv_head.weight"])


def test_convert_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    torch.save(_random_file_tensors(TINY), tmp_path / "tiny.pth")
    with pytest.raises(ModelError, match="published size"):
        convert(tmp_path / "tiny.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    torch.save({"run": print}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match="(?i)weights.only|unsupported"):
        convert(tmp_path / "evil.pth", tmp_path / "out.safetensors")


def test_wrong_files_are_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        load_efficientnet(tmp_path / "other.safetensors")
    tensors = _random_file_tensors(TINY)
    tensors.pop("_conv_head.weight")
    save_file(tensors, tmp_path / "short.safetensors", metadata=metadata(TINY))
    with pytest.raises(ModelError, match="_conv_head"):
        load_efficientnet(tmp_path / "short.safetensors")
    wrong = LiteConfig(width=0.3, depth=0.7, resolution=45, stem=6, head=20, classes=9)
    save_file(_random_file_tensors(TINY), tmp_path / "nine.safetensors", metadata=metadata(wrong))
    with pytest.raises(ModelError, match="fit"):
        load_efficientnet(tmp_path / "nine.safetensors")


def test_pixels_follow_the_networks_scale() -> None:
    picture = Image.new("RGB", (3, 2), (127, 255, 0))
    x = pixels(picture)
    assert x.shape == (3, 2, 3)
    assert np.allclose(x[:, 0, 0].numpy(), [0.0, 1.0, -127 / 128])


def test_the_real_backbone_sees_a_cat(nano: Any) -> None:
    model = load_efficientnet(nano.weight("efficientnet_lite2"))
    cat = Path(__file__).parents[2] / "examples" / "cat.png"
    picture = Image.open(cat).convert("RGB").crop((75, 0, 375, 300)).resize((260, 260))
    with torch.inference_mode():
        best = int(model(pixels(picture)[None]).argmax())
    assert best in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
