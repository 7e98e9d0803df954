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

from anybind.core_model.checkpoints import (
    UnfitError,
    assemble,
    hf_config,
    load_decoder,
    read_gguf,
)
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
        (
            lambda s: s | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
            "attention.wq.bias",
        ),
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


def test_neutral_rotary_factors_are_ignored_senseless_ones_refused(tmp_path: Path) -> None:
    _gguf(tmp_path / "a.gguf", **{"rope_freqs.weight": np.ones(4, np.float32)})
    assert load_decoder(tmp_path / "a.gguf")[1].ignored == ("rope_freqs.weight",)
    _gguf(tmp_path / "b.gguf", **{"rope_freqs.weight": np.array([1, 1, 0, 8], np.float32)})
    with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
        load_decoder(tmp_path / "b.gguf")


def test_wrong_ggufs_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    _gguf(path, skip="blk.0.ffn_up.weight")
    with pytest.raises(ModelError, match=r"layers\.0\.feed_forward\.w3\.weight"):
        load_decoder(path)
    _gguf(path, **{"blk.0.ffn_norm.bias": np.ones(16, np.float32)})
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_norm\.bias"):
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


@torch.inference_mode()
def test_rotary_factors_are_llama_3_scaling(tmp_path: Path) -> None:
    """The factors of a GGUF and the four numbers of a config.json are two ways to say one thing."""
    from dataclasses import replace

    from anybind.core_model.llama import RopeScaling, rope_frequencies

    _gguf(tmp_path / "plain.gguf")
    config, state, _ = read_gguf(tmp_path / "plain.gguf")
    scaled = replace(config, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32))
    factors = rope_frequencies(config) / rope_frequencies(scaled)
    assert factors.max() > 2
    _gguf(tmp_path / "b.gguf", **{"rope_freqs.weight": factors.float().numpy()})
    model, _ = load_decoder(tmp_path / "b.gguf")
    ids = torch.arange(30)[None] % 10
    expected = assemble(replace(scaled, tied=True), state)[0](ids)
    torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)
    plain, _ = load_decoder(tmp_path / "plain.gguf")
    assert (plain(ids) - expected).abs().max() > 1e-3


@torch.inference_mode()
def test_biases_of_a_gguf_are_used(tmp_path: Path) -> None:
    _gguf(tmp_path / "a.gguf")
    _gguf(tmp_path / "b.gguf", **{"blk.0.attn_output.bias": np.full(16, 0.5, np.float32)})
    plain, biased = load_decoder(tmp_path / "a.gguf")[0], load_decoder(tmp_path / "b.gguf")[0]
    assert biased.config.biases == ("wo",)
    ids = torch.arange(5)[None]
    inject = torch.full((1, 1, 16), 0.5)
    expected = plain(ids, inject=inject, site="attention_output")
    torch.testing.assert_close(biased(ids), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@torch.inference_mode()
def test_biases_of_a_folder_are_used(tmp_path: Path, kind: str) -> None:
    import transformers as t

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    if kind == "llama":
        theirs: Any = t.LlamaForCausalLM(t.LlamaConfig(**sizes, attention_bias=True, mlp_bias=True))
    else:
        theirs = t.Qwen2ForCausalLM(t.Qwen2Config(**sizes))
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.5)
    theirs.eval().save_pretrained(tmp_path)
    model, report = load_decoder(tmp_path)
    assert len(model.config.biases) == (7 if kind == "llama" else 3)
    ids = torch.arange(12)[None]
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)
    _edit(tmp_path, _without("model.layers.1.self_attn.v_proj.bias"))
    with pytest.raises(UnfitError, match=r"layers\.1\.attention\.wv\.bias") as caught:
        load_decoder(tmp_path)
    assert caught.value.report.missing == ("layers.1.attention.wv.bias",)
    assert caught.value.report.loaded == report.loaded - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None])
def test_the_type_is_what_is_asked_for(tmp_path: Path, folder: Path, dtype: Any) -> None:
    _edit(folder, lambda s: {k: v.half() for k, v in s.items()})
    _gguf(tmp_path / "m.gguf")
    for path, stored in ((folder, torch.float16), (tmp_path / "m.gguf", torch.float32)):
        model, _ = load_decoder(path, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {dtype or stored}
        assert model(torch.arange(5)[None]).isfinite().all()


def test_tensors_of_the_wanted_type_are_not_copied(folder: Path) -> None:
    """They are views of the memory map of the file."""
    for file in (folder / "model.safetensors",):
        _edit(folder, lambda s: s)
        from anybind.core_model.checkpoints import read_hf

        _, state, _ = read_hf(folder)
        model, _ = assemble(hf_config(json.loads((folder / "config.json").read_text())), state)
        for name, parameter in model.named_parameters():
            assert parameter.data_ptr() == state[name].data_ptr(), (file, name)


def test_a_window_shortens_the_context(folder: Path) -> None:
    """Attention to a window is not built; within it there is no difference."""
    file = folder / "config.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data | {"model_type": "mistral", "sliding_window": 16}))
    assert load_decoder(folder)[0].config.context_length == 16
