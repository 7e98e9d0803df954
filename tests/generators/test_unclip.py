"""The unCLIP generator through its contract, on tiny random pipelines of both kinds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anybind.content import Embedding, Text
from anybind.contracts import Build, Encoder, Generator
from anybind.errors import ModelError, UserError
from anybind.generators.unclip import UnclipGenerator

WIDTH = 16


def _embedding(seed: int, space: str = "letters", scale: float = 1.0) -> Embedding:
    vector = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    unit = vector / np.linalg.norm(vector)
    found = Embedding.of(unit * np.float32(scale))
    return dataclasses.replace(found, space=space, raw=vector * np.float32(7))


def _build(folder: Path, encoder: Encoder | None = None, **options: Any) -> UnclipGenerator:
    options = {"space": "letters", "steps": 3, "guidance": 2.0} | options
    parts = {} if encoder is None else {"text_encoder": encoder}
    return UnclipGenerator.from_build(Build({"pipeline": folder}, options, parts=parts))


def _pixels(generator: Generator, *args: Any, **kwargs: Any) -> np.ndarray:
    return np.asarray(generator.generate(*args, **kwargs).data, dtype=np.int16)


def test_it_is_a_generator_that_says_who_made_the_picture(hub_folder: Path) -> None:
    made = _build(hub_folder)
    assert isinstance(made, Generator)
    condition = dataclasses.replace(_embedding(0), name="embedding/1.safetensors")
    image = made.generate(condition, None, seed=1)
    assert (image.data.mode, image.data.size) == ("RGB", (16, 16))
    assert image.provenance.made_by == "generator:unclip"
    assert image.provenance.sources == ("embedding/1.safetensors",)


@pytest.mark.parametrize("kind", ["hub_folder", "official_folder"])
def test_seed_condition_and_text_decide_the_picture(
    kind: str, request: pytest.FixtureRequest, text_encoder: Encoder
) -> None:
    made = _build(request.getfixturevalue(kind), text_encoder)
    first = _pixels(made, _embedding(0), "abc", seed=1)
    assert np.array_equal(first, _pixels(made, _embedding(0), "abc", seed=1))
    assert not np.array_equal(first, _pixels(made, _embedding(0), "abc", seed=2))
    assert not np.array_equal(first, _pixels(made, _embedding(5), "abc", seed=1))
    assert not np.array_equal(first, _pixels(made, _embedding(0), "xyz", seed=1))


def test_nano_reads_the_direction_and_the_official_one_the_raw_output(
    hub_folder: Path, official_folder: Path
) -> None:
    nano, official = _build(hub_folder), _build(official_folder)
    # A mix of modalities that disagree is short; nano was trained on unit vectors.
    whole, short = _embedding(0), _embedding(0, scale=0.5)
    assert np.abs(_pixels(nano, whole, None) - _pixels(nano, short, None)).max() <= 1
    louder = dataclasses.replace(whole, raw=np.asarray(whole.raw) * 2)
    assert np.array_equal(_pixels(nano, whole, None), _pixels(nano, louder, None))
    assert not np.array_equal(_pixels(official, whole, "a"), _pixels(official, louder, "a"))


def test_a_text_alone_is_its_own_condition(hub_folder: Path, text_encoder: Encoder) -> None:
    made = _build(hub_folder, text_encoder)
    assert not np.array_equal(_pixels(made, None, "bell"), _pixels(made, None, "cat"))


def test_noise_is_for_measured_conditions_only(hub_folder: Path, text_encoder: Encoder) -> None:
    calm = _build(hub_folder, text_encoder, noise_level=0)
    noisy = _build(hub_folder, text_encoder, noise_level=800)
    assert np.array_equal(_pixels(calm, None, "bell"), _pixels(noisy, None, "bell"))
    # The loop hands the text's own embedding over as the condition: not measured either.
    unit = text_encoder.encode([Text.of("bell")]).unit[0]
    same = dataclasses.replace(Embedding.of(unit), space="letters")
    assert np.array_equal(_pixels(calm, same, "bell"), _pixels(noisy, same, "bell"))
    assert not np.array_equal(
        _pixels(calm, _embedding(1), None), _pixels(noisy, _embedding(1), None)
    )


def test_progress_ends_at_one_and_size_enlarges(hub_folder: Path) -> None:
    seen: list[float] = []
    made = _build(hub_folder, size=48)
    image = made.generate(_embedding(0), None, progress=lambda _, share: seen.append(share))
    assert seen == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert image.data.size == (48, 48)


def test_wrong_calls_are_plain_user_errors(hub_folder: Path, text_encoder: Encoder) -> None:
    made = _build(hub_folder)
    with pytest.raises(UserError, match="'letters', not 'imagebind'"):
        made.generate(_embedding(0, "imagebind"), None)
    with pytest.raises(UserError, match="Give an attachment"):
        made.generate(None, "  ")
    with pytest.raises(UserError, match="text encoder for 'letters'"):
        made.generate(None, "bell")
    with pytest.raises(UserError, match="16 numbers, not 3"):
        made.generate(
            dataclasses.replace(Embedding.of(np.ones(3, np.float32)), space="letters"), None
        )
    with pytest.raises(UserError, match="'letters'"):
        _build(hub_folder, text_encoder, space="imagebind")


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_index"):
        _build(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match="FluxPipeline"):
        _build(tmp_path)


def test_the_folder_says_how_to_draw_and_the_bundle_may_differ(
    hub_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(hub_folder, folder)
    saved = {"space": "letters", "steps": 2, "guidance": 1.0, "size": 32}
    (folder / "generator.json").write_text(json.dumps(saved))
    made = UnclipGenerator.from_build(Build({"pipeline": folder}))
    assert made.space == "letters"
    assert made.generate(_embedding(0), None).data.size == (32, 32)
    other = UnclipGenerator.from_build(Build({"pipeline": folder}, {"size": 0}))
    assert other.generate(_embedding(0), None).data.size == (16, 16)
    (folder / "generator.json").write_text("{")
    with pytest.raises(ModelError, match=r"generator\.json"):
        UnclipGenerator.from_build(Build({"pipeline": folder}))
