"""Loading ImageBind: every name of the official files accounted for, only what is chosen read."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anybind.core_model.encoders.imagebind import ImageBind
from anybind.core_model.encoders.imagebind_config import OFFICIAL, TOWERS
from anybind.core_model.encoders.imagebind_sizes import infer_config
from anybind.core_model.encoders.imagebind_weights import (
    FORMAT,
    load_imagebind,
    read_header,
    tower_of,
)
from anybind.core_model.encoders.point_bert import PointConfig
from anybind.errors import AnybindError, ModelError
from tests.core_model.imagebind_files import (
    TINY_SETTINGS,
    arrays,
    huge,
    tiny,
    w3d,
    write_sparse,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagebind") / "tiny.safetensors"
    save_file(tiny(), path)
    return path


# ---------------------------------------------------------------- the official files


def test_the_manifest_has_the_published_counts() -> None:
    size = sum(int(np.prod(s, dtype=np.int64)) for s in w3d().values())
    assert (len(huge()), len(w3d()), size) == (1311, 1476, 1_223_565_617)


@pytest.mark.parametrize(("name", "tensors"), [("imagebind_huge", 1311), ("imagebind_w3D", 1476)])
def test_official_files_load_strictly(tmp_path: Path, name: str, tensors: int) -> None:
    manifest = huge() if tensors == 1311 else w3d()
    path = tmp_path / f"{name}.safetensors"
    write_sparse(path, manifest)
    if path.stat().st_blocks * 512 > 1 << 26:
        pytest.skip("this file system has no holes")
    model, report = load_imagebind(path)
    assert (report.missing, report.unexpected, report.ignored) == ((), (), ())
    assert set(report.loaded) == set(manifest) and len(report.loaded) == tensors
    elements = sum(int(np.prod(s, dtype=np.int64)) for s in manifest.values())
    assert report.bytes == 4 * elements + (8 if tensors == 1476 else 0)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == manifest
    assert dict(model.config.towers) == OFFICIAL
    assert model.config.point == (PointConfig() if tensors == 1476 else None)
    if tensors == 1476:
        assert elements == 1_223_565_617


def test_each_modality_of_the_official_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "w3d.safetensors"
    write_sparse(path, w3d())
    for modality in TOWERS:
        model, report = load_imagebind(path, [modality])
        mine = {name for name in w3d() if tower_of(name) == modality}
        assert set(report.loaded) == mine == set(model.state_dict())
        assert set(report.ignored) == set(w3d()) - mine
        assert not report.missing and not report.unexpected


def _resident(path: Path) -> int:
    """Bytes of the file's mapping that are in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    total, inside = 0, False
    for line in lines:
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_loading_maps_and_running_reads_only_the_chosen(tmp_path: Path) -> None:
    """A file of 4.9 GB: loading touches nothing but the mask, running touches the tower."""
    path = tmp_path / "w3d.safetensors"
    write_sparse(path, w3d())
    model, report = load_imagebind(path, ["imu"])
    before = _resident(path)
    assert before < 4 << 20
    model("imu", torch.zeros(1, 6, 2000))
    read = _resident(path) - before
    assert 0.9 * report.bytes < read < 1.2 * report.bytes + (4 << 20)
    assert report.bytes < 90e6 < 4.8e9 < path.stat().st_size


# ---------------------------------------------------------------- the tiny file


def test_loaded_model_gives_the_reference_numbers(tiny_file: Path) -> None:
    model, report = load_imagebind(tiny_file, ["imu", "point"], settings=TINY_SETTINGS)
    assert len(report.loaded) + len(report.ignored) == len(tiny())
    out = model("imu", torch.from_numpy(arrays()["in.imu"])).scaled.numpy()
    assert np.abs(out - arrays()["out.imu"]).max() < 3e-5 * np.abs(arrays()["out.imu"]).max()
    out = model("point", torch.from_numpy(arrays()["point.in.points"])).raw.numpy()
    wanted = arrays()["point.start0.prenorm"]
    assert np.abs(out - wanted).max() < 3e-5 * np.abs(wanted).max()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_no_second_copy(tiny_file: Path) -> None:
    """Every parameter lies in the mapping of the file, none in memory of its own."""
    model, _ = load_imagebind(tiny_file, ["text"], settings=TINY_SETTINGS)
    lines = Path("/proc/self/maps").read_text().splitlines()
    lines = [line for line in lines if line.endswith(str(tiny_file))]
    ranges = [tuple(int(x, 16) for x in line.split()[0].split("-")) for line in lines]
    for parameter in model.parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision_of_the_weights(tiny_file: Path, dtype: torch.dtype) -> None:
    model, _ = load_imagebind(tiny_file, ["point"], dtype=dtype, settings=TINY_SETTINGS)
    kinds = {name: value.dtype for name, value in model.state_dict().items()}
    odd = {name: kind for name, kind in kinds.items() if kind != dtype}
    assert set(odd.values()) == {torch.float32, torch.int64}
    assert all(name.endswith(("log_logit_scale", "num_batches_tracked")) for name in odd)


