"""Augmented pictures: the same change for the same number, on the way and in views made before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil
from typer.testing import CliRunner

from anybind.agent.cli.app import app
from anybind.core_model.training import feeding
from anybind.core_model.training.building import build_parts
from anybind.core_model.training.config import load_config
from anybind.core_model.training.data import FeatureMaker, open_sources
from anybind.core_model.training.data.augment import AugmentConfig, augmented
from anybind.core_model.training.data.embedding import dataset_augment, embed_sources
from anybind.core_model.training.feeding import StageBatches
from anybind.core_model.training.progress import read_metrics
from anybind.core_model.training.trainer import train
from anybind.core_model.training.validation import held_out_batches
from anybind.errors import UserError
from tests.core_model.train_tiny import settings as tiny
from tests.core_model.train_tiny import write_base
from tests.core_model.training_files import DIM, Colours
from tests.core_model.training_pictures import AUGMENT, by_key, config, data, maker, noise

STILL: dict[str, Any] = {
    "crop": (1, 1), "ratio": (1, 1), "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))


# ---------------------------------------------------------------- one picture


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**64 - 1), st.integers(1, 40), st.integers(1, 40),
    st.floats(0.01, 1), st.floats(0.2, 5), st.floats(0, 0.5),
)  # fmt: skip
def test_size_and_mode_stay(
    draw: int, width: int, height: int, least: float, ratio: float, hue: float
) -> None:
    settings = AugmentConfig(crop=(least, 1), ratio=(ratio, 5), hue=hue, flip=0.5)
    picture = noise(1, (width, height))
    before = picture.tobytes()
    made = augmented(picture, settings, draw)
    assert (made.size, made.mode) == ((width, height), "RGB")
    assert picture.tobytes() == before
    assert augmented(noise(1, (width, height)), settings, draw).tobytes() == made.tobytes()


def test_other_numbers_do_other_things() -> None:
    assert len({augmented(noise(1), AugmentConfig(), draw).tobytes() for draw in range(50)}) == 50


def test_settings_that_change_nothing_change_nothing() -> None:
    still = AugmentConfig(**STILL)
    assert all(augmented(noise(1), still, n).tobytes() == noise(1).tobytes() for n in range(9))


def test_pictures_are_mirrored_only_if_asked() -> None:
    mirror = noise(1).transpose(pil.Transpose.FLIP_LEFT_RIGHT).tobytes()
    made = [augmented(noise(1), AugmentConfig(**STILL, flip=0.3), n).tobytes() for n in range(400)]
    assert {*made} == {mirror, noise(1).tobytes()} and 80 < made.count(mirror) < 160
    assert AugmentConfig().flip == 0


def test_a_crop_keeps_the_share_that_was_asked_for() -> None:
    """A ramp of columns and one of rows: what is left of each tells width and height of the crop."""
    columns, rows = np.meshgrid(np.linspace(0, 255, 256), np.linspace(0, 255, 256))
    ramp = pil.fromarray(np.stack([columns, rows, rows], -1).astype(np.uint8))
    areas, shapes = [], []
    crop = AugmentConfig(**STILL | {"crop": (0.25, 0.5), "ratio": (0.8, 1.25)})
    for draw in range(60):
        made = np.asarray(augmented(ramp, crop, draw), np.float32)
        wide = (made[128, -1, 0] - made[128, 0, 0]) / 255
        tall = (made[-1, 128, 1] - made[0, 128, 1]) / 255
        areas.append(wide * tall)
        shapes.append(wide / tall)
    assert 0.22 < min(areas) < 0.29 and 0.45 < max(areas) < 0.53
    assert 0.76 < min(shapes) < 0.9 and 1.1 < max(shapes) < 1.32


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_within_their_limit(name: str) -> None:
    picture = noise(1)
    near, far = (
        [
            np.abs(
                np.asarray(augmented(picture, AugmentConfig(**STILL | {name: v}), n), np.float32)
                - np.asarray(picture, np.float32)
            ).mean()
            for n in range(20)
        ]
        for v in (0.05, 0.4)
    )
    assert 0 < np.mean(near) < np.mean(far) / 3
    # What one setting does leaves alone what the others do.
    one = AugmentConfig(**STILL | {"crop": (0.3, 0.6)})
    both = AugmentConfig(**STILL | {"crop": (0.3, 0.6), name: 1e-9})
    apart = np.asarray(augmented(picture, one, 5), int) - np.asarray(
        augmented(picture, both, 5), int
    )
    assert np.abs(apart).max() <= 1


# ---------------------------------------------------------------- on the way


def test_a_change_belongs_to_seed_record_and_epoch(tmp_path: Path) -> None:
    source = data(tmp_path)
    two = config(tmp_path, source, epochs=2)
    made = by_key(open_sources(two, maker=maker(), augment=AUGMENT))
    # However many are encoded at once, and whatever was read before.
    again = by_key(open_sources(two, maker=maker(batch=7), augment=AUGMENT))
    assert made == again and len({row for _, row in made}) == 40
    ordered = config(tmp_path, source | {"shuffle": "none"}, epochs=2)
    assert sorted(by_key(open_sources(ordered, maker=maker(), augment=AUGMENT))) == sorted(made)
    limited = config(tmp_path, source | {"shuffle": "none", "limit": 5})
    first = by_key(open_sources(limited, maker=maker(), augment=AUGMENT))
    assert set(first) < set(made)
    other = by_key(open_sources(config(tmp_path, source, seed=1), maker=maker(), augment=AUGMENT))
    assert not set(other) & set(made)


def test_off_is_as_before(tmp_path: Path) -> None:
    source = config(tmp_path, data(tmp_path), epochs=2)
    one = Colours()
    plain = FeatureMaker(lambda kind: one, "colours", DIM, 4)  # pyright: ignore
    before = by_key(open_sources(source, maker=plain))
    assert by_key(open_sources(source, maker=maker())) == before
    assert len({row for _, row in before}) == 20  # the same in both epochs


def test_a_state_in_the_middle_goes_on_with_the_same_pictures(tmp_path: Path) -> None:
    source = config(tmp_path, data(tmp_path), epochs=3)
    whole = by_key(open_sources(source, maker=maker(), augment=AUGMENT))
    for stop in (1, 13, 33, 45):
        mixer = open_sources(source, maker=maker(), augment=AUGMENT)
        for _ in range(stop):
            next(mixer)
        state = json.loads(json.dumps(mixer.state()))
        mixer = open_sources(source, maker=maker(), augment=AUGMENT)
        mixer.restore(state)
        assert by_key(mixer) == whole[stop:]


# ---------------------------------------------------------------- a stage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage's data, a tiny decoder, and an encoder of mean colours in place of nano's."""
    torch.set_num_threads(1)
    write_base(tmp_path / "base")
    data(tmp_path)

    def of_bundle(bundle: str, augment: AugmentConfig | None = None) -> FeatureMaker:
        one = Colours()
        return FeatureMaker(lambda kind: one, "colours", DIM, 4, augment)  # pyright: ignore

    monkeypatch.setattr(feeding.FeatureMaker, "of_bundle", of_bundle)
    return tmp_path


