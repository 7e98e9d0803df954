"""Tokenizers of decoders: from GGUF metadata, tokenizer.json, or a SentencePiece model.

One small class for all, over token ids and text only. Streaming needs no special care by the
callers: `Detokenizer` gives out text as soon as it is whole characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from anybind.errors import ModelError
from anybind.optional import require


class Tokenizer(Protocol):
    """Text to ids and back."""

    bos: int | None
    eos: int

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it are recognised; no BOS is added."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out."""
        ...

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for (what a grammar sees)."""
        ...

    def special_ids(self) -> frozenset[int]:
        """Ids that are control tokens and never text."""
        ...


class BpeTokenizer:
    """Byte-level BPE through the `tokenizers` library."""

    def __init__(self, inner: Any, *, bos: int | None, eos: int, special: Iterable[int]) -> None:
        self._inner = inner
        self.bos = bos
        self.eos = eos
        self._special = frozenset(special)

    @property
    def size(self) -> int:
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._inner.decode(list(ids), skip_special_tokens=True))

    def token_bytes(self) -> list[bytes]:
        table = _byte_of_symbol()
        out: list[bytes] = []
        for i in range(self.size):
            token = self._inner.id_to_token(i) or ""
            if i in self._special:
                out.append(token.encode())
            else:
                out.append(b"".join(bytes([table[c]]) if c in table else c.encode() for c in token))
        return out

    def special_ids(self) -> frozenset[int]:
        return self._special


class SentencePieceTokenizer:
    """A `tokenizer.model` through the `sentencepiece` library (LLaMA 1 and 2, Vicuna)."""

    def __init__(self, path: Path) -> None:
        library = require("sentencepiece", "model")
        try:
            self._inner = library.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise ModelError(f"{path.name} is not a SentencePiece model: {error}") from error
        bos: int = self._inner.bos_id()
        self.bos: int | None = bos if bos >= 0 else None
        self.eos: int = self._inner.eos_id()
        control = (i for i in range(self.size) if self._inner.is_control(i))
        self._special = frozenset({*control, int(self._inner.unk_id())})

    @property
    def size(self) -> int:
        return int(self._inner.vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._inner.decode([i for i in ids if i not in self._special]))

    def token_bytes(self) -> list[bytes]:
        out: list[bytes] = []
        for i in range(self.size):
            piece = self._inner.id_to_piece(i)
            if self._inner.is_byte(i):
                out.append(bytes([int(piece[3:5], 16)]))
            else:
                out.append(piece.replace("\u2581", " ").encode())
        return out

    def special_ids(self) -> frozenset[int]:
        return self._special


def from_gguf(fields: Mapping[str, Any]) -> BpeTokenizer:
    """The tokenizer in the metadata of a GGUF (byte-level BPE, pre-tokenizer `smollm` or `gpt-2`).

    Raises:
        ModelError: another kind of tokenizer.
    """
    library = require("tokenizers", "model")
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in ("smollm", "gpt-2", "default"):
        raise ModelError(f"GGUF tokenizer {kind!r}/{pre!r} is not supported.")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"]]
    types: list[int] = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    inner = library.Tokenizer(
        library.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    )
    split = library.pre_tokenizers
    steps = [split.Digits(individual_digits=True)] if pre == "smollm" else []
    inner.pre_tokenizer = split.Sequence(
        [*steps, split.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    inner.decoder = library.decoders.ByteLevel()
    # Token type 3 is "control" in GGUF.
    special = [i for i, t in enumerate(types) if t == 3]
    inner.add_special_tokens(
        [library.AddedToken(tokens[i], special=True, normalized=False) for i in special]
    )
    return BpeTokenizer(
        inner,
        bos=fields.get("tokenizer.ggml.bos_token_id"),
        eos=int(fields["tokenizer.ggml.eos_token_id"]),
        special=special,
    )


def from_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, else tokenizer.model."""
    if (folder / "tokenizer.json").exists():
        return _from_json(folder)
    if (folder / "tokenizer.model").exists():
        return SentencePieceTokenizer(folder / "tokenizer.model")
    raise ModelError(f"{folder} holds neither tokenizer.json nor tokenizer.model.")


def _from_json(folder: Path) -> BpeTokenizer:
    library = require("tokenizers", "model")
    try:
        inner = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust side raises plain Exception
        raise ModelError(f"{folder}/tokenizer.json can't be read: {error}") from error
    config: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            config |= json.loads((folder / name).read_text(encoding="utf-8"))
    eos = config.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) else eos
    if eos is None:
        raise ModelError(f"{folder}: config.json names no eos_token_id.")
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens")
    special = [t["id"] for t in added or [] if t.get("special")]
    return BpeTokenizer(inner, bos=config.get("bos_token_id"), eos=int(eos), special=special)


class Detokenizer:
    """Turns a stream of ids into text; holds back bytes that are not a whole character yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []
        self._said = 0

    def push(self, token: int) -> str:
        """The text that this id completes ("" while a character is unfinished)."""
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending)
        if text.endswith("\ufffd"):
            return ""
        new = text[self._said :]
        self._said = len(text)
        if len(self._pending) > 16 and not text.endswith(" "):
            # Start afresh now and then so that a long reply is not decoded over and over. The
            # last id stays as context: SentencePiece drops a leading space at the start.
            self._pending = self._pending[-1:]
            self._said = len(self._tokenizer.decode(self._pending))
        return new

    def flush(self) -> str:
        """What is still held back, broken characters replaced."""
        text = self._tokenizer.decode(self._pending)[self._said :]
        self._said += len(text)
        return text


def _byte_of_symbol() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted: symbol -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(printable)]
    table = {chr(b): b for b in printable}
    return table | {chr(256 + i): b for i, b in enumerate(rest)}
