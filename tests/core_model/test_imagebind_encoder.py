"""ImageBind as an encoder of parts: which tower, which preparation, what is loaded and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pil
from safetensors.torch import save_file

pytest.importorskip("regex")
pytest.importorskip("ftfy")

from anybind.assembly import Assembly
from anybind.content import (
    IMU,
    AnyPart,
    Audio,
    Depth,
    Embedding,
    Footage,
    Image,
    Motion,
    PointCloud,
    Text,
    Thermal,
    Video,
    Waveform,
)
from anybind.contracts import Build, Encoder
from anybind.core_model.encoders.imagebind_encoder import KINDS, ImageBindEncoder, build
from anybind.core_model.encoders.imagebind_weights import load_imagebind, tower_of
from anybind.core_model.preprocess.audio import audio_clips
from anybind.core_model.preprocess.points import point_tensor
from anybind.core_model.preprocess.text import ClipTokenizer
from anybind.errors import ModelError, UserError
from anybind.plugins import registry
from tests.core_model.imagebind_files import TINY_SETTINGS, tiny

torch.set_num_threads(1)
BPE = Path(__file__).parent.parent / "data" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a token table of the real length."""
    path = tmp_path_factory.mktemp("imagebind") / "model.safetensors"
    random = torch.Generator().manual_seed(1)
    words = {"modality_preprocessors.text.token_embedding.weight":
             torch.randn(49408, 48, generator=random)}  # fmt: skip
    save_file(tiny() | words, path)
    return path


@pytest.fixture
def encoder(model: Path) -> Iterator[ImageBindEncoder]:
    made = ImageBindEncoder(model, bpe=BPE, settings=TINY_SETTINGS)
    yield made
    made.close()


def examples() -> dict[str, list[AnyPart]]:
    random = np.random.default_rng(2)
    noise = random.normal(0, 0.1, (1, 40_000)).astype(np.float32)
    frames = random.integers(0, 256, (12, 60, 80, 3), np.uint8)
    return {
        "image": [Image.of(pil.fromarray(frames[0])), Image.of(pil.new("RGB", (300, 200), "red"))],
        "video": [Video.of(Footage.of_frames(frames, 4.0))],
        "text": [Text.of("a dog"), Text.of("a much longer text about two dogs on a hill")],
        "audio": [Audio.of(Waveform(noise, 16_000)), Audio.of(Waveform(noise[:, ::2], 8_000))],
        "depth": [Depth.of(random.uniform(0.5, 8, (120, 160)).astype(np.float32))],
        "thermal": [Thermal.of(frames[1, :, :, 0])],
        "imu": [IMU.of(Motion(random.normal(size=(400, 6)).astype(np.float32), 200.0))],
        "point": [PointCloud.of(random.normal(size=(500, 3)).astype(np.float32))],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_part(encoder: ImageBindEncoder, kind: str) -> None:
    parts = examples()[kind]
    out = encoder.encode(parts)
    assert out.scaled is not None
    for rows in (out.unit, out.raw, out.scaled):
        assert rows.shape == (len(parts), 40) and rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(out.unit, axis=1), 1, atol=1e-5)
    lengths = np.linalg.norm(out.scaled, axis=1, keepdims=True)
    assert np.allclose(out.scaled / lengths, out.unit, atol=1e-5)
    assert set(encoder.reports) == {KINDS[kind]}  # nothing else was loaded
    alone = encoder.encode(parts[-1:])
    assert np.allclose(alone.unit[0], out.unit[-1], atol=1e-5)


def test_what_goes_into_the_towers(encoder: ImageBindEncoder, model: Path) -> None:
    """The numbers are those of the model on what the preparation gives."""
    bare, _ = load_imagebind(model, ["audio", "point", "text"], settings=TINY_SETTINGS)
    parts = examples()
    sound, cloud = parts["audio"][0], parts["point"][0]
    wanted = bare("audio", audio_clips(sound.data)[None])
    found = encoder.encode([sound])
    assert np.allclose(found.raw, wanted.raw.numpy(), atol=1e-5)
    assert np.allclose(found.scaled, wanted.scaled.numpy(), atol=1e-4)
    wanted = bare("point", point_tensor(cloud.data)[None])
    assert np.allclose(encoder.encode([cloud]).raw, wanted.raw.numpy(), atol=1e-5)
    # Texts are cut behind the end of the longest: the result must be that of all 77 places.
    ids = ClipTokenizer(BPE).encode([part.data for part in parts["text"]])
    wanted = bare("text", ids)
    assert np.allclose(encoder.encode(parts["text"]).raw, wanted.raw.numpy(), atol=1e-5)


def test_batches_give_what_single_parts_give(model: Path) -> None:
    parts = [Text.of(f"number {i} of {'many ' * i}") for i in range(5)]
    one = ImageBindEncoder(model, bpe=BPE, settings=TINY_SETTINGS, batch=1).encode(parts)
    two = ImageBindEncoder(model, bpe=BPE, settings=TINY_SETTINGS, batch=2).encode(parts)
    assert np.allclose(one.unit, two.unit, atol=1e-5)


def test_no_parts(encoder: ImageBindEncoder) -> None:
    assert encoder.encode([]).unit.shape == (0, 40)
    assert encoder.reports == {}


def test_half_precision(model: Path) -> None:
    parts = examples()["imu"]
    full = ImageBindEncoder(model, modalities=["imu"], settings=TINY_SETTINGS).encode(parts)
    half = ImageBindEncoder(
        model, modalities=["imu"], precision="bfloat16", settings=TINY_SETTINGS
    ).encode(parts)
    assert half.unit.dtype == np.float32
    assert 0.99 < float((full.unit * half.unit).sum()) < 1.0001
    assert not np.array_equal(full.unit, half.unit)


