"""Meta's LLaMA: official names and sizes, shards, conversion, deltas, and plain errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from anybind.core_model.checkpoints import UnfitError, assemble, load_decoder, meta_config
from anybind.core_model.checkpoints.meta import FORMAT, ffn_dim
from anybind.core_model.convert.llama_delta import merge_delta
from anybind.core_model.convert.llama_meta import check, convert, read_shards
from anybind.core_model.identity import same
from anybind.errors import ModelError
from tests.core_model.llama_files import (
    LLAMA_7B,
    PARAMS,
    hollow,
    llama_7b,
    shards,
    tiny_base,
    write_meta,
)

torch.set_num_threads(1)

IDS = torch.arange(20)[None] % 40


# ---------------------------------------------------------------- official sizes


def test_llama_7b_loads_strictly(tmp_path: Path) -> None:
    state = hollow(llama_7b(), torch.float16)
    assert len(state) == 291
    write_meta(tmp_path, [state | {"rope.freqs": torch.ones(64)}], LLAMA_7B)
    assert (tmp_path / "consolidated.00.pth").stat().st_size < 1 << 20
    found, ignored = read_shards(tmp_path / "consolidated.00.pth")
    assert ignored == ["rope.freqs"]
    assert check(LLAMA_7B, found).loaded == 291
    config = meta_config(LLAMA_7B, 32000)
    assert (config.ffn_dim, config.n_kv_heads, config.context_length) == (11008, 32, 2048)
    model, report = assemble(config, found[0], dtype=None)
    assert report.loaded == 291 and report.fits
    assert sum(p.numel() for p in model.parameters()) == 6_738_415_616


@pytest.mark.parametrize("broken", ["missing", "unexpected", "shape"])
def test_one_wrong_tensor_of_llama_7b_is_named(broken: str) -> None:
    state = hollow(llama_7b(), torch.float16)
    name = "layers.17.feed_forward.w2.weight"
    if broken == "missing":
        del state[name]
    elif broken == "unexpected":
        name = "layers.17.feed_forward.w4.weight"
        state[name] = torch.ones(1).half()
    else:
        state[name] = torch.ones(1, 1).half().expand(4096, 11007)
    with pytest.raises(UnfitError, match=name.replace(".", r"\.")):
        check(LLAMA_7B, [state])


@pytest.mark.parametrize(
    ("params", "width", "kv"),
    [
        ({"dim": 4096, "multiple_of": 256, "n_heads": 32}, 11008, 32),  # 7B
        ({"dim": 5120, "multiple_of": 256, "n_heads": 40}, 13824, 40),  # 13B
        ({"dim": 8192, "multiple_of": 256, "n_heads": 64}, 22016, 64),  # 65B
        (
            {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8},
            28672, 8,
        ),  # LLaMA 2 70B
        (
            {"dim": 4096, "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "n_heads": 32, "n_kv_heads": 8,
             "rope_theta": 500000.0, "vocab_size": 128256},
            14336, 8,
        ),  # LLaMA 3 8B
    ],
)  # fmt: skip
def test_sizes_of_the_releases(params: dict[str, Any], width: int, kv: int) -> None:
    config = meta_config({"n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1} | params, 32000)
    assert (config.ffn_dim, config.n_kv_heads) == (width, kv)
    assert config.vocab_size == (32000 if params.get("vocab_size", -1) == -1 else 128256)
    assert config.context_length == (8192 if "rope_theta" in params else 2048)
    assert ffn_dim(params["dim"], params["multiple_of"], params.get("ffn_dim_multiplier")) == width


# ---------------------------------------------------------------- conversion


def converted(
    tmp_path: Path, parts: list[dict[str, Tensor]], name: str = "m", **params: Any
) -> Path:
    folder = write_meta(tmp_path / name / "7B", parts, PARAMS | params)
    target = tmp_path / f"{name}.safetensors"
    convert(folder, target)
    return target


@torch.inference_mode()
def test_a_converted_file_loads_and_runs(tmp_path: Path) -> None:
    state = tiny_base()
    target = converted(tmp_path, [state])
    model, report = load_decoder(target)
    assert report.loaded == 30 and report.ignored == ("rope.freqs",)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name].float()), name
    assert model(IDS).isfinite().all()
    with safe_open(target, "pt") as file:
        about = file.metadata()
    assert json.loads(about["params"]) == PARAMS and about["format"] == FORMAT
    assert same(about["identity"], report.identity) is True


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("llama3", [False, True])
def test_shards_are_merged(tmp_path: Path, count: int, llama3: bool) -> None:
    state = tiny_base(n_kv_heads=2) if llama3 else tiny_base()
    extra = {"n_kv_heads": 2} if llama3 else {}
    if llama3 and count == 4:
        state, extra = tiny_base(), {}
    target = converted(tmp_path, shards(state, count, llama3=llama3), **extra)
    found = load_file(target)
    assert set(found) == set(state) - {"rope.freqs"}
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name]), name


def test_identity_survives_conversion_and_type(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    one = converted(tmp_path, [tiny_base()], "one")
    two = converted(tmp_path, shards(tiny_base(), 2), "two")
    other = converted(tmp_path, [tiny_base(seed=1)], "other")
    marks = [
        load_decoder(p, dtype=d)[1].identity
        for p, d in ((one, torch.float32), (two, torch.bfloat16))
    ]
    assert marks[0] == marks[1] and marks[0].startswith("weights:")
    assert same(marks[0], load_decoder(other)[1].identity) is False
    # The same weights as Hugging Face lays them out.
    theirs = LlamaForCausalLM(
        LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=88, num_hidden_layers=3,
                    num_attention_heads=4, max_position_embeddings=64, rms_norm_eps=1e-5)
    )  # fmt: skip
    names = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
             "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
             "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
             "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm"}  # fmt: skip
    mapped: dict[str, Tensor] = {}
    for name, tensor in load_file(one).items():
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            stem = rest.removesuffix(".weight")
            if stem in ("attention.wq", "attention.wk"):
                tensor = tensor.view(4, 4, 2, 32).transpose(1, 2).reshape(32, 32)
            mapped[f"model.layers.{number}.{names[stem]}.weight"] = tensor.float()
        else:
            top = {
                "tok_embeddings": "model.embed_tokens",
                "norm": "model.norm",
                "output": "lm_head",
            }
            mapped[f"{top[name.split('.')[0]]}.weight"] = tensor.float()
    theirs.load_state_dict(mapped, strict=True)
    theirs.eval().save_pretrained(tmp_path / "hf")
    model, report = load_decoder(tmp_path / "hf")
    assert report.identity == marks[0]
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS), load_decoder(one)[0](IDS), atol=1e-4, rtol=1e-4)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    """Beside the weights or one level up, as Meta lays it out; never over one that is there."""
    folder = write_meta(tmp_path / "in" / "7B", [tiny_base()])
    (folder.parent / "tokenizer.model").write_bytes(b"above")
    (tmp_path / "out").mkdir()
    convert(folder, tmp_path / "out" / "a.safetensors")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"above"
    (folder / "tokenizer.model").write_bytes(b"beside")
    convert(folder, tmp_path / "out" / "b.safetensors")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"above"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("no_params", "params.json"),
        ("bad_params", "params.json"),
        ("list_params", "table"),
        ("unknown_param", "moe"),
        ("negative", "width"),
        ("huge", "n_layers"),
        ("lost_shard", "consolidated"),
        ("other_names", "differ"),
        ("other_model", "disagree"),
        ("other_dim", "does not fit"),
        ("not_a_pickle", "can't be read"),
        ("code", "can't be read"),
        ("no_dict", "not a state dict"),
        ("no_tensor", "not a tensor"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: str, said: str) -> None:
    parts, params = shards(tiny_base(), 2), dict(PARAMS)
    if change == "other_names":
        del parts[1]["norm.weight"]
    elif change == "other_model":
        parts[1]["norm.weight"] += 1
    elif change == "other_dim":
        params["multiple_of"] = 16
    elif change == "unknown_param":
        params["moe"] = 8
    elif change == "negative":
        params["dim"] = -32
    elif change == "huge":
        params["n_layers"] = 10**9
    folder = write_meta(tmp_path / "m", parts, params)
    first = folder / "consolidated.00.pth"
    if change == "no_params":
        (folder / "params.json").unlink()
    elif change == "bad_params":
        (folder / "params.json").write_text("{")
    elif change == "list_params":
        (folder / "params.json").write_text("[]")
    elif change == "lost_shard":
        first.rename(folder / "consolidated.07.pth")
    elif change == "not_a_pickle":
        first.write_bytes(b"nothing of the kind")
    elif change == "code":
        torch.save({"a": print}, first)
    elif change == "no_dict":
        torch.save([1, 2], first)
    elif change == "no_tensor":
        torch.save({"a": 1}, first)
    with pytest.raises(ModelError, match=said):
        convert(folder, tmp_path / "out.safetensors")


def test_a_folder_of_metas_says_the_command(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "m", [tiny_base()])
    with pytest.raises(ModelError, match="anybind convert llama-meta"):
        load_decoder(folder)
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="llama-meta"):
        load_decoder(tmp_path / "x.safetensors")


# ---------------------------------------------------------------- deltas


def test_a_delta_is_added_in_float32(tmp_path: Path) -> None:
    base, step = tiny_base(), tiny_base(seed=5)
    one, two = converted(tmp_path, [base], "base"), converted(tmp_path, [step], "delta")
    mark = merge_delta(one, two, tmp_path / "sum.safetensors")
    found = load_file(tmp_path / "sum.safetensors")
    assert set(found) == set(base) - {"rope.freqs"}
    for name, tensor in found.items():
        assert torch.equal(tensor, (base[name].float() + step[name].float()).half()), name
    model, report = load_decoder(tmp_path / "sum.safetensors")
    assert report.identity == mark and same(mark, load_decoder(one)[1].identity) is False
    assert model.config.dim == 32


@pytest.mark.parametrize("change", ["missing", "shape", "format", "damaged"])
def test_a_delta_of_something_else_is_refused(tmp_path: Path, change: str) -> None:
    one, two = converted(tmp_path, [tiny_base()], "base"), tmp_path / "delta.safetensors"
    state = load_file(one)
    metadata = {"format": FORMAT, "params": json.dumps(PARAMS)}
    if change == "missing":
        del state["layers.1.ffn_norm.weight"]
    elif change == "shape":
        state["norm.weight"] = torch.ones(16).half()
    elif change == "format":
        metadata = {}
    save_file(state, two, metadata)
    if change == "damaged":
        two.write_bytes(b"no")
    with pytest.raises(ModelError):
        merge_delta(one, two, tmp_path / "sum.safetensors")
    assert not list(tmp_path.glob("sum*"))


def test_merge_delta_is_a_command(tmp_path: Path) -> None:
    """A base converted before, a delta as it comes: converted in a process of its own."""
    from typer.testing import CliRunner

    from anybind.agent.cli.app import app

    one = converted(tmp_path, shards(tiny_base(), 2), "base")
    two = write_meta(tmp_path / "delta", [tiny_base(seed=5)])
    target = tmp_path / "out" / "sum.safetensors"
    done = CliRunner().invoke(app, ["merge-delta", str(one), str(two), str(target)])
    assert done.exit_code == 0, done.output
    assert "identity weights:" in done.output
    base, step = tiny_base(), tiny_base(seed=5)
    expected = (base["norm.weight"].float() + step["norm.weight"].float()).half()
    assert torch.equal(load_file(target)["norm.weight"], expected)
    assert [p.name for p in target.parent.iterdir()] == ["sum.safetensors"]
