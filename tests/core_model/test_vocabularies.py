"""Vocabularies made from SentencePiece, in every file they come in, and newer byte-level ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anybind.core_model.grammar import GrammarEngine
from anybind.core_model.tokenizer import (
    BpeTokenizer,
    Detokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    encode_tail,
    end_ids,
    from_folder,
    from_gguf,
)
from anybind.errors import ModelError

LINES = [
    "the cat sat on the mat and the dog sat on the cat",
    "a red car drives along the road to the sea",
    "图片里有什么东西？图片里有一只猫。",
    "你好，请用中文回答这个问题。",
    "what is in the picture? there is a cat in the picture.",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.model` such as LLaMA's: BPE, bytes for what it doesn't know, text as it is."""
    path = tmp_path_factory.mktemp("spm")
    (path / "corpus.txt").write_text("\n".join(LINES * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "corpus.txt"), model_prefix=str(path / "tokenizer"), vocab_size=420,
        model_type="bpe", byte_fallback=True, character_coverage=0.98, minloglevel=2,
        hard_vocab_limit=False, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(folder / "tokenizer.model")


def gguf_of(model: SentencePieceTokenizer, **more: Any) -> dict[str, Any]:
    """The metadata that converters write of such a model."""
    inner = model._inner
    ids = range(model.size)
    kinds = [
        2 if inner.is_unknown(i) else 3 if inner.is_control(i) else 6 if inner.is_byte(i) else 1
        for i in ids
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [inner.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [inner.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | {f"tokenizer.ggml.{k}": v for k, v in more.items()}


def json_of(model: SentencePieceTokenizer, path: Path) -> Path:
    """A tokenizer.json as converters make it of such a model: merges found from the scores."""
    inner = model._inner
    vocab = {inner.id_to_piece(i): i for i in range(model.size)}
    merges = [
        (inner.get_score(i), piece[:cut], piece[cut:])
        for piece, i in vocab.items()
        if len(piece) > 1 and not inner.is_byte(i) and not inner.is_control(i)
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    merges.sort(key=lambda m: (-m[0], vocab[m[1]], vocab[m[2]]))
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocab, merges=[m[1:] for m in merges], byte_fallback=True, unk_token="<unk>",
            fuse_unk=True,
        )
    )  # fmt: skip
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    steps = tokenizers.decoders
    made.decoder = steps.Sequence(
        [steps.Replace("\u2581", " "), steps.ByteFallback(), steps.Fuse(), steps.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    path.mkdir()
    made.save(str(path / "tokenizer.json"))
    about = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    (path / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    return path


@pytest.fixture(scope="module")
def family(folder: Path, model: SentencePieceTokenizer) -> dict[str, Tokenizer]:
    """One vocabulary out of three files."""
    return {
        "model": model,
        "gguf": from_gguf(gguf_of(model)),
        "json": from_folder(json_of(model, folder / "json")),
    }


@settings(max_examples=120, deadline=None)
@given(TEXTS)
@example("the cat  sat 图片里有一只猫 🤸🏽‍♀️ Größe")
@example("é" * 30 + "中文" * 20)
def test_the_three_files_are_one_vocabulary(family: dict[str, Tokenizer], text: str) -> None:
    ids = family["model"].encode(text)
    for tokenizer in family.values():
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
        stream = Detokenizer(tokenizer)
        pieces = [stream.push(i) for i in ids]
        assert "".join(pieces) + stream.flush() == text
        assert all("\ufffd" not in p for p in pieces)
        table = tokenizer.token_bytes()
        assert b"".join(table[i] for i in ids) == (b" " + text.encode() if text else b"")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["the cat", "图片", "x 🤸", "end. "]), TEXTS)
def test_what_goes_on_begins_with_no_space(
    family: dict[str, Tokenizer], head: str, tail: str
) -> None:
    for tokenizer in family.values():
        ids = [*tokenizer.encode(head), *encode_tail(tokenizer, tail)]
        assert tokenizer.decode(ids) == head + tail


def test_control_tokens_are_read_and_say_nothing(family: dict[str, Tokenizer]) -> None:
    for tokenizer in family.values():
        ids = tokenizer.encode("<s>the cat</s>")
        assert (ids[0], ids[-1]) == (1, 2) and {1, 2} <= tokenizer.special_ids()
        assert tokenizer.decode(ids) == "the cat"
        assert (tokenizer.bos, tokenizer.eos) == (1, 2) and end_ids(tokenizer) == {2}


def test_half_a_character_spoils_no_whole_one(family: dict[str, Tokenizer]) -> None:
    """Bytes of a character that never ends, right behind one that did."""
    for tokenizer in family.values():
        table = tokenizer.token_bytes()
        ids = [table.index(bytes([b])) for b in "é".encode() + "中".encode()[:2]]
        stream = Detokenizer(tokenizer)
        assert "".join(map(stream.push, ids)) == "é"
        assert set(stream.flush()) == {"\ufffd"}


def test_a_grammar_holds_such_a_vocabulary(family: dict[str, Tokenizer]) -> None:
    for tokenizer in family.values():
        held = GrammarEngine(tokenizer).hold('start: "猫 sat 🤸 on" (" mat" | " sea")')
        ids: list[int] = []
        while not held.ended:
            nxt = held.forced() or [
                next(i for i in held.allowed().nonzero()[0].tolist() if i != tokenizer.eos)
            ]
            for token in nxt:
                held.take(token)
            ids += nxt
        text = b"".join(tokenizer.token_bytes()[i] for i in ids).decode()
        assert text in ("猫 sat 🤸 on mat", "猫 sat 🤸 on sea")


def test_a_gguf_says_how_texts_begin_and_end(model: SentencePieceTokenizer) -> None:
    made = from_gguf(gguf_of(model, add_bos_token=False, eot_token_id=7))
    assert made.bos is None and end_ids(made) == {2, 7}
    bare = from_gguf(gguf_of(model, add_space_prefix=False))
    assert bare.token_bytes()[bare.encode("the")[0]][:1] != b" "
    assert encode_tail(bare, "the") == bare.encode("the")


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [0.0]},
        {"token_type": None},
        {"eos_token_id": 99999},
        {"tokens": ["<unk>"] * 3, "scores": [0.0] * 3, "token_type": [2, 2, 2]},
    ],
)
def test_a_damaged_gguf_is_a_model_error(
    model: SentencePieceTokenizer, change: dict[str, Any]
) -> None:
    with pytest.raises(ModelError):
        from_gguf(gguf_of(model, **change))


# ---------------------------------------------------------------- byte-level, newer patterns


def byte_level(pre: str, **more: Any) -> BpeTokenizer:
    """Every byte, a few words and their merges."""
    from anybind.core_model.tokenizer import _byte_of_symbol

    tokens = [c for c, _ in sorted(_byte_of_symbol().items(), key=lambda item: item[1])]
    merges: list[str] = []
    for word in ("123", "don", "'t", "\u0120the", "ab"):
        for cut in range(2, len(word) + 1):
            if word[:cut] not in tokens:
                tokens.append(word[:cut])
                merges.append(f"{word[: cut - 1]} {word[cut - 1]}")
    types = [1] * len(tokens) + [3, 3, 4]
    tokens += ["<|end|>", "<|turn|>", "<tool>"]
    fields = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.bos_token_id": len(tokens) - 3,
        "tokenizer.ggml.eos_token_id": len(tokens) - 3,
        "tokenizer.ggml.eot_token_id": len(tokens) - 2,
    } | {f"tokenizer.ggml.{k}": v for k, v in more.items()}  # fmt: skip
    made = from_gguf(fields)
    assert isinstance(made, BpeTokenizer)
    return made


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("llama-bpe", "1234", ["123", "4"]),
        ("qwen2", "1234", ["1", "2", "3", "4"]),
        ("smollm", "123", ["1", "2", "3"]),
        ("gpt-2", "123", ["123"]),
        ("llama-bpe", "DON'T 'T", None),
        ("qwen2", "don't", ["don", "'t"]),
        ("llama-bpe", "x the", ["x", "\u0120the"]),
        ("qwen2", "a<tool>b", ["a", "<tool>", "b"]),
    ],
)
def test_how_text_is_cut(pre: str, text: str, pieces: list[str] | None) -> None:
    made = byte_level(pre)
    ids = made.encode(text)
    if pieces is not None:
        assert [made._inner.id_to_token(i) for i in ids] == pieces
    assert made.decode(ids) == text
    assert b"".join(made.token_bytes()[i] for i in ids) == text.encode()


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(["llama-bpe", "qwen2", "starcoder", "gpt-2"]))
def test_every_text_comes_back(text: str, pre: str) -> None:
    made = _kept(pre)
    assert made.decode(made.encode(text)) == text