def test_settings_from_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "told.safetensors"
    metadata = {"format": FORMAT, "source": "other", "config": json.dumps(TINY_SETTINGS)}
    save_file(tiny(), path, metadata=metadata)
    model, report = load_imagebind(path)
    assert model.config.towers["text"].heads == 6
    assert model.config.point == PointConfig(48, 3, 4, 64, 16, 96, 512)
    assert len(report.loaded) == len(tiny())
    assert read_header(path).modalities == TOWERS


def spoiled(tmp_path: Path, **changes: Any) -> Path:
    state = {name: value.clone() for name, value in tiny().items()}
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    path = tmp_path / "spoiled.safetensors"
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("modality_trunks.imu.blocks.1.norm_2.bias", None, "1 missing"),
        ("modality_trunks.imu.blocks.1.attn.bias_q", torch.zeros(1), "1 unexpected"),
        ("modality_trunks.smell.blocks.0.norm_1.bias", torch.zeros(1), "1 unexpected"),
        ("modality_trunks.imu.blocks.7.norm_1.bias", torch.zeros(32), "not numbered"),
        ("modality_trunks.imu.blocks.1.mlp.fc1.weight", torch.zeros(128, 31), "[128, 31]"),
        ("modality_preprocessors.imu.pos_embed", torch.zeros(1, 250, 32), "[1, 250, 32]"),
        ("modality_preprocessors.imu.cls_token", torch.zeros(32), "not 3 axes"),
        ("modality_preprocessors.imu.cls_token", torch.zeros(1, 1, 0), "makes no sense"),
        ("modality_heads.imu.3.weight", torch.zeros(40, 32, dtype=torch.int64), "not a float"),
        ("modality_heads.imu.3.weight", torch.zeros(41, 32), "do not agree"),
        ("modality_preprocessors.text.mask", torch.zeros(77, 77), "not causal"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_named(
    tmp_path: Path, name: str, value: torch.Tensor | None, words: str
) -> None:
    path = spoiled(tmp_path, **{name: value})
    with pytest.raises(ModelError) as caught:
        load_imagebind(path, ["imu", "text"], settings=TINY_SETTINGS)
    assert words in str(caught.value)
    if words not in ("do not agree", "makes no sense", "not causal", "not numbered"):
        assert name in str(caught.value)


def test_tensors_of_other_modalities_do_not_matter(tmp_path: Path) -> None:
    path = spoiled(tmp_path, **{"modality_trunks.audio.blocks.1.norm_2.bias": None})
    _, report = load_imagebind(path, ["imu"], settings=TINY_SETTINGS)
    assert "modality_trunks.audio.blocks.0.norm_2.bias" in report.ignored
    with pytest.raises(ModelError, match="missing"):
        load_imagebind(path, ["audio"], settings=TINY_SETTINGS)


def test_heads_are_never_guessed(tiny_file: Path) -> None:
    with pytest.raises(ModelError, match="option heads"):
        load_imagebind(tiny_file, ["imu"])
    with pytest.raises(ModelError, match="do not divide"):
        load_imagebind(tiny_file, ["imu"], settings={"imu": {"heads": 5}})
    with pytest.raises(ModelError, match="tell its groups"):
        load_imagebind(tiny_file, ["point"], settings={"point": {"heads": 4}})


def test_a_modality_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file({k: v for k, v in tiny().items() if tower_of(k) in ("imu", "text")}, path)
    with pytest.raises(ModelError, match=r"holds text, imu; not point"):
        load_imagebind(path, ["imu", "point"], settings=TINY_SETTINGS)
    assert set(load_imagebind(path, settings=TINY_SETTINGS)[0].config.towers) == {"text", "imu"}


def test_meta_model_of_the_official_size_matches_the_manifest() -> None:
    with torch.device("meta"):
        model = ImageBind(infer_config(w3d(), TOWERS))
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == w3d()


# ---------------------------------------------------------------- damaged headers


def test_mutated_headers_give_only_our_errors(tmp_path: Path) -> None:
    """5,000 files whose header bytes were changed: loaded, or refused by a `ModelError`."""
    state = {k: v for k, v in tiny().items() if tower_of(k) == "imu"}
    good = tmp_path / "good.safetensors"
    told = {"format": FORMAT, "config": json.dumps({"imu": TINY_SETTINGS["imu"]})}
    save_file(state, good, metadata=told)
    data = good.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    random = np.random.default_rng(11)
    path = tmp_path / "mutated.safetensors"
    outcomes = {"loaded": 0, "refused": 0}
    for round in range(5000):
        raw = bytearray(data)
        for _ in range(int(random.integers(1, 6))):
            place = int(random.integers(0, 8 + length if round % 10 else 8))
            raw[place] = int(
                random.choice(_LIKELY) if random.random() < 0.6 else random.integers(256)
            )
        if round % 7 == 0:
            raw = raw[: int(random.integers(0, len(raw)))]
        path.write_bytes(raw)
        try:
            load_imagebind(path)
            outcomes["loaded"] += 1
        except AnybindError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 2500, outcomes


_LIKELY = np.frombuffer(b'0123456789"[]{},:-.eE\\uimu_', np.uint8)
