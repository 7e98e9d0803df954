"""Decoders from files: Hugging Face folders and GGUF, and plain errors for wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anybind.core_model.checkpoints import load_decoder, read_gguf
from anybind.errors import ModelError

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model as transformers saves it."""
    _save(tmp_path / "hf")
    return tmp_path / "hf"


def _save(folder: Path, **changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, **changes,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    shard = changes.pop("shard", "5GB")
    model.save_pretrained(folder, max_shard_size=shard)
    return model


@pytest.mark.parametrize("tied", [False, True])
@torch.inference_mode()
def test_a_saved_folder_loads(tmp_path: Path, tied: bool) -> None:
    theirs = _save(tmp_path, tie_word_embeddings=tied)
    model, report = load_decoder(tmp_path)
    ids = torch.arange(12)[None]
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert report.loaded == len(load_file(tmp_path / "model.safetensors"))
    assert model.config.tied is tied


@torch.inference_mode()
def test_a_sharded_folder_loads(folder: Path) -> None:
    whole, _ = load_decoder(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({n: state[n] for n in own}, folder / file)
    index = {"weight_map": {n: f for f, own in shards.items() for n in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ids = torch.arange(9)[None]
    assert torch.equal(load_decoder(folder)[0](ids), whole(ids))


def test_rotary_buffers_are_ignored_and_named(folder: Path) -> None:
    _edit(folder, lambda s: s | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    _, report = load_decoder(folder)
    assert report.ignored == ("model.layers.0.self_attn.rotary_emb.inv_freq",)


def _edit(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    save_file({k: v.clone() for k, v in change(load_file(file)).items()}, file)


def _without(name: str) -> Any:
    return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without("model.layers.1.mlp.up_proj.weight"), "layers.1.feed_forward.w3.weight"),
        (_without("lm_head.weight"), "output.weight"),
        (lambda s: s | {"model.layers.7.mlp.up_proj.weight": torch.ones(48, 32)}, "layers.7"),
        (lambda s: s | {"vision.patch.weight": torch.ones(2)}, "vision.patch.weight"),
        (lambda s: s | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, "q_proj.bias"),
        (lambda s: s | {"model.norm.weight": torch.ones(33)}, "norm.weight"),
        (
            lambda s: s | {"model.layers.0.self_attn.k_proj.weight": torch.ones(32, 32)},
            "layers.0.attention.wk.weight",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(folder: Path, change: Any, named: str) -> None:
    _edit(folder, change)
    with pytest.raises(ModelError, match=named.replace(".", r"\.")):
        load_decoder(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", "gpt2", "gpt2"),
        ("attention_bias", True, "bias"),
        ("rope_parameters", {"rope_type": "yarn", "factor": 2.0}, "yarn"),
        ("hidden_act", "gelu", "gelu"),
        ("num_key_value_heads", 3, "multiple"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(
    folder: Path, key: str, value: Any, said: str
) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=said):
        load_decoder(folder)


@pytest.mark.parametrize("broken", ["", "{", "[]", "null"])
def test_a_broken_config_is_a_model_error(folder: Path, broken: str) -> None:
    (folder / "config.json").write_text(broken)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_decoder(folder)


@pytest.mark.parametrize("data", [b"", b"not safetensors", b"\xff" * 64])
def test_a_damaged_file_is_a_model_error(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_decoder(folder)


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": "no"}}']
)
def test_a_wrong_index_is_a_model_error(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError):
        load_decoder(folder)


# ---------------------------------------------------------------- GGUF


def _gguf(path: Path, *, skip: str = "", **extra: Any) -> dict[str, np.ndarray]:
    """A one-layer GGUF of arch `llama`; gives back its tensors."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, extra.pop("arch", "llama"))
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"t{i}" for i in range(10)])
    if extra.pop("yarn", False):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (10, 16), "output_norm.weight": (16,),
        "blk.0.attn_q.weight": (16, 16), "blk.0.attn_k.weight": (8, 16),
        "blk.0.attn_v.weight": (8, 16), "blk.0.attn_output.weight": (16, 16),
        "blk.0.attn_norm.weight": (16,), "blk.0.ffn_norm.weight": (16,),
        "blk.0.ffn_gate.weight": (24, 16), "blk.0.ffn_down.weight": (16, 24),
        "blk.0.ffn_up.weight": (24, 16),
    }  # fmt: skip
    made = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items() if n != skip}
    made |= extra
    for name, array in made.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def test_gguf_tensors_get_our_names(tmp_path: Path) -> None:
    made = _gguf(tmp_path / "m.gguf")
    config, state, ignored = read_gguf(tmp_path / "m.gguf")
    assert (config.dim, config.n_heads, config.n_kv_heads, config.ffn_dim) == (16, 2, 1, 24)
    assert (config.vocab_size, config.context_length, config.tied) == (10, 32, True)
    assert ignored == ()
    np.testing.assert_array_equal(
        state["layers.0.feed_forward.w2.weight"].numpy(), made["blk.0.ffn_down.weight"]
    )
    model, _ = load_decoder(tmp_path / "m.gguf")
    assert model.output.weight is model.tok_embeddings.weight
    assert model(torch.arange(5)[None]).isfinite().all()


def test_a_separate_output_head_is_used(tmp_path: Path) -> None:
    head = np.ones((10, 16), np.float32)
    _gguf(tmp_path / "m.gguf", **{"output.weight": head})
    model, _ = load_decoder(tmp_path / "m.gguf")
    assert torch.equal(model.output.weight, torch.from_numpy(head))


def test_neutral_rotary_factors_are_ignored_others_refused(tmp_path: Path) -> None:
    _gguf(tmp_path / "a.gguf", **{"rope_freqs.weight": np.ones(4, np.float32)})
    assert load_decoder(tmp_path / "a.gguf")[1].ignored == ("rope_freqs.weight",)
    _gguf(tmp_path / "b.gguf", **{"rope_freqs.weight": np.array([1, 1, 4, 8], np.float32)})
    with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
        load_decoder(tmp_path / "b.gguf")


def test_wrong_ggufs_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    _gguf(path, skip="blk.0.ffn_up.weight")
    with pytest.raises(ModelError, match=r"layers\.0\.feed_forward\.w3\.weight"):
        load_decoder(path)
    _gguf(path, **{"blk.0.attn_q.bias": np.ones(16, np.float32)})
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.bias"):
        load_decoder(path)
    _gguf(path, arch="gpt2")
    with pytest.raises(ModelError, match="gpt2"):
        load_decoder(path)
    _gguf(path, yarn=True)
    with pytest.raises(ModelError, match="scaling"):
        load_decoder(path)


@pytest.mark.parametrize("keep", [0, 3, 40, 400])
def test_a_cut_gguf_is_a_model_error(tmp_path: Path, keep: int) -> None:
    _gguf(tmp_path / "m.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((tmp_path / "m.gguf").read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        load_decoder(cut)


def test_neither_gguf_nor_folder(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model\.bin"):
        load_decoder(tmp_path / "model.bin")