def _kept(pre: str, kept: dict[str, BpeTokenizer] = {}) -> BpeTokenizer:  # noqa: B006
    return kept.setdefault(pre, kept.get(pre) or byte_level(pre))


def test_ends_and_beginnings_of_byte_level_files() -> None:
    made = byte_level("qwen2", add_bos_token=False)
    assert made.bos is None and end_ids(made) == {made.eos, made.eos + 1}
    assert byte_level("llama-bpe").bos == made.eos


@pytest.mark.parametrize(
    ("about", "bos"),
    [
        ({"add_bos_token": False, "bos_token": None}, None),  # Qwen
        ({"add_bos_token": True, "bos_token": {"content": "<s>"}}, 1),
        ({"bos_token": "<s>"}, None),  # named, but nothing puts it there (GPT-2)
        (None, 1),
    ],
)
def test_a_bos_only_where_the_model_has_one(
    model: SentencePieceTokenizer, tmp_path: Path, about: dict[str, Any] | None, bos: int | None
) -> None:
    path = json_of(model, tmp_path / "json")
    (path / "tokenizer_config.json").unlink()
    if about is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(about))
    assert from_folder(path).bos == bos


def test_of_several_ends_the_one_of_a_turn_is_the_eos(
    model: SentencePieceTokenizer, tmp_path: Path
) -> None:
    path = json_of(model, tmp_path / "json")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 2, 9]}))
    found = from_folder(path)
    assert found.eos == 2 and end_ids(found) == {2, 5, 9}


def test_the_two_files_of_gpt2(tmp_path: Path) -> None:
    inner = tokenizers.ByteLevelBPETokenizer()
    inner.train_from_iterator(LINES, vocab_size=300, special_tokens=["<|endoftext|>"])
    inner.save_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 0}))
    found = from_folder(tmp_path)
    ids = found.encode("the cat 猫<|endoftext|>")
    assert ids[-1] == found.eos == 0 and found.decode(ids) == "the cat 猫"
