"""The learned way of pictures into the joint space: the head, its file, its training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from anybind.core_model.encoders.efficientnet import EfficientNetLite, LiteConfig
from anybind.core_model.encoders.image_head import (
    HeadConfig,
    ImageHead,
    likeness,
    packed,
    unpacked,
)
from anybind.core_model.encoders.image_hub import FORMAT, HubConfig, ImageHub, load_image_hub
from anybind.core_model.training.eye_noise import EyeNoise, NoiseConfig
from anybind.core_model.training.image_head import (
    Drawn,
    Recipe,
    held_back,
    right,
    tell_apart,
    train,
)
from anybind.core_model.training.nano_data.seen import Row, Seen
from anybind.errors import ModelError

D, TOP, C, T = 26, 20, 8, 6


def _head(seed: int = 0) -> ImageHead:
    torch.manual_seed(seed)
    head = ImageHead(HeadConfig(D, TOP, 12, T, C))
    head.things.copy_(F.normalize(torch.randn(T, C), dim=-1))
    return head.eval().requires_grad_(False)


def _hub_file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    config = json.dumps(asdict(HubConfig(space="test")))
    own = {
        "classes": torch.randint(-127, 127, (5, C), dtype=torch.int8),
        "class_scale": torch.full((5,), 0.01).half(),
        "kinds": torch.ones(5, C, dtype=torch.int8),
        "kind_scale": torch.ones(5).half(),
        "kind_of": torch.arange(5, dtype=torch.int16)[:, None].repeat(1, 2),
    }
    save_file(own | tensors, path, metadata={"format": FORMAT, "config": config})
    return path


def test_the_embedding_is_a_sum_of_things_by_share() -> None:
    head = _head()
    x = torch.randn(4, D)
    said = head(x)
    embedded, gate = head.embed(x)
    assert torch.allclose(embedded, said.logits.softmax(-1) @ head.things)
    assert bool((embedded.norm(dim=-1) <= 1.0001).all())
    assert gate.shape == (4, 1) and bool(((gate > 0) & (gate < 1)).all())


def test_the_gate_moves_from_the_class_mixture_to_the_head() -> None:
    head = _head()
    hub = ImageHub(HubConfig(space="test"), torch.randn(5, C), head=head)
    x, logits = torch.randn(3, D), torch.randn(3, 5)
    head.trust.weight.zero_()
    head.trust.bias.fill_(-60.0)
    assert torch.allclose(hub.embed(x, logits), hub(logits), atol=1e-6)
    head.trust.bias.fill_(60.0)
    assert torch.allclose(hub.embed(x, logits), head.embed(x)[0], atol=1e-6)
    bare = ImageHub(HubConfig(space="test"), hub.classes)
    assert torch.equal(bare.embed(x, logits), bare(logits))


def test_eight_bits_keep_what_it_says(tmp_path: Path) -> None:
    head = _head()
    loaded = load_image_hub(_hub_file(tmp_path / "hub.safetensors", packed(head))).head
    assert loaded is not None
    x = torch.randn(30, D)
    before, after = head.embed(x)[0], loaded.embed(x)[0]
    assert bool((F.cosine_similarity(before, after) > 0.98).all())
    assert unpacked({"classes": torch.zeros(1)}) is None
    assert load_image_hub(_hub_file(tmp_path / "bare.safetensors", {})).head is None


def test_a_damaged_head_is_told(tmp_path: Path) -> None:
    tensors = packed(_head())
    del tensors["head.first.bias"]
    with pytest.raises(ModelError, match=r"first\.bias"):
        load_image_hub(_hub_file(tmp_path / "hub.safetensors", tensors))
    tensors = packed(_head())
    tensors["head.second.bias"] = torch.zeros(3).half()
    with pytest.raises(ModelError, match="don't fit"):
        load_image_hub(_hub_file(tmp_path / "other.safetensors", tensors))


def _noise() -> EyeNoise:
    torch.manual_seed(0)
    backbone = EfficientNetLite(LiteConfig(width=0.3, depth=0.7, resolution=32, stem=6, head=TOP, classes=5))  # fmt: skip
    hub = ImageHub(HubConfig(space="test"), torch.randn(5, C))
    return EyeNoise(
        backbone, hub, torch.full((TOP,), 0.5), 0.1 * torch.randn(TOP, 4), NoiseConfig()
    )


def _drawings(per: int = 30) -> Seen:
    """Each thing has a place of its own in the features; a pair lies between its two."""
    rng = np.random.default_rng(0)
    places = rng.normal(0, 1, (T, D)) + 2.0
    rows: list[Row] = []
    features: list[np.ndarray] = []
    for number in range(T * per):
        thing = number % T
        rows.append(Row(len(rows), "one", (f"t{thing}",), set="a" if number % 2 else "b"))
        features.append(places[thing] + rng.normal(0, 0.3, D))
    for _ in range(20):
        a, b = rng.choice(T, 2, replace=False)
        rows.append(Row(len(rows), "pair", (f"t{a}", f"t{b}"), set="a"))
        features.append((places[a] + places[b]) / 2 + rng.normal(0, 0.1, D))
    return Seen(rows, np.stack(features).astype(np.float32))


def test_training_tells_things_apart_and_drawings_from_photographs() -> None:
    seen = _drawings()
    drawn = Drawn([seen], {f"t{n}": n for n in range(T)}, D)
    torch.manual_seed(1)
    things = F.normalize(torch.randn(T, C), dim=-1)
    recipe = Recipe(steps=250, batch=32, hidden=24, drop=0.1)
    noise = _noise()
    head = train(drawn, things, noise, [0, 1, 2, -1, -1], recipe, seed=0)
    assert right(head, drawn.features[drawn.ones], drawn.shown)["top-1"] > 0.95
    pairs, shares = drawn.group_targets(drawn.groups)
    best = head(drawn.features[pairs]).logits.topk(2).indices
    both = shares.gather(1, best).sum(1)
    assert both.mean() > 0.8, "the two things of a pair come first"
    photos = noise.features(torch.tensor([0, 1, 2] * 20), torch.Generator().manual_seed(5))
    trusted = head(drawn.features[drawn.ones]).gate.mean() - head.trusted(photos).mean()
    assert trusted > 0.5
    again = train(drawn, things, noise, [0, 1, 2, -1, -1], recipe, seed=0)
    assert torch.equal(head.first.weight, again.first.weight)


def test_a_twentieth_of_the_things_is_held_back() -> None:
    share = sum(held_back(f"n{n:08d}") for n in range(4000)) / 4000
    assert 0.03 < share < 0.07


def test_the_cache_reads_the_things(tmp_path: Path) -> None:
    from anybind.core_model.retrieval import RetrievalCache

    file = _hub_file(tmp_path / "hub.safetensors", packed(_head()))
    cache = RetrievalCache.load(file, tensor="head.things", space="test", top_k=2)
    assert len(cache) == T
    assert load_file(file)["head.things"].dtype == torch.float16


def test_several_things_are_told_by_the_figures_and_added_up() -> None:
    """Pictures of two are made so that the whole shows neither; the figures show one each."""
    rng = np.random.default_rng(1)
    places = rng.normal(0, 1, (T, D)) + 2.0
    rows: list[Row] = []
    features: list[np.ndarray] = []
    for number in range(240):
        a, b = rng.choice(T, 2, replace=False)
        noise = rng.normal(0, 0.2, (4, D))
        noise[3] = 0
        empty = np.zeros(D)
        if number % 3 == 0:
            rows.append(Row(number, "pair", (f"t{a}", f"t{b}")))
            four = np.stack([(places[a] + places[b]) / 2, places[a], places[b], empty])
        elif number % 3 == 1:  # one thing in two parts, neither of which is much by itself
            rows.append(Row(number, "one", (f"t{a}",)))
            part = 0.5 * places[a] + 1.0
            four = np.stack([places[a], part, part, empty])
        else:
            rows.append(Row(number, "one", (f"t{a}",)))
            four = np.stack([places[a], empty, empty, empty])
            noise[1:] = 0
        features.append((four + noise).reshape(-1))
    seen = Seen(rows, np.stack(features).astype(np.float32))
    drawn = Drawn([seen], {f"t{n}": n for n in range(T)}, D)
    assert len(drawn.ones) == 160 + 2 * 80 and len(drawn.groups) == 80
    assert [len(v) for v in drawn.figured.values()] == [160] and 2 in drawn.figured
    torch.manual_seed(0)
    things = F.normalize(torch.randn(T, C), dim=-1)
    recipe = Recipe(steps=250, batch=32, hidden=24, drop=0.1)
    head = train(drawn, things, _noise(), [0, 1, 2, -1, -1], recipe, seed=0)
    hub = ImageHub(HubConfig(space="test"), torch.zeros(5, C))
    classify = torch.nn.Linear(D, 5).requires_grad_(False)
    judged = ImageHub(hub.config, hub.classes, head=head)
    assert tell_apart(head, [(judged, drawn)], classify) > 0.9
    assert tell_apart(head, [], classify) == 0.0
    pairs = torch.stack([f for f, several in drawn.figured[2] if several])
    embedded = judged.embed(pairs, classify(pairs))
    scenes, several = judged.scene(embedded[:, 0], embedded[:, 1:])
    assert several.mean() > 0.8
    seen_both = F.normalize(scenes, dim=-1) @ things.T
    wanted = torch.tensor([[int(t[1:]) for t in r.things] for r in rows if r.what == "pair"])
    best = seen_both.topk(2).indices.sort(1).values
    assert (best == wanted.sort(1).values).all(1).float().mean() > 0.7


def test_likeness_does_not_depend_on_the_order_of_figures() -> None:
    torch.manual_seed(3)
    whole, parts = torch.randn(2, C), torch.randn(2, 4, C)
    told = likeness(whole, parts)
    assert torch.allclose(told, likeness(whole, parts.flip(1)), atol=1e-6)
    assert torch.allclose(told[:, 0], parts.norm(dim=-1).amin(1))
    twice = likeness(whole, parts[:, :1].repeat(1, 2, 1))
    assert torch.allclose(twice[:, 2], torch.ones(2), atol=1e-5)
