"""The imagebind_LLM fixtures: bind network, injection, mixing and cache of the released kind.

Expected numbers were computed by the public reference code on tiny random weights. Cases that
carry LoRA and biases in the decoder are compared up to the bound feature.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from anybind.content import Embedding
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import assemble
from anybind.core_model.llama import KVCache, Llama, LlamaConfig
from anybind.core_model.mixing import mix
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


@cache
@torch.inference_mode(False)
def decoder() -> Llama:
    params = json.loads((FOLDER / "llm_tiny_params.json").read_text())
    state = load_file(FOLDER / "llm_tiny_base.safetensors")
    state.pop("rope.freqs")
    config = LlamaConfig(
        vocab_size=state["tok_embeddings.weight"].shape[0], dim=params["dim"],
        n_layers=params["n_layers"], n_heads=params["n_heads"], n_kv_heads=params["n_heads"],
        ffn_dim=state["layers.0.feed_forward.w1.weight"].shape[0], norm_eps=params["norm_eps"],
        context_length=128,
    )  # fmt: skip
    return assemble(config, state)[0]


@cache
@torch.inference_mode(False)
def bind(adapter: str, zero_gates: bool = False) -> BindNetwork:
    """The bind network of a released file, its names mapped onto ours."""
    raw = load_file(FOLDER / "llm_tiny_adapter.safetensors")
    legacy = adapter == "adapter_legacy"
    if legacy:
        raw = {k: v for k, v in raw.items() if not k.startswith("image_bind_")}
        raw |= load_file(FOLDER / "llm_tiny_adapter_legacy_bridge.safetensors")
    query = raw["prefix_query.weight"]
    layers, dim = query.shape
    gates = [raw[f"llama.layers.{i}.attention.gate"].flatten() for i in range(layers)]
    config = BindConfig(
        joint_dim=raw["image_bind_proj.weight"].shape[1], model_dim=dim,
        hidden_dim=raw["image_bind_f1_1.weight"].shape[0], n_layers=layers,
        n_heads=gates[0].numel(), injection="attention_output", norm="layer" if legacy else "rms",
    )  # fmt: skip
    state = {"query": query, "gate": torch.stack(gates) * (0.0 if zero_gates else 1.0)}
    for name, tensor in raw.items():
        if name.startswith("image_bind_proj."):
            state[name.removeprefix("image_bind_")] = tensor
        elif name.startswith("image_bind_"):
            stem, kind = name.removeprefix("image_bind_").rsplit(".", 1)
            part, number = stem.rsplit("_", 1)
            state[f"blocks.{int(number) - 1}.{part}.{kind}"] = tensor
    network = BindNetwork(config)
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


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


@pytest.mark.parametrize("name", ["stage1", "base_only"])
@torch.inference_mode()
def test_logits_and_greedy_reply(name: str) -> None:
    inject = None
    if case(name)["adapter"] != "none":
        network = bind(case(name)["adapter"])
        inject = network(torch.from_numpy(conditioned(name))[None], decoder())
    ids = torch.from_numpy(arrays()[case(name)["tokens"]])
    site: Any = "attention_output"
    logits = decoder()(ids, inject=inject, site=site)
    np.testing.assert_allclose(logits.numpy(), arrays()[f"{name}.logits"], atol=2e-4)
    cache = KVCache(decoder().config, 1, 64)
    reply: list[int] = []
    step = ids
    for _ in range(table()["gen"]["max_gen_len"]):
        out = decoder()(step, cache=cache, inject=inject, site=site, last_only=True)
        token = int(out[0, -1].argmax())
        if token == table()["gen"]["eos_id"]:
            break
        reply.append(token)
        step = torch.tensor([[token]])
    assert reply == arrays()[f"{name}.greedy"].tolist()


@torch.inference_mode()
def test_a_wrong_gate_would_show() -> None:
    """The condition moves the logits by far more than the tolerance above."""
    ids = torch.from_numpy(arrays()[case("stage1")["tokens"]])
    moved = arrays()["stage1.logits"] - decoder()(ids).numpy()
    assert np.abs(moved).max() > 0.05


def _training_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    feature = torch.from_numpy(arrays()["feature_batch2"])
    feature = feature / feature.norm(dim=-1, keepdim=True) / (1 + 1e-6)
    ids, labels = (torch.from_numpy(arrays()[f"{k}_batch2"]) for k in ("tokens", "labels"))
    return feature, ids, labels


def test_first_stage_loss_and_gradients() -> None:
    """Two rows with a condition each; gradients reach bridge, queries and gates."""
    network = BindNetwork(bind("adapter").config)
    network.load_state_dict(bind("adapter").state_dict())
    feature, ids, labels = _training_batch()
    logits = decoder()(ids, inject=network(feature, decoder()), site="attention_output")
    expected = arrays()["train_stage1.logits"]
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=2e-4)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=0
    )
    np.testing.assert_allclose(loss.item(), arrays()["train_stage1.loss"], atol=1e-5)
    loss.backward()
    grads = {n: p.grad.numpy() for n, p in network.named_parameters() if p.grad is not None}
    wanted = {
        "image_bind_proj.bias": grads["proj.bias"],
        "image_bind_f2_3.weight": grads["blocks.2.f2.weight"],
        "prefix_query.weight": grads["query"],
        "llama.layers.0.attention.gate": grads["gate"][0],
        "llama.layers.3.attention.gate": grads["gate"][3],
    }
    for name, got in wanted.items():
        theirs = arrays()[f"train_stage1.grad.{name}"]
        np.testing.assert_allclose(got, theirs.reshape(got.shape), atol=1e-5, err_msg=name)
