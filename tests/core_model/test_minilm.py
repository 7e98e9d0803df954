"""The sentence encoder against transformers' BERT, and its behaviour at the edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from anybind.content import Text
from anybind.contracts import Encoder
from anybind.core_model.encoders.minilm import TextEncoder, load_minilm, load_text_encoder
from anybind.errors import ModelError, UserError


def _reference(seed: int = 0) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=61, hidden_size=64, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=96, max_position_embeddings=40, layer_norm_eps=1e-12,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():  # make biases and norms count too
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Any, Path]:
    reference = _reference()
    file = tmp_path / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, file)
    return reference, file


def _tokenizer() -> Tokenizer:
    words = "[PAD] [UNK] [CLS] [SEP] a dog cat red bicycle on the mat and".split()
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def test_hidden_states_match_transformers(tiny: tuple[Any, Path]) -> None:
    reference, file = tiny
    model = load_minilm(file)
    ids = torch.randint(1, 61, (4, 17), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(4, 17, dtype=torch.bool)
    mask[1, 9:] = False
    mask[3, 2:] = False
    with torch.no_grad():
        want = reference(ids, attention_mask=mask.long()).last_hidden_state
        got = model.tokens(ids, mask)
    assert torch.allclose(got[mask], want[mask], atol=1e-5)
    pooled = (want * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert torch.allclose(model(ids, mask), pooled, atol=1e-5)


def test_batch_is_the_same_as_one_by_one(tiny: tuple[Any, Path]) -> None:
    encoder = TextEncoder(load_minilm(tiny[1]), _tokenizer())
    texts = ["a dog", "the red bicycle on the mat and a cat", "cat", "a dog"]
    many = encoder.encode([Text.of(t) for t in texts])
    assert isinstance(encoder, Encoder)
    assert many.unit.shape == (4, 64)
    assert np.allclose(np.linalg.norm(many.unit, axis=1), 1, atol=1e-6)
    for row, text in enumerate(texts):
        one = encoder.encode([Text.of(text)])
        assert np.allclose(many.raw[row], one.raw[0], atol=1e-5)
    assert not np.allclose(many.raw[0], many.raw[2], atol=1e-3)


def test_long_texts_are_cut(tiny: tuple[Any, Path]) -> None:
    encoder = TextEncoder(load_minilm(tiny[1]), _tokenizer(), max_tokens=10)
    cut = encoder.embed(["dog " * 8 + "cat " * 50])
    assert torch.allclose(cut, encoder.embed(["dog " * 8]), atol=1e-5)


def test_wrong_files_are_named(tmp_path: Path, tiny: tuple[Any, Path]) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"broken\.safetensors"):
        load_minilm(broken)
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="BERT"):
        load_minilm(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="audio"):
        from anybind.content import Audio, Waveform

        sound = Audio.of(Waveform(np.zeros((1, 10), np.float32), 16000))
        TextEncoder(load_minilm(tiny[1]), _tokenizer()).encode([sound])


def test_real_file_matches_transformers_and_ranks_sense(nano: Any) -> None:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    file = nano.weight("minilm")
    encoder = load_text_encoder(file, nano.weight("minilm_tokenizer"))
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, layer_norm_eps=1e-12,
    )  # fmt: skip
    reference = BertModel(config, add_pooling_layer=False).eval()
    state = {k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    reference.load_state_dict(state, strict=False)
    ids = torch.tensor([encoder.tokenizer.encode("A dog is chasing a red ball.").ids])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        want = reference(ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(encoder.model.tokens(ids, mask.bool()), want, atol=1e-5)

    rows = encoder.unit(["a tabby cat", "a kitten", "a steam locomotive"])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
