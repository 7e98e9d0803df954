"""ImageBind's `.pth` and Point-Bind's `.pt` files into safetensors, and no trust in their bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from anybind.core_model.convert.imagebind import (
    convert,
    convert_pointbind,
    plan,
    plan_pointbind,
    read_state,
)
from anybind.core_model.convert.writing import write_safetensors
from anybind.core_model.encoders.imagebind_config import OFFICIAL
from anybind.core_model.encoders.imagebind_weights import FORMAT, load_imagebind, tower_of
from anybind.core_model.encoders.point_bert import PointConfig
from anybind.core_model.encoders.point_hierarchy import HierarchyConfig, PointHierarchy
from anybind.errors import AnybindError, MissingWeights, ModelError
from anybind.weights import run_converter
from tests.core_model.imagebind_files import (
    TINY_SETTINGS,
    arrays,
    drawn,
    hierarchy,
    hollow,
    huge,
    i2pmae,
    point_encoder,
    pointbind,
    tiny,
    w3d,
    write_sparse,
)

torch.set_num_threads(1)


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def standalone() -> dict[str, torch.Tensor]:
    """The tiny model under the names of `pointbind_pointbert.pt`."""
    out: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(2.66)}
    for name, value in tiny().items():
        if name.startswith("point_trunk."):
            name = name.removeprefix("point_trunk.")
        elif name.startswith("modality_heads.point."):
            name = name.replace("modality_heads.point.", "bind.modality_head_point.")
        elif name.startswith("modality_postprocessors.point."):
            name = name.replace(
                "modality_postprocessors.point.", "bind.modality_postprocessor_point."
            )
        else:
            name = f"bind.{name}"
        out[name] = value
    return out


# ---------------------------------------------------------------- the official files


def test_every_tensor_of_imagebind_huge_is_accounted_for(tmp_path: Path) -> None:
    made = plan(saved(tmp_path / "imagebind_huge.pth", hollow(huge())))
    assert {k: tuple(v.shape) for k, v in made.tensors.items()} == huge()
    assert made.metadata["source"] == "imagebind_huge" and made.ignored == ()
    assert json.loads(made.metadata["config"])["depth"]["heads"] == 8


def test_every_tensor_of_imagebind_w3d_is_accounted_for(tmp_path: Path) -> None:
    made = plan(saved(tmp_path / "imagebind_w3D.pth", hollow(w3d())))
    assert {k: tuple(v.shape) for k, v in made.tensors.items()} == w3d()
    assert made.metadata["source"] == "imagebind_w3D" and made.ignored == ()
    assert sum(v.numel() for v in made.tensors.values()) == 1_223_565_617
    assert json.loads(made.metadata["config"])["point"]["groups"] == 512


@pytest.mark.parametrize("name", ["imagebind_w3D", "pointbind_i2pmae"])
def test_what_a_converted_file_says_of_itself_loads(tmp_path: Path, name: str) -> None:
    """The written names, shapes and metadata of an official file, without its data."""
    source = saved(tmp_path / "source.pth", hollow(w3d() if name == "imagebind_w3D" else i2pmae()))
    made = plan(source) if name == "imagebind_w3D" else plan_pointbind(source)
    target = tmp_path / "target.safetensors"
    shapes = {name: tuple(value.shape) for name, value in made.tensors.items()}
    write_sparse(target, shapes, dict(made.metadata))
    model, report = load_imagebind(target)
    assert set(report.loaded) == set(made.tensors)
    assert dict(model.config.towers) == OFFICIAL
    assert model.config.point in (PointConfig(), HierarchyConfig())


def test_point_bind_gets_the_names_of_w3d(tmp_path: Path) -> None:
    made = plan_pointbind(saved(tmp_path / "pointbind_pointbert.pt", hollow(pointbind())))
    assert {k: tuple(v.shape) for k, v in made.tensors.items()} == w3d()
    assert made.ignored == ("logit_scale",)


def test_every_tensor_of_i2p_mae_is_accounted_for(tmp_path: Path) -> None:
    made = plan_pointbind(saved(tmp_path / "pointbind_i2pmae.pt", hollow(i2pmae())))
    known = point_encoder()
    wanted = {name: shape for name, shape in w3d().items() if name not in known} | hierarchy()
    wanted["point_trunk.pc_projection"] = (384, 512)
    assert {k: tuple(v.shape) for k, v in made.tensors.items()} == wanted
    assert made.metadata["source"] == "pointbind_i2pmae" and made.ignored == ("logit_scale",)


def test_a_hierarchy_of_another_size_is_refused(tmp_path: Path) -> None:
    state = {"pc_projection": torch.zeros(48, 512)}
    state |= drawn(hierarchy("point_encoder", (12, 24, 48), (1, 1, 1)))
    with pytest.raises(ModelError, match="never released"):
        plan_pointbind(saved(tmp_path / "tiny.pt", state))


def test_i2p_mae_runs_from_its_converted_file(tmp_path: Path) -> None:
    """The point encoder alone, at its released size: as the class that the oracle covers."""
    head = {"bind.modality_head_point.0.weight": (512,), "bind.modality_head_point.0.bias": (512,),
            "bind.modality_head_point.2.weight": (1024, 512),
            "bind.modality_postprocessor_point.1.log_logit_scale": ()}  # fmt: skip
    state = drawn(hierarchy("point_encoder") | head | {"pc_projection": (384, 512)})
    target = tmp_path / "i2pmae.safetensors"
    convert_pointbind(saved(tmp_path / "pointbind_i2pmae.pt", state), target)
    model, report = load_imagebind(target)
    assert model.config.point == HierarchyConfig() and len(report.loaded) == len(state)
    points = torch.from_numpy(np.random.default_rng(1).uniform(-0.6, 0.6, (1, 600, 3))).float()
    inner = PointHierarchy(HierarchyConfig()).eval()
    names = {k: v for k, v in state.items() if k.startswith("point_encoder.")}
    inner.load_state_dict({k.removeprefix("point_encoder."): v for k, v in names.items()})
    with torch.no_grad():
        features = inner(points) @ state["pc_projection"]
    assert torch.allclose(model.point_trunk(points), features, atol=1e-4)
    assert torch.allclose(model("point", points).unit.norm(dim=-1), torch.ones(1))


def test_a_full_training_checkpoint_gives_its_encoder(tmp_path: Path) -> None:
    state = {f"image_bind.{name}": value for name, value in hollow(w3d()).items()}
    state["image_bind_proj.weight"] = torch.zeros(1)
    state["llama.norm.weight"] = torch.zeros(1)
    made = plan(saved(tmp_path / "checkpoint-3.pth", {"model": state, "epoch": 3}))
    assert {k: tuple(v.shape) for k, v in made.tensors.items()} == w3d()
    assert made.ignored == ("image_bind_proj.weight", "llama.norm.weight")


# ---------------------------------------------------------------- values


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    convert(saved(tmp_path / "tiny.pth", tiny()), tmp_path / "tiny.safetensors")
    found = load_file(tmp_path / "tiny.safetensors")
    assert set(found) == set(tiny())
    for name, value in tiny().items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    with safe_open(tmp_path / "tiny.safetensors", "pt") as file:
        assert file.metadata() == {"format": FORMAT, "source": "other", "config": "{}"}
    model, _ = load_imagebind(tmp_path / "tiny.safetensors", ["text"], settings=TINY_SETTINGS)
    out = model("text", torch.from_numpy(arrays()["in.text"])).scaled.numpy()
    assert np.abs(out - arrays()["out.text"]).max() < 3e-5 * np.abs(arrays()["out.text"]).max()


def test_standalone_point_bind_gives_the_same_embedding(tmp_path: Path) -> None:
    state = {k: v for k, v in standalone().items() if "bind.modality_trunks" not in k}
    state = {k: v for k, v in state.items() if not k.startswith("bind.modality_") or "_point" in k}
    target = tmp_path / "point.safetensors"
    convert_pointbind(saved(tmp_path / "pointbind_pointbert.pt", state), target)
    model, report = load_imagebind(target, settings=TINY_SETTINGS)
    assert model.config.modalities == ("point",)
    assert len(report.loaded) == sum(tower_of(name) == "point" for name in tiny())
    out = model("point", torch.from_numpy(arrays()["point.in.points"])).scaled.numpy()
    wanted = arrays()["point.start0.out"]
    assert np.abs(out - wanted).max() < 3e-5 * np.abs(wanted).max()


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    source, target = saved(tmp_path / "tiny.pth", tiny()), tmp_path / "tiny.safetensors"
    run_converter("anybind.core_model.convert.imagebind:convert", source, target)
    assert len(load_file(target)) == len(tiny())
    source.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(MissingWeights, match="not a readable checkpoint"):
        run_converter("anybind.core_model.convert.imagebind:convert", source, tmp_path / "no")


def test_the_writer_keeps_every_element_type(tmp_path: Path) -> None:
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    state = {str(kind): torch.arange(5).to(kind) for kind in kinds}
    state |= {"turned": torch.arange(6.0).reshape(2, 3).T, "none": torch.zeros(0, 3)}
    state["scalar"] = torch.tensor(2.5)
    write_safetensors(tmp_path / "all.safetensors", state, {"a": "b"})
    found = load_file(tmp_path / "all.safetensors")
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in state.items())
    with pytest.raises(ValueError, match="complex"):
        write_safetensors(tmp_path / "no", {"x": torch.zeros(1, dtype=torch.complex64)})


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([1, 2], "not a table of tensors"),
        ({}, "not a table of tensors"),
        ({"a": 1}, "not a tensor"),
        ({"a": torch.zeros(1)}, "holds nothing of ImageBind"),
        ({"bind.a": torch.zeros(1)}, "use the converter pointbind"),
        ({"a": torch.zeros(1).to_sparse()}, "no plain tensor"),
        ({"modality_heads.imu.0.bias": torch.zeros(2, dtype=torch.int32)}, "not a float"),
        ({"modality_heads.imu.0.bias": torch.zeros(512)}, "missing"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, state: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        plan(saved(tmp_path / "other.pth", state))


def test_no_point_bind_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no pc_projection"):
        plan_pointbind(saved(tmp_path / "huge.pth", {"modality_heads.imu.0.bias": torch.zeros(3)}))


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "owned",)  # pyright: ignore

    with pytest.raises(ModelError, match="not a readable checkpoint"):
        read_state(saved(tmp_path / "evil.pth", {"a": Evil()}))
    assert not (tmp_path / "owned").exists()


def test_tensors_that_claim_more_than_the_file_holds_are_not_written_out(tmp_path: Path) -> None:
    source, target = saved(tmp_path / "hollow.pth", hollow(huge())), tmp_path / "out.safetensors"
    with pytest.raises(ModelError, match="more than the file has"):
        convert(source, target)
    assert not target.exists()


def test_a_wrong_tensor_is_named(tmp_path: Path) -> None:
    manifest = huge() | {"modality_trunks.text.blocks.23.mlp.fc2.bias": (1023,)}
    with pytest.raises(ModelError, match=r"blocks\.23\.mlp\.fc2\.bias has shape \[1023\]"):
        plan(saved(tmp_path / "wrong.pth", hollow(manifest)))
    manifest = huge()
    del manifest["modality_trunks.vision.blocks.31.attn.in_proj_bias"]
    with pytest.raises(ModelError, match=r"1 missing \(modality_trunks\.vision\.blocks\.31"):
        plan(saved(tmp_path / "short.pth", hollow(manifest)))


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize("entry", [plan, plan_pointbind])
def test_mutated_checkpoints_give_only_our_errors(tmp_path: Path, entry: object) -> None:
    """5,000 mutated torch archives in all: read, or refused by a `ModelError`."""
    state = tiny() if entry is plan else standalone()
    state = {k: v[..., :4].clone() if v.ndim else v for k, v in state.items() if "imu" in k}
    if entry is plan_pointbind:
        state["pc_projection"] = torch.zeros(2, 2)
    data = saved(tmp_path / "good.pth", state).read_bytes()
    places = _structure(data)
    random = np.random.default_rng(5)
    path = tmp_path / "mutated.pth"
    outcomes = {"read": 0, "refused": 0}
    for round in range(2500):
        raw = bytearray(data)
        for _ in range(int(random.integers(1, 5))):
            place = int(random.choice(places) if round % 4 else random.integers(len(raw)))
            raw[place] = int(random.integers(256))
        if round % 9 == 0:
            raw = raw[: int(random.integers(0, len(raw)))]
        path.write_bytes(raw)
        try:
            read_state(path)
            outcomes["read"] += 1
            entry(path)  # pyright: ignore
        except AnybindError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 2400, outcomes


def _structure(data: bytes) -> list[int]:
    """Places of the pickle and of the archive's directory, rather than of numbers."""
    pickle = data.index(b"data.pkl")
    directory = data.index(b"PK\x01\x02")
    return [*range(pickle, pickle + 3000), *range(directory, len(data))]
