"""The released adapter checkpoints: official names and sizes, conversion, export, wrong files."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from anybind.core_model.adapters import (
    Adapter,
    adapter_from_state,
    apply_adapter,
    export_adapter,
    load_adapter,
)
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import UnfitError, assemble, meta_config
from anybind.core_model.convert.imagebind_llm import convert, describe, read
from anybind.core_model.identity import identity
from anybind.core_model.llama import Llama
from anybind.errors import ModelError
from tests.core_model.llama_files import (
    LLAMA_7B,
    Manifest,
    bridge,
    gates_and_queries,
    hollow,
    llama_7b,
    norms,
    tuning,
)

torch.set_num_threads(1)

PARITY = Path(
    os.environ.get("ANYBIND_PARITY_DIR") or Path(__file__).parent.parent / "data" / "parity"
)
STAGE_1 = bridge() | gates_and_queries()
"""What the first stage trains."""
STAGE_2 = tuning() | norms()
"""What the second stage trains."""
FILES: dict[str, Manifest] = {
    "7B.pth": STAGE_1 | STAGE_2,
    "7B-pretrained.pth": STAGE_1 | norms(),
    "7B-beta.pth": bridge(legacy=True) | gates_and_queries() | STAGE_2,
}
TENSORS = {"7B.pth": 720, "7B-pretrained.pth": 112, "7B-beta.pth": 732}


def numbers(manifest: Manifest) -> int:
    return sum(t.numel() for t in hollow(manifest).values())


def test_the_manifests_have_the_published_counts() -> None:
    assert {n: len(m) for n, m in FILES.items()} == TENSORS
    assert numbers(STAGE_1) == 608_322_560
    assert (numbers(STAGE_2), len(STAGE_2)) == (41_340_928, 673)
    assert len(bridge()) == 14 and len(norms()) == 65


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state}, path)
    assert path.stat().st_size < 2 << 20  # one number a tensor
    return path


@pytest.mark.parametrize("name", FILES)
def test_official_files_load_strictly(tmp_path: Path, name: str) -> None:
    found = read(saved(tmp_path / name, hollow(FILES[name])))
    adapter = adapter_from_state(found.state, name)
    assert adapter.report.loaded == TENSORS[name] and adapter.report.fits
    assert found.ignored == () and found.base == ""
    about = describe(adapter)
    assert (about["model_dim"], about["layers"], about["joint_dim"]) == (4096, 32, 1024)
    assert about["bridge"] == ("layer" if name == "7B-beta.pth" else "rms")
    assert about["stage"] == ("bind" if name == "7B-pretrained.pth" else "full")
    trained = sum(p.numel() for p in adapter.bind.parameters())
    assert trained == numbers(bridge(legacy=name == "7B-beta.pth") | gates_and_queries())
    tuned = sum(t.numel() for t in adapter.decoder.values())
    assert tuned == (numbers(norms()) if name == "7B-pretrained.pth" else 41_340_928)


@pytest.mark.parametrize("name", ["7B.pth", "7B-pretrained.pth"])
def test_official_files_apply_to_llama_7b(name: str) -> None:
    """Every tensor finds its place in the decoder, whose own are all still there."""
    with torch.device("meta"):
        base = Llama(meta_config(LLAMA_7B, 32000))
    adapter = adapter_from_state(hollow(FILES[name]), name)
    apply_adapter(base, adapter)
    state = base.state_dict()
    own = {n for n in state if not n.endswith(("lora_a", "lora_b", "bias"))}
    assert own == set(llama_7b())
    assert len(state) == (931 - 32 if name == "7B.pth" else 323 - 32)  # the gates are not here
    for key, tensor in adapter.decoder.items():
        assert state[key].shape == tensor.shape


def test_the_early_prefix_is_read(tmp_path: Path) -> None:
    early = {
        n.replace("llama.", "llma.", 1): t for n, t in hollow(FILES["7B-pretrained.pth"]).items()
    }
    found = read(saved(tmp_path / "early.pth", early))
    assert adapter_from_state(found.state).report.loaded == 112


def test_of_a_training_checkpoint_only_the_adapter_is_kept(tmp_path: Path) -> None:
    encoders: Manifest = {"image_bind.modality_trunks.vision.blocks.0.norm_1.weight": (1280,)}
    base: Manifest = {f"llama.{n}": s for n, s in llama_7b().items() if "norm" not in n}
    whole = FILES["7B.pth"] | base | encoders | {"prefix_projector_norm.weight": (4096,)}
    path = tmp_path / "checkpoint-3.pth"
    torch.save(
        {
            "model": hollow(whole),
            "optimizer": {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 1e-4}]},
            "epoch": 3,
            "scaler": {"scale": 65536.0},
            "args": argparse.Namespace(batch_size=4, output_dir="out"),
        },
        path,
    )
    found = read(path)
    assert adapter_from_state(found.state).report.loaded == 720
    assert set(found.ignored) == set(base) | set(encoders) | {"prefix_projector_norm.weight"}
    assert found.base == identity(hollow(llama_7b()))


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "gates", "half", "block"])
def test_one_wrong_tensor_is_named(change: str) -> None:
    state = hollow(FILES["7B.pth"])
    name = "llama.layers.9.feed_forward.lora_w2_l2.weight"
    if change == "missing":
        del state[name]
    elif change == "unknown":
        name = "llama.layers.9.attention.wk.scale"
        state[name] = torch.ones(1)
    elif change == "shape":
        state[name] = torch.ones(1, 1).expand(4096, 8)
    elif change == "gates":
        name = "32 prefix queries for 31 gates"
        del state["llama.layers.31.attention.gate"]
    elif change == "half":
        name = "image_bind_proj.bias"
        del state[name]
    else:
        name = "image_bind_f2_3.weight"
        del state[name]
    with pytest.raises(ModelError, match=name.replace(".", r"\.")) as caught:
        adapter_from_state(state)
    if change in ("missing", "half", "block"):
        assert isinstance(caught.value, UnfitError) and caught.value.report.missing == (name,)
    if change == "unknown":
        assert isinstance(caught.value, UnfitError) and caught.value.report.unexpected == (name,)


# ---------------------------------------------------------------- tiny, through the files


def fixture() -> dict[str, Tensor]:
    return load_file(PARITY / "llm_tiny_adapter.safetensors")


def base() -> Llama:
    params = json.loads((PARITY / "llm_tiny_params.json").read_text())
    state = load_file(PARITY / "llm_tiny_base.safetensors")
    state.pop("rope.freqs")
    return assemble(meta_config(params, 97), state)[0]


def converted(tmp_path: Path, holder: Any) -> Path:
    torch.save(holder, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def same_adapter(one: Adapter, other: Adapter) -> None:
    assert one.bind.config == other.bind.config
    assert set(one.decoder) == set(other.decoder)
    for pair in ((one.bind.state_dict(), other.bind.state_dict()), (one.decoder, other.decoder)):
        for name, tensor in pair[0].items():
            assert torch.equal(tensor, pair[1][name]), name


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_converted_file_is_the_adapter(tmp_path: Path, wrapped: bool) -> None:
    path = converted(tmp_path, {"model": fixture()} if wrapped else fixture())
    adapter = load_adapter(path)
    same_adapter(adapter, adapter_from_state(fixture()))
    assert adapter.about["source"] == "a.pth" and len(adapter.about["source_sha256"]) == 64
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(fixture())


def test_the_base_in_a_checkpoint_gives_its_identity(tmp_path: Path) -> None:
    own = load_file(PARITY / "llm_tiny_base.safetensors")
    whole = fixture() | {f"llama.{n}": t for n, t in own.items() if "norm" not in n}
    adapter = load_adapter(converted(tmp_path, {"model": whole, "epoch": 0}))
    assert adapter.base == identity(own)
    assert len(adapter.report.ignored) == 31 and "llama.rope.freqs" in adapter.report.ignored


def test_export_and_import_are_exact(tmp_path: Path) -> None:
    adapter, decoder = adapter_from_state(fixture()), base()
    apply_adapter(decoder, adapter)
    export_adapter(adapter.bind, decoder, tmp_path / "e.safetensors", about={"steps": 3}, base="x")
    written = load_file(tmp_path / "e.safetensors")
    assert set(written) == set(fixture())
    for name, tensor in fixture().items():
        assert torch.equal(written[name], tensor), name
    back = load_adapter(tmp_path / "e.safetensors")
    same_adapter(back, adapter)
    assert (back.about, back.base) == ({"steps": 3}, "x")
    export_adapter(adapter.bind, None, tmp_path / "b.safetensors")
    assert load_adapter(tmp_path / "b.safetensors").decoder == {}


def test_what_the_released_names_cannot_say_is_refused(tmp_path: Path) -> None:
    decoder = base()
    adapter = adapter_from_state(fixture())
    apply_adapter(decoder, adapter, merge=True)
    with pytest.raises(ModelError, match="before merging"):
        export_adapter(adapter.bind, decoder, tmp_path / "e.safetensors")
    other = BindNetwork(BindConfig(4, 8, 8, 2))
    with pytest.raises(ModelError, match="save_bind"):
        export_adapter(other, None, tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "holder", [[1], {}, {"model": 3}, {"model": {"a": 1}}, {"a": torch.ones(1)}]
)
def test_a_file_that_is_no_adapter_is_named(tmp_path: Path, holder: Any) -> None:
    with pytest.raises(ModelError, match=r"a\.pth"):
        converted(tmp_path, holder)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for data in (b"", b"nothing", b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"a\.safetensors"):
            load_adapter(path)
    for about in ("{", "[]", "3"):
        save_file(fixture(), path, {"adapter": about})
        with pytest.raises(ModelError, match="metadata"):
            load_adapter(path)
