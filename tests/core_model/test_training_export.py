"""What comes out of a run: every form gives the logits of what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from torch import Tensor

from anybind.contracts import Build
from anybind.core_model import factory
from anybind.core_model.adapters import apply_adapter, load_adapter, load_bind, load_tuned
from anybind.core_model.checkpoints import load_decoder
from anybind.core_model.llama import Llama
from anybind.core_model.training.building import Parts, build_parts
from anybind.core_model.training.export import export
from anybind.core_model.training.trainer import train
from anybind.errors import AnybindError, ModelError, UserError
from tests.core_model.train_tiny import JOINT, TinyBatches, stage, write_base

TOKENS = torch.tensor([[1, 5, 9, 30, 31, 7, 12, 4]])
FEATURE = torch.nn.functional.normalize(torch.arange(1.0, JOINT + 1), dim=0)
TUNED = ["bind", "queries", "gates", "lora", "biases", "norms"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("export")
    write_base(folder / "base")
    return folder


def run_of(folder: Path, name: str, groups: list[str], **changes: Any) -> tuple[Path, Parts]:
    """A run and its model as it was at the end."""
    config = stage(
        folder / "base", steps=4, trainables__groups=groups, trainables__lora={"rank": 3},
        optimizer__lr=0.05, optimizer__floor=0.5, **changes,
    )  # fmt: skip
    parts = build_parts(config)
    # An earlier test may have made it: the same seed gives the same run.
    shutil.rmtree(folder / name, ignore_errors=True)
    train(config, folder / name, parts=parts, batches=TinyBatches(), live=False)
    return folder / name, parts


def logits(decoder: Llama, bind: Any = None, site: str = "residual") -> Tensor:
    with torch.no_grad():
        inject = bind(FEATURE[None], decoder) if bind is not None else None
        return decoder(TOKENS, inject=inject, site=site)


# ---------------------------------------------------------------- our own forms


def test_an_adapter_of_released_names_is_what_was_trained(runs: Path) -> None:
    run, parts = run_of(runs, "released", TUNED, model__bind__injection="attention_output",
                        model__bind__input_scale=1.0)  # fmt: skip
    out = runs / "adapter.safetensors"
    export(run, "adapter", out)
    names = set(load_file(out))
    assert {"prefix_query.weight", "image_bind_f1_1.weight"} < names
    assert "llama.layers.3.feed_forward.lora_w2_l1.weight" in names
    build = Build(
        weights={"decoder": runs / "base", "adapter": out},
        options={"name": "t", "chat": "alpaca", "space": "tiny"},
    )
    model = factory.build(build)  # checks the base by its identity
    wanted = logits(parts.trainee.decoder, parts.trainee.bind, "attention_output")
    got = logits(model.decoder, model.bind, "attention_output")
    torch.testing.assert_close(got, wanted)
    # On the same base in Meta's layout, where rows of wq and wk lie otherwise, just the same.
    write_meta(parts, runs / "released-base.safetensors", runs / "base")
    meta, _ = load_decoder(runs / "released-base.safetensors")
    apply_adapter(meta, load_adapter(out))
    torch.testing.assert_close(logits(meta, model.bind, "attention_output"), wanted)
    assert load_adapter(out).about["stage"] == "tiny"


def test_a_bind_network_is_what_was_trained(runs: Path) -> None:
    run, parts = run_of(runs, "bind", ["bind", "queries", "gates"])
    done = export(run, "bind", runs / "bind.safetensors")
    assert done.notes == []
    build = Build(
        weights={"decoder": runs / "base", "bind": runs / "bind.safetensors"},
        options={"name": "t", "chat": "alpaca", "space": "tiny"},
    )
    model = factory.build(build)
    wanted = logits(parts.trainee.decoder, parts.trainee.bind)
    torch.testing.assert_close(logits(model.decoder, model.bind), wanted, atol=5e-3, rtol=5e-3)
    with pytest.raises(UserError, match="is there already"):
        export(run, "bind", runs / "bind.safetensors")
    with pytest.raises(ModelError, match="save_bind"):
        export(run, "adapter", runs / "no.safetensors")


@pytest.mark.parametrize("options", [{}, {"merge": True}, {"precision": "bfloat16"}])
def test_a_bind_file_holds_what_it_tunes(runs: Path, options: dict[str, Any]) -> None:
    run, parts = run_of(runs, "tuned", ["bind", "gates", "lora", "biases", "norms"])
    wanted = logits(parts.trainee.decoder, parts.trainee.bind)
    out = runs / "tuned.safetensors"
    out.unlink(missing_ok=True)
    export(run, "bind", out)
    named = {"name": "t", "chat": "alpaca", "space": "tiny"}
    model = factory.build(
        Build(weights={"decoder": runs / "base", "bind": out}, options=named | options)
    )
    near = 0.15 if "precision" in options else 1e-2
    got = logits(model.decoder, model.bind).float()
    torch.testing.assert_close(got, wanted, atol=near, rtol=near)
    plain = logits(load_decoder(runs / "base")[0], parts.trainee.bind)
    assert (plain - wanted).abs().max() > 0.3  # what is tuned is much of it
    with pytest.raises(ModelError, match="tunes the decoder"):
        load_bind(out)


def test_a_tuned_file_fits_its_base_in_the_other_layout(runs: Path) -> None:
    run, parts = run_of(runs, "tuned", ["bind", "gates", "lora", "biases", "norms"])
    wanted = logits(parts.trainee.decoder, parts.trainee.bind)
    out, base = runs / "tuned-too.safetensors", runs / "tuned-base.safetensors"
    export(run, "bind", out)
    write_meta(parts, base, runs / "base")
    meta, _ = load_decoder(base)
    found = load_tuned(out)
    apply_adapter(meta, found)
    torch.testing.assert_close(logits(meta, found.bind), wanted, atol=1e-2, rtol=1e-2)
    # And training can go on from it.
    again = build_parts(stage(runs / "base", model__bind=None, model__init=str(out)))
    here = logits(again.trainee.decoder, again.trainee.bind)
    torch.testing.assert_close(here, wanted, atol=1e-2, rtol=1e-2)


# ---------------------------------------------------------------- Hugging Face


def hf_logits(folder: Path, change: Any = None) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if change is not None:
        change(model)
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("stored", ["half", "interleaved"])
def test_a_merged_folder_runs_in_transformers(runs: Path, stored: str) -> None:
    groups = ["bind", "gates", "lora", "biases", "norms"]
    run, parts = run_of(runs, "merged", groups)
    decoder = None
    if stored == "interleaved":
        decoder = runs / "meta.safetensors"
        write_meta(parts, decoder, runs / "base")
    out = runs / f"merged-{stored}"
    done = export(run, "merged", out, decoder=decoder)
    torch.testing.assert_close(
        hf_logits(out), logits(parts.trainee.decoder), atol=2e-4, rtol=1e-4
    )  # fmt: skip
    # Our own loaders take it, with its bind network, as a base and what belongs to it.
    weights = {"decoder": out, "bind": out / "bind.safetensors", "tokenizer": runs / "base"}
    build = Build(weights=weights, options={"name": "t", "chat": "alpaca", "space": "tiny"})
    model = factory.build(build)
    wanted = logits(parts.trainee.decoder, parts.trainee.bind)
    torch.testing.assert_close(logits(model.decoder, model.bind), wanted, atol=1e-2, rtol=1e-2)
    assert (out / "tokenizer.json").exists() == (stored == "half")
    assert bool(done.notes) == (stored == "interleaved")


def write_meta(parts: Parts, path: Path, base: Path) -> None:
    """The base of a run as Meta would have stored it: rows of wq and wk in pairs."""
    from anybind.core_model.checkpoints.meta import FORMAT

    decoder, _ = load_decoder(base)
    c = decoder.config
    state = dict(decoder.state_dict())
    for name in list(state):
        heads = {"wq": c.n_heads, "wk": c.n_kv_heads}.get(name.split(".")[-2])
        if heads:
            rows = state[name].view(heads, 2, c.head_dim // 2, -1)
            state[name] = rows.transpose(1, 2).reshape(state[name].shape).contiguous()
    params = {
        "dim": c.dim, "n_layers": c.n_layers, "n_heads": c.n_heads, "n_kv_heads": c.n_kv_heads,
        "multiple_of": 1, "ffn_dim_multiplier": (c.ffn_dim + 0.5) / int(8 * c.dim / 3),
        "norm_eps": c.norm_eps, "vocab_size": c.vocab_size, "max_seq_len": c.context_length,
    }  # fmt: skip
    save_file(
        {n: t.clone() for n, t in state.items()}, path,
        {"format": FORMAT, "params": json.dumps(params)},
    )  # fmt: skip


def test_a_peft_folder_is_the_updates(runs: Path) -> None:
    run, parts = run_of(runs, "peft", ["bind", "gates", "lora"])
    out = runs / "peft-folder"
    export(run, "hf", out)
    table = json.loads((out / "adapter_config.json").read_text())
    assert table["r"] == table["lora_alpha"] == 3 and "q_proj" in table["target_modules"]
    tensors = load_file(out / "adapter_model.safetensors")

    def apply(model: Any) -> None:
        modules = dict(model.named_modules())
        for name, a in tensors.items():
            if name.endswith(".lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = tensors[name.replace("lora_A", "lora_B")]
                modules[module].weight.data += b @ a

    torch.testing.assert_close(
        hf_logits(runs / "base", apply), logits(parts.trainee.decoder), atol=2e-4, rtol=1e-4
    )
    load_bind(out / "bind.safetensors")


def test_what_a_merged_decoder_loses_is_said(runs: Path) -> None:
    run, _ = run_of(runs, "released", TUNED, model__bind__injection="attention_output",
                    model__bind__input_scale=1.0)  # fmt: skip
    done = export(run, "merged", runs / "merged-attention")
    assert any("value projection" in note for note in done.notes)
    assert not (runs / "merged-attention" / "bind.safetensors").exists()


# ---------------------------------------------------------------- GGUF


def gguf_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    reader = GGUFReader(path)
    return {
        t.name: np.array(t.data).reshape(tuple(reversed(t.shape.tolist()))) for t in reader.tensors
    }


def test_a_control_vector_is_the_injection(runs: Path) -> None:
    """Added at the end of each block by hand, as llama.cpp does, it gives the very same logits."""
    run, parts = run_of(runs, "control", ["bind", "queries", "gates"], model__bind__first_layer=2)
    condition = runs / "condition.safetensors"
    save_file({"embeddings": torch.stack([FEATURE, -FEATURE])}, condition)
    done = export(run, "gguf", runs / "gguf", condition=condition)
    assert [f.name for f in done.files] == ["control-0.gguf", "control-1.gguf"]
    path = runs / "gguf" / "control-0.gguf"
    fields = GGUFReader(path).fields
    assert fields["general.architecture"].contents() == "controlvector"
    assert fields["controlvector.model_hint"].contents() == "llama"
    found = gguf_tensors(path)
    assert sorted(found) == ["direction.1", "direction.2", "direction.3"]
    assert not found["direction.3"].any()  # behind the last block nothing is injected
    decoder, bind = parts.trainee.decoder.eval(), parts.trainee.bind
    handles = []
    for number, layer in enumerate(decoder.layers):
        if number:  # never block 0
            vector = torch.from_numpy(found[f"direction.{number}"])
            handles.append(layer.register_forward_hook(lambda m, i, o, v=vector: o + v))
    by_hand = logits(decoder)
    for handle in handles:
        handle.remove()
    assert torch.equal(by_hand, logits(decoder, bind))
    assert not torch.equal(by_hand, logits(decoder))


def test_a_gguf_lora_is_the_updates(runs: Path) -> None:
    run, parts = run_of(runs, "lora", ["bind", "gates", "lora"])
    export(run, "gguf", runs / "gguf-lora")
    path = runs / "gguf-lora" / "lora.gguf"
    fields = GGUFReader(path).fields
    assert fields["general.type"].contents() == "adapter"
    assert fields["adapter.type"].contents() == "lora"
    scale = fields["adapter.lora.alpha"].contents() / 3
    found = gguf_tensors(path)
    assert found["blk.0.attn_q.weight.lora_a"].shape == (3, 32)
    assert found["blk.0.ffn_down.weight.lora_b"].shape == (32, 3)
    # A base as GGUF has it: rows of wq and wk in pairs. The updates must fit that.
    file = runs / "gguf-base.safetensors"
    write_meta(parts, file, runs / "base")
    decoder, _ = load_decoder(file)
    names = {"attn_q": "wq", "attn_k": "wk", "attn_v": "wv", "attn_output": "wo"}
    names |= {"ffn_gate": "w1", "ffn_down": "w2", "ffn_up": "w3"}
    for name, a in found.items():
        if name.endswith("lora_a"):
            _, number, part, *_ = name.split(".")
            layer = decoder.layers[int(number)]
            parent = layer.attention if part.startswith("attn") else layer.feed_forward
            b = found[name.replace("lora_a", "lora_b")]
            getattr(parent, names[part]).weight.data += scale * torch.from_numpy(b @ a)
    torch.testing.assert_close(
        logits(decoder), logits(parts.trainee.decoder), atol=2e-4, rtol=1e-4
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "groups", "changes", "said"),
    [
        ("bind", ["bind", "queries", "gates"], {}, "first_layer 2"),
        ("merged", ["bind", "gates", "lora", "biases", "norms"], {}, "--as merged"),
        (
            "attention", ["bind", "gates"], {"model__bind__injection": "attention_output"},
            "attention_output",
        ),
    ],
)  # fmt: skip
def test_what_gguf_can_not_say_is_refused(
    runs: Path, name: str, groups: list[str], changes: dict[str, Any], said: str
) -> None:
    run, _ = run_of(runs, name, groups, **changes)
    condition = runs / "one.safetensors"
    save_file({"embeddings": FEATURE[None].clone()}, condition)
    with pytest.raises(UserError, match=said):
        export(run, "gguf", runs / f"no-{name}", condition=condition)
    assert not (runs / f"no-{name}").exists()


def test_another_decoder_is_refused(runs: Path) -> None:
    run, _ = run_of(runs, "peft", ["bind", "gates", "lora"])
    other = write_base(runs / "other", kv_heads=4)
    with pytest.raises(ModelError, match="other weights"):
        export(run, "merged", runs / "never", decoder=other)
    with pytest.raises(AnybindError, match="--decoder"):
        export(run, "merged", runs / "never2", decoder=runs / "nowhere")
    with pytest.raises(UserError, match="no low-rank"):
        export(run_of(runs, "bind", ["bind", "queries", "gates"])[0], "hf", runs / "never3")
