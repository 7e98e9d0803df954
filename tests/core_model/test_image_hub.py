"""The mapping of class logits into the hub, the views, the encoder and the made-up photographs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pil
from safetensors.torch import save_file

from anybind.content import Image, Text
from anybind.contracts import Encoder
from anybind.core_model.encoders.efficientnet import (
    EfficientNetLite,
    LiteConfig,
    load_efficientnet,
)
from anybind.core_model.encoders.image_hub import (
    FORMAT,
    HubConfig,
    ImageEncoder,
    ImageHub,
    load_image_hub,
    view,
)
from anybind.core_model.training.eye_noise import EyeNoise, NoiseConfig, load_noise, save_noise
from anybind.core_model.training.image_hub import Nouns, class_sentences, in_bytes, kinds
from anybind.errors import ModelError, UserError

TINY = LiteConfig(width=0.3, depth=0.7, resolution=32, stem=6, head=20, classes=5)

DATA_NOUN = """  1 the licence
00000001 03 n 01 entity 0 000 | what exists
00000002 05 n 02 animal 0 beast 0 001 @ 00000001 n 0000 | a living thing that moves; "animals eat"
00000003 05 n 01 dog 0 001 @ 00000002 n 0000 | it barks
00000004 05 n 02 tabby 0 tabby_cat 0 002 @ 00000002 n 0000 ~ 00000003 n 0000 | a striped cat
"""

EXAMPLES = Path(__file__).parents[2] / "examples"


def _hub(**settings: Any) -> ImageHub:
    classes = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    return ImageHub(HubConfig(space="test", **settings), classes)


def _encoder(views: tuple[str, ...] = ("centre",)) -> ImageEncoder:
    torch.manual_seed(0)
    backbone = EfficientNetLite(TINY).eval().requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):  # torch's start would let the signal fade away
            torch.nn.init.kaiming_normal_(module.weight)
    return ImageEncoder(backbone, _hub(views=views))


def _picture(seed: int = 0, size: tuple[int, int] = (60, 40)) -> pil.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return pil.fromarray(noise)


def test_the_mapping_is_the_weighted_sum_of_class_embeddings() -> None:
    hub = _hub()
    sure = torch.full((5,), -50.0)
    sure[3] = 50.0
    assert torch.allclose(hub(sure), hub.classes[3], atol=1e-5)
    halves = torch.tensor([0.0, 0.0, -80.0, -80.0, -80.0])
    assert torch.allclose(hub(halves), hub.classes[:2].mean(0), atol=1e-5)
    assert hub(torch.randn(2, 3, 5)).shape == (2, 3, 8)


def test_power_and_top_sharpen() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    shares = _hub(power=2.0, top=2).weights(logits)
    assert torch.equal(shares[2:], torch.zeros(3))
    assert shares[0] / shares[1] == pytest.approx(float(np.exp(2.0)), rel=1e-4)


def test_likeness_takes_the_best_name_of_a_class() -> None:
    names = torch.eye(4, 8)
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 2], [3, 3], [4, 3]])
    hub = ImageHub(HubConfig(space="test"), torch.randn(5, 8), (), names, pairs)
    like = hub.likeness(torch.stack([names[1], names[3]]))
    assert like.tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 1]]


def test_views() -> None:
    picture = pil.new("RGB", (40, 20), (10, 20, 30))
    picture.paste((200, 0, 0), (0, 0, 5, 20))  # a red left edge
    left = {k: np.asarray(view(picture, k, 16, 0.875))[8, 0, 0] for k in ("centre", "whole")}
    assert left["centre"] < 20
    assert left["whole"] > 150
    flipped = np.asarray(view(picture, "whole-flip", 16, 0.875))
    assert flipped[8, -1, 0] > 150
    padded = view(picture, "padded", 16, 0.875)
    assert padded.size == (16, 16)
    with pytest.raises(UserError, match="too small"):
        view(pil.new("RGB", (3, 400)), "centre", 16, 0.875)
    with pytest.raises(ModelError, match="upside-down"):
        view(picture, "upside-down", 16, 0.875)


def test_encoder_keeps_order_and_norm() -> None:
    encoder = _encoder(("centre", "centre-flip"))
    assert isinstance(encoder, Encoder)
    parts = [Image.of(_picture(i)) for i in range(11)]  # more views than one batch holds
    many = encoder.encode(parts)
    assert many.unit.shape == many.raw.shape == (11, 8)
    assert np.allclose(np.linalg.norm(many.unit, axis=1), 1, atol=1e-6)
    for row in (0, 10):
        assert np.allclose(encoder.encode([parts[row]]).raw[0], many.raw[row], atol=1e-5)
    assert not np.allclose(many.raw[0], many.raw[1], atol=1e-6)
    mirrored = Image.of(_picture(0).transpose(pil.Transpose.FLIP_LEFT_RIGHT))
    assert np.allclose(encoder.encode([mirrored]).raw[0], many.raw[0], atol=1e-4)


def test_encoder_refuses_other_parts_and_other_backbones() -> None:
    with pytest.raises(UserError, match="text"):
        _encoder().encode([Text.of("a dog")])
    other = ImageHub(HubConfig(space="test"), torch.randn(7, 8))
    with pytest.raises(ModelError, match="7 classes"):
        ImageEncoder(EfficientNetLite(TINY), other)


def test_file_round_trip_and_wrong_files(tmp_path: Path) -> None:
    config = HubConfig(space="test", views=("whole",), power=1.5)
    named = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    scale = named.abs().amax(1) / 127
    classes = torch.randn(5, 8)
    tensors = {
        **in_bytes("classes", "class_scale", classes),
        "kinds": (named / scale[:, None]).round().to(torch.int8),
        "kind_scale": scale.half(),
        "kind_of": torch.tensor([[0, 0], [4, 2]], dtype=torch.int16),
    }
    data = {"format": FORMAT, "config": json.dumps(asdict(config)), "names": '["a", "b"]'}
    save_file(tensors, tmp_path / "hub.safetensors", metadata=data)
    hub = load_image_hub(tmp_path / "hub.safetensors")
    assert hub.config == config
    assert hub.names == ("a", "b")
    assert torch.allclose(hub.kinds, named, atol=0.01)
    assert torch.allclose(hub.classes, classes, atol=0.02)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        load_image_hub(tmp_path / "other.safetensors")


def test_wordnet_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(DATA_NOUN)
    nouns = Nouns(tmp_path / "data.noun")
    assert class_sentences(nouns, "n00000004") == [
        "tabby, tabby cat", "tabby, animal", "tabby: a striped cat",
    ]  # fmt: skip
    assert nouns.glosses["n00000002"] == "a living thing that moves"
    names, pairs = kinds(nouns, ["n00000003", "n00000004"])
    assert names == ["dog", "animal", "beast", "tabby", "tabby cat"]  # and no "entity"
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (1, 4)]


def test_noise_is_repeatable_and_centred_on_its_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone, hub = EfficientNetLite(TINY).eval(), _hub()
    backbone.classifier.weight.data.mul_(6)
    save_noise(tmp_path / "n.safetensors", torch.rand(20), torch.randn(20, 4) * 0.1, NoiseConfig())
    noise = load_noise(tmp_path / "n.safetensors", backbone, hub)
    ids = torch.arange(5).repeat(200)
    first = noise.sample(ids, torch.Generator().manual_seed(1))
    assert torch.equal(first, noise.sample(ids, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, noise.sample(ids, torch.Generator().manual_seed(2)))
    assert torch.allclose(first.norm(dim=1), torch.ones(1000), atol=1e-5)
    calm = NoiseConfig(doubt=(0.01, 5.0), clutter=0.0, noise=0.0)
    sure = EyeNoise(backbone, hub, torch.zeros(20), torch.zeros(20, 4), calm)
    best = sure.logits(ids, torch.Generator().manual_seed(1)).argmax(1)
    assert (best == ids).float().mean() > 0.8


def test_the_real_eye_names_a_cat_and_a_cup(nano: Any) -> None:

    from anybind.core_model.encoders.minilm import load_text_encoder

    eye = ImageEncoder(
        load_efficientnet(nano.weight("efficientnet_lite2")),
        load_image_hub(nano.weight("image_hub")),
    )
    texts = load_text_encoder(nano.weight("minilm"), nano.weight("minilm_tokenizer"))
    assert eye.space == texts.space
    pictures = [Image.of(pil.open(EXAMPLES / x).convert("RGB")) for x in ("cat.png", "coffee.png")]
    words = ["cat", "dog", "coffee", "car", "mountain", "guitar", "banana", "house"]
    near = eye.encode(pictures).unit @ texts.unit(words).numpy().T
    assert [words[i] for i in near.argmax(1)] == ["cat", "coffee"]
