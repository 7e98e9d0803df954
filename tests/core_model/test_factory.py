"""The language model of a bundle from files: formats, adapters, precisions, and what is refused."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anybind.content import Embedding
from anybind.contracts import Build, Sampling
from anybind.core_model import factory
from anybind.core_model.adapters import load_adapter, load_bind, save_bind
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.convert import imagebind_llm, llama_meta
from anybind.errors import ModelError, UserError
from tests.core_model.llama_files import write_meta

torch.set_num_threads(1)

PARITY = Path(
    os.environ.get("ANYBIND_PARITY_DIR") or Path(__file__).parent.parent / "data" / "parity"
)
VOCABULARY = 300


def tokenizer_model(path: Path) -> None:
    """A SentencePiece model with byte fallback, of a few sentences."""
    import sentencepiece

    made = io.BytesIO()
    text = ["the cat sat on the mat", "a dog ran over the road", "今天天气很好"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=made, vocab_size=VOCABULARY, model_type="bpe",
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False, character_coverage=1.0,
    )  # fmt: skip
    path.write_bytes(made.getvalue())


def widened(state: dict[str, torch.Tensor]) -> None:
    """Feed-forward layers of 192 units instead of 176, the new ones idle: int4 wants groups of 32."""
    for name, tensor in state.items():
        for dim in range(tensor.dim()):
            if "feed_forward" in name and tensor.shape[dim] == 176:
                idle = [*tensor.shape]
                idle[dim] = 16
                state[name] = torch.cat((tensor, tensor.new_zeros(idle)), dim)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The tiny base of the fixtures with a vocabulary for words, and its adapter, converted."""
    tokenizer_model(tmp_path / "tokenizer.model")
    import sentencepiece

    size = sentencepiece.SentencePieceProcessor(
        model_file=str(tmp_path / "tokenizer.model")
    ).vocab_size()
    state = load_file(PARITY / "llm_tiny_base.safetensors")
    rng = torch.Generator().manual_seed(0)
    for name in ("tok_embeddings.weight", "output.weight"):
        state[name] = torch.randn(size, 64, generator=rng)
    params = json.loads((PARITY / "llm_tiny_params.json").read_text())
    widened(state)
    write_meta(tmp_path / "base", [state], params | {"max_seq_len": 256, "multiple_of": 64})
    llama_meta.convert(tmp_path / "base", tmp_path / "base.safetensors")
    adapter = load_file(PARITY / "llm_tiny_adapter.safetensors")
    widened(adapter)
    torch.save({"model": adapter}, tmp_path / "a.pth")
    imagebind_llm.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    return {"decoder": tmp_path / "base.safetensors", "adapter": tmp_path / "a.safetensors"}


OPTIONS: dict[str, Any] = {
    "name": "tiny",
    "chat": "alpaca",
    "space": "imagebind",
    "check_base": False,
}


def built(files: dict[str, Path], **changes: Any) -> Any:
    return factory.build(Build(weights=files, options=OPTIONS | changes))


def condition(seed: int = 0) -> Embedding:
    from dataclasses import replace

    row = np.random.default_rng(seed).normal(size=40).astype(np.float32)
    return replace(Embedding.of(row / np.linalg.norm(row)), space="imagebind")


def test_a_released_adapter_on_a_meta_base(files: dict[str, Path]) -> None:
    model = built(files)
    assert model.profile.injection == "attention_output"
    assert (model.decoder.config.lora_rank, model.profile.context_length) == (16, 256)
    say = Sampling(max_tokens=8)
    alone, one, two = (model.complete("the cat", c, say) for c in (None, condition(), condition(1)))
    assert len({alone, one, two}) == 3
    assert model.batch(["the cat"] * 2, [condition(), condition(1)], say) == [one, two]
    assert built(files, merge=True).complete("the cat", condition(), say) == one


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8", "int4"])
def test_precisions_stay_near(files: dict[str, Path], precision: str) -> None:
    exact = built(files).score("the cat", [" sat on the mat", " ran"], condition())
    model = built(files, precision=precision)
    if precision in ("bfloat16", "float16"):
        assert next(model.decoder.parameters()).dtype == getattr(torch, precision)
    found = model.score("the cat", [" sat on the mat", " ran"], condition())
    # Random weights are the hardest to quantise; what must not happen is another model.
    assert np.allclose(found, exact, rtol=0.25 if precision == "int4" else 0.08)


def test_the_tokenizer_can_be_named(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    moved = (tmp_path / "tokenizer.model").rename(tmp_path / "t" / "other.model")
    with pytest.raises(ModelError, match=r"no tokenizer\.model"):
        built(files)
    assert built(files | {"tokenizer": moved}).count_tokens("the cat") > 0


def test_chinese_round_trips(files: dict[str, Path]) -> None:
    tokenizer = built(files).tokenizer
    for text in ("今天天气很好", "用中文描述这张图片。", "naïve 🙂"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"precision": "int3"}, UserError, "precision"),
        ({"merg": True}, UserError, "merg"),
        ({"check_base": True}, ModelError, "check_base"),
    ],
)
def test_wrong_options_are_said(
    files: dict[str, Path], changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    """The last: the adapter records another base than this one."""
    if "check_base" in changes:
        save_file(load_file(files["adapter"]), files["adapter"], {"base_identity": "weights:other"})
        assert load_adapter(files["adapter"]).base == "weights:other"
    with pytest.raises(error, match=said):
        built(files, **changes)


def test_bind_or_adapter_but_not_both(files: dict[str, Path], tmp_path: Path) -> None:
    config = BindConfig(40, 64, 16, 4)
    save_bind(BindNetwork(config), tmp_path / "b.safetensors", base="weights:of something else")
    both = files | {"bind": tmp_path / "b.safetensors"}
    with pytest.raises(UserError, match="not both"):
        built(both)
    del both["adapter"]
    assert built(both).profile.injection == "residual"
    with pytest.raises(ModelError, match="trained with other weights"):
        built(both, check_base=True)
    assert load_bind(tmp_path / "b.safetensors").config == config


def test_a_vocabulary_of_another_model_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(tmp_path / "base.safetensors")
    for name in ("tok_embeddings.weight", "output.weight"):
        state[name] = state[name][:-1].clone()
    params = json.loads((PARITY / "llm_tiny_params.json").read_text())
    llama_meta.convert(
        write_meta(tmp_path / "less", [state], params | {"multiple_of": 64}),
        tmp_path / "less.safetensors",
    )
    with pytest.raises(ModelError, match="don't belong"):
        built(files | {"decoder": tmp_path / "less.safetensors"})
