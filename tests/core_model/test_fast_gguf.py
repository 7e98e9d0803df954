"""Quantised decoders from files: nothing is lost on the way, and SmolLM2 says the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anybind.assembly import Assembly
from anybind.contracts import Build
from anybind.core_model.adapters import load_tuned
from anybind.core_model.checkpoints import load_decoder
from anybind.core_model.factory import build
from anybind.core_model.fast import from_gguf, quantise
from anybind.core_model.fast.decoder import QuantisedLlama
from anybind.core_model.fast.packing import from_ggml, interleave, pack, stack
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.llama import Llama
from anybind.errors import ModelError, UserError

torch.set_num_threads(1)

TEXT = (Path(__file__).resolve().parents[2] / "LICENSE").read_text(encoding="utf-8")


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_ggml_blocks_are_taken_over_bit_for_bit(kind: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize
    from gguf.quants import quantize as ggml

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((40, 96)).astype(np.float32)
    raw = ggml(weights, GGMLQuantizationType[kind])
    blocks = from_ggml(raw.reshape(-1), kind, 40, 96)
    assert blocks is not None
    expected = dequantize(raw, GGMLQuantizationType[kind])
    assert np.array_equal(blocks.dequantise(), expected)
    assert np.abs(expected - weights).max() < 0.5
    # 40 rows leave a tile half empty; packing loses nothing either.
    assert np.array_equal(pack(blocks).dequantise(), expected)


def test_other_ggml_types_are_not_taken_for_ours() -> None:
    assert from_ggml(np.zeros(1, np.uint8), "Q6_K", 32, 256) is None


def test_stacks_and_interleaves() -> None:
    from anybind.core_model.fast.packing import quantise as quantised

    a, b = (quantised(torch.randn(32, 64), 4) for _ in range(2))
    assert np.array_equal(
        stack([a, b]).dequantise(), np.concatenate((a.dequantise(), b.dequantise()))
    )
    pairs = interleave(a, b).dequantise().reshape(2, 2, 16, 64)
    assert np.array_equal(pairs[:, 0].reshape(32, 64), a.dequantise())
    assert np.array_equal(pairs[:, 1].reshape(32, 64), b.dequantise())


# ---------------------------------------------------------------- SmolLM2


@pytest.fixture(scope="module")
def path(nano: Assembly) -> Path:
    return nano.weight("smollm2")


@pytest.fixture(scope="module")
def slow(path: Path) -> Llama:
    return load_decoder(path)[0]


@pytest.fixture(scope="module")
def fast(path: Path) -> QuantisedLlama:
    return from_gguf(path, "int4")[0]


def test_int4_holds_the_weights_of_the_file(fast: QuantisedLlama, slow: Llama) -> None:
    ours, theirs = fast.state_dict(), slow.state_dict()
    assert set(ours) == set(theirs) - {"output.weight"}
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name
    assert fast.config == slow.config
    # 4-bit blocks and an 8-bit head: less than a fifth of float32.
    assert fast.nbytes < 0.2 * 4 * sum(t.numel() for t in ours.values())


@torch.inference_mode()
def test_int4_chooses_the_same_tokens(
    fast: QuantisedLlama, slow: Llama, language: InjectedLanguageModel
) -> None:
    ids = torch.tensor([language.tokenizer.encode(TEXT)[:256]])
    expected, got = slow(ids)[0], fast(ids)[0]
    assert (expected.argmax(-1) == got.argmax(-1)).float().mean() >= 0.99
    logs = torch.log_softmax(expected, -1)
    divergence = (logs.exp() * (logs - torch.log_softmax(got, -1))).sum(-1)
    assert divergence.mean() < 1e-5
    assert divergence.max() < 1e-3


@torch.inference_mode()
def test_int8_is_near(slow: Llama, language: InjectedLanguageModel) -> None:
    ids = torch.tensor([language.tokenizer.encode(TEXT)[:128]])
    expected, got = slow(ids)[0], quantise(slow, "int8")(ids)[0]
    assert (expected.argmax(-1) == got.argmax(-1)).float().mean() >= 0.97
    logs = torch.log_softmax(expected, -1)
    assert (logs.exp() * (logs - torch.log_softmax(got, -1))).sum(-1).mean() < 1e-3


@pytest.fixture(scope="module")
def language(nano: Assembly) -> InjectedLanguageModel:
    """The decoder of the file in 4 bits, and nano's bind network without what it tuned besides."""
    weights = {"decoder": nano.weight(nano.bundle.model.weights["decoder"])}
    plain = build(Build(weights=weights, options={"chat": "chatml", "precision": "int4"}))
    bind = load_tuned(nano.weight("bind")).bind.eval().requires_grad_(False)
    profile = replace(plain.profile, injection=bind.config.injection, space=nano.bundle.space)
    return InjectedLanguageModel(plain.decoder, plain.tokenizer, bind, profile)


def test_the_language_model_says_the_same(
    fast: QuantisedLlama, language: InjectedLanguageModel
) -> None:
    """Text, scores, batches and a condition, through the language model."""
    from anybind.content import Embedding
    from anybind.contracts import Message, Sampling

    other = InjectedLanguageModel(fast, language.tokenizer, language.bind, language.profile)
    unit = np.ones(384, np.float32) / np.sqrt(384)
    condition = replace(Embedding.of(unit), space=language.profile.space)
    prompt = language.render([Message("user", "Name three animals that live in the sea.")])
    sampling = Sampling(max_tokens=24)
    for given in (None, condition):
        assert other.complete(prompt, given, sampling) == language.complete(prompt, given, sampling)
        scores = [m.score(prompt, [" A whale.", " A chair."], given) for m in (other, language)]
        assert np.allclose(*scores, atol=0.05)
    replies: list[Any] = [
        m.batch([prompt, "Once upon a time"], [condition, None], Sampling(max_tokens=12))
        for m in (other, language)
    ]
    assert replies[0] == replies[1]


def test_files_that_do_not_fit(path: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(path.read_bytes()[: 40 << 20])
    with pytest.raises(ModelError, match="outside the file|can't be read"):
        from_gguf(short, "int4")
    (tmp_path / "none.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match="can't be read"):
        from_gguf(tmp_path / "none.gguf", "int4")
    with pytest.raises(UserError, match="int8 or int4"):
        from_gguf(path, "float32")
