"""Tokenizers in the metadata of GGUF files: byte-level BPE ("gpt2") and SentencePiece ("llama").

A SentencePiece vocabulary is written back as the model file it was made from, so that the
library itself does the work, byte fallback and all.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from anybind.core_model.tokenizer import BpeTokenizer, SentencePieceTokenizer, Tokenizer
from anybind.errors import ModelError
from anybind.optional import require

# How text is cut before merging, by the name that llama.cpp gives it. Digits one by one, then
# GPT-2's own pattern:
_DIGITS = {"smollm", "starcoder", "refact", "command-r"}
_GPT2 = {"gpt-2", "default", "mpt", "olmo"}
# One pattern; the two families differ in how many digits stand together.
_MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), "{1,3}"),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen"), ""),
}
_CONTROL, _USER_DEFINED = 3, 4


def read(fields: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF.

    Raises:
        ModelError: another kind of tokenizer, or fields are missing or contradict each other.
    """
    kind = fields.get("tokenizer.ggml.model")
    try:
        if kind == "llama":
            return _sentencepiece(fields)
        if kind == "gpt2":
            return _byte_level(fields)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"The tokenizer of the GGUF can't be read: {error!r}") from error
    raise ModelError(f"GGUF tokenizers of the kind {kind!r} are not supported.")


def _byte_level(fields: Mapping[str, Any]) -> BpeTokenizer:
    library = require("tokenizers", "model")
    pre = fields.get("tokenizer.ggml.pre", "gpt-2")
    if pre not in _DIGITS | _GPT2 | _PATTERNS.keys():
        raise ModelError(f"The GGUF pre-tokenizer {pre!r} is not supported.")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [_merge(m) for m in fields["tokenizer.ggml.merges"]]
    types: list[int] = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    inner = library.Tokenizer(
        library.models.BPE(
            vocab={t: i for i, t in enumerate(tokens)},
            merges=merges,
            # LLaMA-3 takes a word that is a token as it is, whatever its merges would give.
            ignore_merges=_PATTERNS.get(pre) == "{1,3}",
        )
    )
    split = library.pre_tokenizers
    if pre in _PATTERNS:
        pattern = library.Regex(_MODERN.format(digits=_PATTERNS[pre]))
        steps = [split.Split(pattern, "isolated")]
    else:
        steps = [split.Digits(individual_digits=True)] if pre in _DIGITS else []
    byte_level = split.ByteLevel(add_prefix_space=False, use_regex=pre not in _PATTERNS)
    inner.pre_tokenizer = split.Sequence([*steps, byte_level])
    inner.decoder = library.decoders.ByteLevel()
    special = [i for i, t in enumerate(types) if t == _CONTROL]
    whole = [i for i, t in enumerate(types) if t == _USER_DEFINED]
    made = library.AddedToken
    inner.add_special_tokens([made(tokens[i], special=True, normalized=False) for i in special])
    inner.add_tokens([made(tokens[i], special=False, normalized=False) for i in whole])
    bos = fields.get("tokenizer.ggml.bos_token_id")
    # SmolLM2's files say no, but its chats begin with this token, and so does all it was tuned on.
    if fields.get("tokenizer.ggml.add_bos_token") is False and pre != "smollm":
        bos = None
    return BpeTokenizer(
        inner,
        bos=bos,
        eos=int(fields["tokenizer.ggml.eos_token_id"]),
        special=special,
        ends=_ends(fields),
        added=whole,
    )


def _merge(text: str) -> tuple[str, str]:
    left, _, right = text.partition(" ")
    return left, right


def _ends(fields: Mapping[str, Any]) -> list[int]:
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = (fields.get(f"tokenizer.ggml.{name}") for name in names)
    return [int(i) for i in found if i is not None]


def _sentencepiece(fields: Mapping[str, Any]) -> SentencePieceTokenizer:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    scores: list[float] = fields["tokenizer.ggml.scores"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    if not len(tokens) == len(scores) == len(types):
        raise ModelError("The GGUF tokenizer has not as many scores and types as tokens.")
    bos = fields.get("tokenizer.ggml.bos_token_id")
    eos = int(fields["tokenizer.ggml.eos_token_id"])
    model = sentencepiece_model(
        tokens,
        scores,
        types,
        bos=None if bos is None else int(bos),
        eos=eos,
        dummy_prefix=bool(fields.get("tokenizer.ggml.add_space_prefix", True)),
    )
    made = SentencePieceTokenizer(model=model)
    made.adds_space = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    made.bos = None if bos is None or fields.get("tokenizer.ggml.add_bos_token") is False else bos
    made.eos = eos
    made.ends = frozenset({eos, *_ends(fields)})
    return made


def sentencepiece_model(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    bos: int | None,
    eos: int,
    dummy_prefix: bool = True,
) -> bytes:
    """The bytes of a SentencePiece BPE model (protocol buffer) with these pieces.

    `types` are those of SentencePiece, which GGUF took over: 1 normal, 2 unknown, 3 control, 4
    user defined, 5 unused, 6 byte.
    """
    out = b""
    for text, score, kind in zip(tokens, scores, types, strict=True):
        piece = _text(1, text) + b"\x15" + struct.pack("<f", score) + _number(3, kind)
        out += _block(1, piece)
    trainer = _number(3, 2) + _number(35, int(6 in types))  # BPE; whether bytes are there
    if 2 in types:
        trainer += _number(40, list(types).index(2)) + _text(45, tokens[list(types).index(2)])
    if bos is not None:
        trainer += _number(41, bos) + _text(46, tokens[bos])
    trainer += _number(42, eos) + _text(47, tokens[eos])
    # Text as it is: no Unicode normal form, no spaces dropped.
    normalizer = (
        _text(1, "identity") + _number(3, int(dummy_prefix)) + _number(4, 0) + _number(5, 1)
    )
    return out + _block(2, trainer) + _block(3, normalizer)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _block(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _block(field, text.encode())
