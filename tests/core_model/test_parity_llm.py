"""The imagebind_LLM fixtures: mixing, cache, bind network, injection, LoRA, biases, tuned norms.

Expected numbers were computed by the public reference code on tiny random weights.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from anybind.content import Embedding, Provenance
from anybind.core_model.adapter_names import ours
from anybind.core_model.adapters import Adapter, adapter_from_state, apply_adapter
from anybind.core_model.bind import BindNetwork
from anybind.core_model.checkpoints import assemble, meta_config
from anybind.core_model.llama import KVCache, Llama
from anybind.core_model.mixing import generator_feature, mix
from anybind.core_model.retrieval import RetrievalCache

torch.set_num_threads(1)

FOLDER = Path(
    os.environ.get("ANYBIND_PARITY_DIR") or Path(__file__).parent.parent / "data" / "parity"
)


@cache
def table() -> dict[str, Any]:
    return json.loads((FOLDER / "llm_tiny_cases.json").read_text())


@cache
def arrays() -> Any:
    return np.load(FOLDER / "llm_tiny_io.npz")


def names(*, cached: bool = False) -> list[str]:
    """Cases that start from joint features (not from pixels) and have a condition."""
    found = json.loads((FOLDER / "llm_tiny_cases.json").read_text())["cases"]
    return [
        c["name"]
        for c in found
        if all(":" not in i[1] for i in c["inputs"])
        and c["adapter"] != "none"
        and (not cached or "cache" in c)
    ]


def case(name: str) -> dict[str, Any]:
    return next(c for c in table()["cases"] if c["name"] == name)


def fresh_base() -> Llama:
    params = json.loads((FOLDER / "llm_tiny_params.json").read_text())
    state = load_file(FOLDER / "llm_tiny_base.safetensors")
    state.pop("rope.freqs")
    config = meta_config(params, state["tok_embeddings.weight"].shape[0])
    return assemble(replace(config, context_length=128), state)[0]


@cache
@torch.inference_mode(False)
def base() -> Llama:
    return fresh_base()


@cache
@torch.inference_mode(False)
def adapter(kind: str) -> Adapter:
    raw = load_file(FOLDER / "llm_tiny_adapter.safetensors")
    if kind == "adapter_stage1_subset":
        kept = ("image_bind_", "prefix_query")
        raw = {k: v for k, v in raw.items() if k.startswith(kept) or k.endswith("gate")}
    if kind == "adapter_legacy":
        raw = {k: v for k, v in raw.items() if not k.startswith("image_bind_")}
        raw |= load_file(FOLDER / "llm_tiny_adapter_legacy_bridge.safetensors")
    return adapter_from_state(raw)


@cache
@torch.inference_mode(False)
def decoder(kind: str, merge: bool = False) -> Llama:
    """The base, tuned by the adapter of a case."""
    model = fresh_base()
    if kind != "none":
        apply_adapter(model, adapter(kind), merge=merge)
    return model


@cache
@torch.inference_mode(False)
def bind(kind: str, zero_gates: bool = False) -> BindNetwork:
    network = copy.deepcopy(adapter(kind).bind)
    if zero_gates:
        network.gate.zero_()
    return network


def mixed(name: str) -> NDArray[np.float32]:
    features: list[Embedding] = []
    for _, key, _ in case(name)["inputs"]:
        row = arrays()[key][0]
        features.append(Embedding.of(row / np.linalg.norm(row)))
    return mix(features, [w for *_, w in case(name)["inputs"]]).data


def conditioned(name: str) -> NDArray[np.float32]:
    """The feature that the bind network gets [C]."""
    settings = case(name).get("cache")
    if settings is None:
        return mixed(name)
    return retrieval(settings).apply(mixed(name)[None])[0]


def retrieval(settings: dict[str, Any]) -> RetrievalCache:
    return RetrievalCache(
        arrays()["cache_keys"], space="", top_k=settings["top_k"], weight=settings["weight"],
        temperature=settings["temperature"], mode="released",
    )  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_mix(name: str) -> None:
    np.testing.assert_allclose(mixed(name), arrays()[f"{name}.mix"][0], atol=1e-6)


@pytest.mark.parametrize("name", names(cached=True))
def test_cached(name: str) -> None:
    np.testing.assert_allclose(conditioned(name), arrays()[f"{name}.cached"][0], atol=1e-6)


@pytest.mark.parametrize("name", names())
@torch.inference_mode()
def test_bind(name: str) -> None:
    network = bind(case(name)["adapter"], bool(case(name).get("zero_gates")))
    got = network.bind(torch.from_numpy(conditioned(name))[None])
    np.testing.assert_allclose(got.numpy(), arrays()[f"{name}.bind"][0], atol=1e-5)


def test_the_cases_are_those_we_know() -> None:
    """A folder without cases would make every test above pass on nothing."""
    assert set(names()) >= {"image", "stage1", "mix", "legacy"}
    assert len(names(cached=True)) >= 3


def all_names() -> list[str]:
    found = json.loads((FOLDER / "llm_tiny_cases.json").read_text())["cases"]
    return [c["name"] for c in found if all(":" not in i[1] for i in c["inputs"])]


def injected(name: str, model: Llama) -> torch.Tensor | None:
    if case(name)["adapter"] == "none":
        return None
    network = bind(case(name)["adapter"], bool(case(name).get("zero_gates")))
    return network(torch.from_numpy(conditioned(name))[None], model)


def greedy(model: Llama, ids: torch.Tensor, inject: torch.Tensor | None) -> list[int]:
    kv = KVCache(model.config, 1, 64)
    reply: list[int] = []
    for _ in range(table()["gen"]["max_gen_len"]):
        out = model(ids, cache=kv, inject=inject, site="attention_output", last_only=True)
        token = int(out[0, -1].argmax())
        if token == table()["gen"]["eos_id"]:
            break
        reply.append(token)
        ids = torch.tensor([[token]])
    return reply


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("name", all_names())
@torch.inference_mode()
def test_logits_and_greedy_reply(name: str, merge: bool) -> None:
    model = decoder(case(name)["adapter"], merge)
    inject = injected(name, model)
    ids = torch.from_numpy(arrays()[case(name)["tokens"]])
    logits = model(ids, inject=inject, site="attention_output")
    np.testing.assert_allclose(logits.numpy(), arrays()[f"{name}.logits"], atol=2e-4)
    assert greedy(model, ids, inject) == arrays()[f"{name}.greedy"].tolist()


@torch.inference_mode()
def test_a_wrong_part_would_show() -> None:
    """Each part of the adapter moves the logits by far more than the tolerance above."""
    ids = torch.from_numpy(arrays()[case("image")["tokens"]])
    whole = arrays()["image.logits"]

    def moved(without: str) -> float:
        model = fresh_base()
        kept = {n: t for n, t in adapter("adapter").decoder.items() if without not in n}
        biases = () if without == "bias" else adapter("adapter").biases
        rank = 0 if without == "lora" else 16
        made = replace(adapter("adapter"), decoder=kept, biases=biases, rank=rank)
        apply_adapter(model, made)
        got = model(ids, inject=injected("image", model), site="attention_output")
        return float(np.abs(got.numpy() - whole).max())

    for part in ("bias", "lora", "norm", "wv.lora", "wo.lora", "wo.bias", "w2.bias"):
        assert moved(part) > 0.01, part
    model = decoder("adapter")
    assert np.abs(model(ids).numpy() - whole).max() > 0.01  # the condition itself


@torch.inference_mode()
def test_rows_with_their_own_conditions_are_as_one_by_one() -> None:
    """The released code fails at two rows."""
    model = decoder("adapter")
    names = ["image", "mix", "cache_other", "mix_cache"]
    rows = torch.stack([torch.from_numpy(conditioned(n)) for n in names])
    ids = torch.from_numpy(arrays()["tokens_24"]).expand(len(names), -1)
    inject = bind("adapter")(rows, model)
    together = model(ids, inject=inject, site="attention_output")
    for i, name in enumerate(names):
        np.testing.assert_allclose(together[i].numpy(), arrays()[f"{name}.logits"][0], atol=2e-4)
    assert (together[0] - together[1]).abs().max() > 0.05


def test_sizes_and_report_of_the_adapter() -> None:
    found = adapter("adapter")
    assert (found.rank, found.biases) == (16, ("wq", "wo", "w1", "w2", "w3"))
    assert found.report.loaded == 104 and found.report.ignored == ()
    assert (found.bind.config.norm, adapter("adapter_legacy").bind.config.norm) == ("rms", "layer")
    assert adapter("adapter_stage1_subset").decoder == {}


def _training_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    feature = torch.from_numpy(arrays()["feature_batch2"])
    feature = feature / feature.norm(dim=-1, keepdim=True) / (1 + 1e-6)
    ids, labels = (torch.from_numpy(arrays()[f"{k}_batch2"]) for k in ("tokens", "labels"))
    return feature, ids, labels


@pytest.mark.parametrize("stage", ["train_full", "train_stage1"])
def test_loss_and_gradients(stage: str) -> None:
    """Two rows with a condition each; every gradient that the reference recorded."""
    kind = "adapter" if stage == "train_full" else "adapter_stage1_subset"
    network, model = copy.deepcopy(bind(kind)), fresh_base()
    if stage == "train_full":
        apply_adapter(model, adapter(kind))
    network.requires_grad_(True)
    model.requires_grad_(True)
    feature, ids, labels = _training_batch()
    logits = model(ids, inject=network(feature, model), site="attention_output")
    expected = arrays()[f"{stage}.logits"]
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=2e-4)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=0
    )
    np.testing.assert_allclose(loss.item(), arrays()[f"{stage}.loss"], atol=1e-5)
    loss.backward()
    ours_by_name = dict(network.named_parameters()) | dict(model.named_parameters())
    wanted = [n for n in arrays().files if n.startswith(f"{stage}.grad.")]
    assert len(wanted) == (9 if stage == "train_full" else 5)
    for key in wanted:
        place = ours(key.removeprefix(f"{stage}.grad."))
        assert place is not None, key
        if place[0] == "gate":
            assert network.gate.grad is not None
            grad = network.gate.grad[int(place[1])]
        else:
            grad = ours_by_name[place[1]].grad
        assert grad is not None, key
        theirs = arrays()[key]
        np.testing.assert_allclose(grad.numpy(), theirs.reshape(grad.shape), atol=1e-5, err_msg=key)
        assert np.abs(theirs).max() > 1e-5, key


@pytest.mark.parametrize("name", ["unclip_cache", "unclip_nocache"])
def test_what_the_image_generator_gets(name: str) -> None:
    made = [
        dataclasses.replace(
            Embedding.of(row / np.linalg.norm(row)),
            raw=row,
            provenance=Provenance(f"encoder:{kind}"),
        )
        for kind, row in (("image", arrays()["feature_a"][0]), ("point", arrays()["feature_b"][0]))
    ]
    settings = {"top_k": 10, "temperature": 20, "weight": 0.5}
    got = generator_feature(
        made, [0.7, 0.9], cache=retrieval(settings) if name == "unclip_cache" else None
    )
    np.testing.assert_allclose(got, arrays()[f"{name}.embed"][0], atol=1e-5)