def test_contract_and_properties(encoder: ImageBindEncoder, model: Path) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.modalities == set(KINDS)
    assert (encoder.space, encoder.dim) == ("imagebind", 40)
    few = ImageBindEncoder(model, modalities=["image", "imu"], settings=TINY_SETTINGS)
    assert few.modalities == {"image", "imu"}
    with pytest.raises(UserError, match="takes image, imu; not thermal"):
        few.encode(examples()["thermal"])
    # Without CLIP's vocabulary there are no texts.
    assert "text" not in ImageBindEncoder(model, settings=TINY_SETTINGS).modalities


def test_after_closing_it_loads_again(encoder: ImageBindEncoder) -> None:
    parts = examples()["imu"]
    first = encoder.encode(parts)
    encoder.close()
    assert encoder.reports == {}
    assert np.array_equal(encoder.encode(parts).unit, first.unit)


def test_a_point_encoder_from_a_file_of_its_own(model: Path, tmp_path: Path) -> None:
    state = {k: v for k, v in tiny().items() if tower_of(k) == "point"}
    point, six = tmp_path / "point.safetensors", tmp_path / "six.safetensors"
    save_file(state, point)
    save_file({k: v for k, v in tiny().items() if k not in state}, six)
    parts = examples()["point"]
    with pytest.raises(ModelError, match="does not hold point"):
        ImageBindEncoder(six, modalities=["point"], settings=TINY_SETTINGS)
    both = ImageBindEncoder(six, point=point, settings=TINY_SETTINGS)
    assert "point" in both.modalities
    wanted = ImageBindEncoder(model, settings=TINY_SETTINGS).encode(parts).unit
    # Not bit for bit: how tensors lie in memory decides the order of some sums.
    np.testing.assert_allclose(both.encode(parts).unit, wanted, rtol=0, atol=1e-6)
    with pytest.raises(ModelError, match="holds no point encoder"):
        ImageBindEncoder(model, point=six, settings=TINY_SETTINGS)
    wider = {k: torch.cat((v, v[:1])) if k == "modality_heads.point.2.weight" else v
             for k, v in state.items()}  # fmt: skip
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(ModelError, match=r"do not share a joint space: widths \[40, 41\]"):
        ImageBindEncoder(six, point=tmp_path / "wider.safetensors", settings=TINY_SETTINGS)


def test_preparation_takes_arguments(model: Path) -> None:
    parts = examples()["depth"]
    plain = ImageBindEncoder(model, settings=TINY_SETTINGS).encode(parts).unit
    other = ImageBindEncoder(
        model, settings=TINY_SETTINGS, preparation={"depth": {"baseline": 0.095}}
    ).encode(parts)
    assert not np.allclose(plain, other.unit, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modalities": ["image", "smell"]}, "has no smell"),
        ({"modalities": ["text"]}, "need the weights `bpe`"),
        ({"modalities": []}, "at least one"),
        ({"precision": "float8"}, "precision is one of"),
        ({"batch": 0}, "from 1 on"),
        ({"heads": 4}, "no option heads"),
        ({"preparation": {"depth": {"zoom": 2}}}, "takes baseline"),
        ({"preparation": {"text": {}}}, "no preparation of 'text'"),
    ],
)
def test_wrong_options_are_told(model: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(Build(weights={"model": model}, options={"settings": TINY_SETTINGS, **options}))


def test_wrong_parts_are_told(encoder: ImageBindEncoder) -> None:
    parts = examples()
    with pytest.raises(UserError, match="of one kind, not image, text"):
        encoder.encode([parts["image"][0], parts["text"][0]])
    with pytest.raises(UserError, match="not embedding"):
        encoder.encode([Embedding.of(np.zeros(40, np.float32))])
    with pytest.raises(UserError, match="NaN"):
        encoder.encode([PointCloud.of(np.full((50, 3), np.nan, np.float32))])


def test_a_vocabulary_that_does_not_fit(tmp_path: Path) -> None:
    save_file(tiny(), tmp_path / "tiny.safetensors")
    encoder = ImageBindEncoder(tmp_path / "tiny.safetensors", bpe=BPE, settings=TINY_SETTINGS)
    with pytest.raises(ModelError, match="49408 ids, the text encoder 640"):
        encoder.encode([Text.of("a dog")])


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = {k: v for k, v in tiny().items() if tower_of(k) == "imu"}
    state["modality_heads.imu.3.weight"] = torch.full((40, 32), float("nan"))
    save_file(state, tmp_path / "nan.safetensors")
    encoder = ImageBindEncoder(tmp_path / "nan.safetensors", settings=TINY_SETTINGS)
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode(examples()["imu"])


def test_offered_and_built_from_a_bundle(model: Path, tmp_path: Path) -> None:
    offer: Any = registry().spec("encoders", "imagebind")
    assert offer.modalities == set(KINDS)
    assert {"imagebind", "pointbind"} <= set(registry().converters)
    bundle = {
        "name": "tiny", "description": "A tiny ImageBind.", "space": "imagebind",
        "weights": {"ib": {"ref": f"file:{model}", "licence": "none"}},
        "model": {"use": "llama", "weights": {}},
        "encoders": [{"use": "imagebind", "weights": {"model": "ib"},
                      "options": {"modalities": ["imu"], "settings": TINY_SETTINGS}}],
    }  # fmt: skip
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    assembly = Assembly(tmp_path / "bundle.json")
    made = assembly.build("encoders", assembly.bundle.encoders[0])
    assert isinstance(made, ImageBindEncoder) and made.modalities == {"imu"}