def stage(folder: Path, images: dict[str, Any] | None = None, **source: Any) -> Path:
    tree = tiny(Path("base"), model__chat="chatml", model__bind__joint_dim=DIM)
    tree["model"] |= {"space": "colours", "bundle": "nano"}
    tree["data"] = {
        "sources": [{"format": "tsv", "path": "d.tsv", "images": "p", "prompts": "a", **source}]
    }
    tree["batch"] = {"max_tokens": 64, "tokens": 128}
    tree |= {"steps": 9, "validation": {"share": 0.1, "every": 3}}
    if images is not None:
        tree["images"] = images
    (folder / "stage.yaml").write_text(yaml.safe_dump(tree))
    return folder / "stage.yaml"


def curve(run: Path) -> list[dict[str, str]]:
    return [{k: repr(v) for k, v in r.items() if k != "seconds"} for r in read_metrics(run / "metrics.csv")]  # fmt: skip


class Crash(Exception):
    """Something that nobody foresaw."""


class Stopping(StageBatches):
    """Gives out after seven batches."""

    def __iter__(self) -> Any:
        for _, batch in zip(range(7), super().__iter__(), strict=False):
            yield batch
        raise Crash


@pytest.mark.parametrize("made_before", [False, True])
def test_a_stage_goes_on_to_the_same_curve(folder: Path, made_before: bool) -> None:
    images = {"augment": AUGMENT.model_dump(mode="json")}
    source: dict[str, Any] = {}
    if made_before:
        embed_sources(
            config(folder, {"format": "tsv", "path": "d.tsv", "images": "p"}), maker(),
            folder / "f.safetensors", views=2, augment=AUGMENT,
        )  # fmt: skip
        source = {"features": "f.safetensors"}
    wanted = load_config(stage(folder, images, **source))
    assert wanted.images.augment == AUGMENT
    train(wanted, folder / "whole", live=False)
    with pytest.raises(Crash):
        train(
            wanted, folder / "crashed", live=False, batches=Stopping(wanted, build_parts(wanted))
        )  # fmt: skip
    train(wanted, folder / "crashed", resume=True, live=False)
    assert curve(folder / "whole") == curve(folder / "crashed")
    plain = load_config(stage(folder, **source))
    train(plain, folder / "plain", live=False)
    assert curve(folder / "plain") != curve(folder / "whole")
    # What is measured on is not changed at random.
    held = [held_out_batches(c, build_parts(c)) for c in (wanted, plain)]
    assert all(torch.equal(a.features, b.features) for a, b in zip(*held, strict=True))


def test_a_dry_run_says_it(folder: Path) -> None:
    path = stage(folder, {"augment": {"flip": 0.5}})
    ran = CliRunner().invoke(app, ["train", str(path), "--dry-run", "--json"])
    assert ran.exit_code == 0, ran.output
    assert any("augmented" in n and "flip 0.5" in n for n in json.loads(ran.stdout)["notes"])
    ran = CliRunner().invoke(app, ["train", str(stage(folder)), "--dry-run", "--json"])
    assert not any("augmented" in n for n in json.loads(ran.stdout)["notes"])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"augment": {"crop": [0.9, 0.2]}}, "images.augment: crop is [least, most]"),
        ({"augment": {"crop": [0, 1]}}, "images.augment.crop.0"),
        ({"augment": {"flip": 2}}, "images.augment.flip"),
        ({"augment": {"hue": 0.6}}, "images.augment.hue"),
        ({"augment": {"rotate": 5}}, "images.augment.rotate: no such key"),
        ({"augmented": {}}, "images.augmented: no such key"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, images: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(stage(folder, images))
    assert said in str(caught.value)
    with pytest.raises(UserError, match=r"stage\.yaml: images"):
        dataset_augment(folder / "stage.yaml")
