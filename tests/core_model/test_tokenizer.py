"""The real tokenizer, read from the GGUF, and text that streams out of ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anybind.assembly import Assembly
from anybind.core_model.checkpoints import gguf_fields
from anybind.core_model.tokenizer import BpeTokenizer, Detokenizer, from_folder, from_gguf
from anybind.errors import ModelError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def tokenizer(nano: Assembly) -> BpeTokenizer:
    return nano.build("models", nano.bundle.model).tokenizer


def writable(tokenizer: BpeTokenizer, text: str) -> bool:
    """Whether the vocabulary has all bytes of a text; SmolLM2's lacks some of no living script."""
    return set(text.encode()) <= {b[0] for b in _table(tokenizer) if len(b) == 1}


def test_the_vocabulary_has_every_byte_that_text_is_made_of(tokenizer: BpeTokenizer) -> None:
    assert all(writable(tokenizer, chr(c)) for c in range(0x20, 0x7F))
    assert writable(tokenizer, "\n\t Größe 日本語 हिन्दी عربي 🤸🏽‍♀️")


@settings(max_examples=150, deadline=None)
@given(TEXTS)
@example("a🤸🏽‍♀️b" * 12)
@example("\ufffd\ufffd x")
@example("日本語のテキスト" * 9)
@example("1987, 12.5%  \n\n\tend ")
def test_any_text_comes_back_piece_by_piece(tokenizer: BpeTokenizer, text: str) -> None:
    # Markers written in a text are special tokens and say nothing.
    ids = [i for i in tokenizer.encode(text) if i not in tokenizer.special_ids()]
    plain = tokenizer.decode(ids)
    if len(ids) == len(tokenizer.encode(text)) and writable(tokenizer, text):
        assert plain == text
    stream = Detokenizer(tokenizer)
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.flush() == plain
    assert stream.flush() == ""


def test_no_half_character_is_ever_shown(tokenizer: BpeTokenizer) -> None:
    stream = Detokenizer(tokenizer)
    ids = tokenizer.encode("x🤸🏽‍♀️é")
    shown = [stream.push(i) for i in ids]
    assert "" in shown  # some token ended within a character
    assert "\ufffd" not in "".join(shown)


def test_special_tokens_are_known_and_say_nothing(tokenizer: BpeTokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>")
    assert ids[0] == tokenizer.bos and ids[-1] == tokenizer.eos
    assert {ids[0], ids[-1]} <= tokenizer.special_ids()
    assert tokenizer.decode(ids) == "user\nhi"


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_token_bytes_are_the_bytes_of_the_text(tokenizer: BpeTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    table = _table(tokenizer)
    if not set(ids) & tokenizer.special_ids() and writable(tokenizer, text):
        assert b"".join(table[i] for i in ids) == text.encode()


def _table(tokenizer: BpeTokenizer, kept: dict[int, list[bytes]] = {}) -> list[bytes]:  # noqa: B006
    if id(tokenizer) not in kept:
        kept[id(tokenizer)] = tokenizer.token_bytes()
        assert len(kept[id(tokenizer)]) == tokenizer.size == 49152
    return kept[id(tokenizer)]


def test_digits_are_single_tokens(tokenizer: BpeTokenizer) -> None:
    assert len(tokenizer.encode("12345")) == 5


def test_gguf_fields_give_plain_values(nano: Assembly) -> None:
    fields = gguf_fields(gguf.GGUFReader(nano.weight("smollm2")))
    assert fields["general.architecture"] == "llama"
    assert isinstance(fields["tokenizer.ggml.tokens"], list)


@pytest.mark.parametrize(
    "fields",
    [
        {"tokenizer.ggml.model": "t5"},
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"},
        {},
    ],
)
def test_another_kind_of_tokenizer_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not supported"):
        from_gguf(fields)


def test_a_folder_without_or_with_a_broken_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"tokenizer\.model"):
        from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        from_folder(tmp_path)


def test_a_folder_with_tokenizer_json(tmp_path: Path, tokenizer: BpeTokenizer) -> None:
    tokenizer._inner.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="eos_token_id"):
        from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": [2, 0], "bos_token_id": 1}')
    back = from_folder(tmp_path)
    text = "<|im_start|>Größe 12"
    assert back.encode(text) == tokenizer.encode(text)
    assert (back.eos, back.bos, back.special_ids()) == (2, 1, tokenizer.special_ids())


def test_a_sentencepiece_model(tmp_path: Path) -> None:
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        "\n".join(f"the cat number {i} sat on the mat of the dog" for i in range(200))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=300,
        model_type="bpe", byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    spm = from_folder(tmp_path)
    text = "the cat sat on the é 🤸 mat " * 4 + "end"
    ids = spm.encode(text)
    assert spm.decode([spm.bos or 0, *ids, spm.eos]) == text
    stream = Detokenizer(spm)
    assert "".join([*map(stream.push, ids), stream.flush()]) == text
    table = spm.token_bytes()
    assert b"".join(table[i] for i in ids).decode().strip() == text
