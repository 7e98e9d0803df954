"""Bind networks on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anybind.core_model.adapters import load_bind, save_bind
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.errors import ModelError


def network(**changes: Any) -> BindNetwork:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"joint_dim": 6, "model_dim": 8, "hidden_dim": 12, "n_layers": 3}
    bind = BindNetwork(BindConfig(**(settings | changes))).requires_grad_(False)
    bind.gate.normal_()
    return bind


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "layer", "injection": "attention_output", "n_heads": 4},
        {"input_scale": 2.5, "first_layer": 2, "n_blocks": 1},
    ],
)
def test_what_is_saved_loads_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    bind = network(**changes)
    save_bind(bind, tmp_path / "b.safetensors", {"steps": 3})
    back = load_bind(tmp_path / "b.safetensors")
    assert back.config == bind.config
    feature = torch.randn(2, 6)
    torch.testing.assert_close(
        back.layer_vectors(feature), bind.layer_vectors(feature), atol=5e-3, rtol=5e-3
    )
    assert all(v.dtype == torch.float32 for v in back.state_dict().values())


def test_a_file_that_is_no_bind_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    for data in (b"", b"nothing", b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"b\.safetensors"):
            load_bind(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"b\.safetensors"):
        load_bind(path)
    with pytest.raises(ModelError):
        load_bind(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("change", ["drop", "add", "shape", "config"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "b.safetensors"
    save_bind(network(), path)
    state = load_file(path)
    config: dict[str, Any] = {"joint_dim": 6, "model_dim": 8, "hidden_dim": 12, "n_layers": 3}
    if change == "drop":
        del state["proj.bias"]
    elif change == "add":
        state["surplus"] = torch.ones(1)
    elif change == "shape":
        state["query"] = torch.ones(2, 8)
    else:
        config["no_such_key"] = 1
    save_file(state, path, {"bind": json.dumps(config)})
    with pytest.raises(ModelError, match=r"b\.safetensors"):
        load_bind(path)
