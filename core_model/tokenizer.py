"""Tokenizers of decoders: from GGUF metadata, tokenizer.json, or a SentencePiece model.

One small class for all, over token ids and text only. Streaming needs no special care by the
callers: `Detokenizer` gives out text as soon as it is whole characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from anybind.errors import ModelError
from anybind.optional import require

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_ALONE = "\x02"
"""A character that no vocabulary joins to another."""


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
    """A vocabulary of the `tokenizers` library, of either family.

    Byte-level ones (GPT-2, SmolLM2, Qwen, LLaMA-3) write bytes as printable letters. Those made
    from SentencePiece (`pieces`: LLaMA-2, Gemma, Chinese LLaMA) write words with `\u2581` for a
    space and fall back to bytes (`<0xE4>`) for what they don't know.
    """

    def __init__(
        self,
        inner: Any,
        *,
        bos: int | None,
        eos: int,
        special: Iterable[int],
        ends: Iterable[int] = (),
        added: Iterable[int] = (),
        pieces: bool = False,
    ) -> None:
        """`ends` end a reply besides `eos`; `added` are written as they are, special or not."""
        self._inner = inner
        self.bos = bos
        self.eos = eos
        self.ends = frozenset({eos, *ends})
        self._special = frozenset(special)
        self._added = self._special | frozenset(added)
        self._pieces = pieces
        self._table: list[bytes] | None = None
        # Not the number of tokens: ids may have gaps.
        self._size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        first = inner.encode("x", add_special_tokens=False).tokens[:1]
        self.adds_space = bool(first) and first[0].startswith((_SPACE, "\u0120"))
        """Whether a text is encoded as if it began with a space."""

    @property
    def size(self) -> int:
        return self._size

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        if not self._pieces:
            return str(self._inner.decode(list(ids), skip_special_tokens=True))
        # By bytes: the library's own decoder spoils whole characters beside an unfinished one.
        table = self.token_bytes()
        shown = [i for i in ids if i not in self._special and 0 <= i < self._size]
        text = b"".join(table[i] for i in shown).decode("utf-8", "replace")
        return text[1:] if self.adds_space and text.startswith(" ") else text

    def token_bytes(self) -> list[bytes]:
        if self._table is None:
            read = _bytes_of_piece if self._pieces else _bytes_of_symbols
            tokens = [self._inner.id_to_token(i) or "" for i in range(self._size)]
            self._table = [
                t.encode() if i in self._added else read(t) for i, t in enumerate(tokens)
            ]
        return list(self._table)

    def special_ids(self) -> frozenset[int]:
        return self._special


class SentencePieceTokenizer:
    """A `tokenizer.model` through the `sentencepiece` library (LLaMA 1 and 2, Vicuna)."""

    adds_space = True

    def __init__(self, path: Path | None = None, *, model: bytes = b"") -> None:
        """`model` is the content of such a file, where there is no file."""
        library = require("sentencepiece", "model")
        name = path.name if path is not None else "This"
        given = {"model_file": str(path)} if path is not None else {"model_proto": model}
        try:
            self._inner = library.SentencePieceProcessor(**given)
        except (OSError, RuntimeError) as error:
            raise ModelError(f"{name} is not a SentencePiece model: {error}") from error
        bos: int = self._inner.bos_id()
        self.bos: int | None = bos if bos >= 0 else None
        self.eos: int = self._inner.eos_id()
        self.ends = frozenset({self.eos})
        control = [i for i in range(self.size) if self._inner.is_control(i)]
        self._special = frozenset({*control, int(self._inner.unk_id())})
        marks = {self._inner.id_to_piece(i): i for i in control}
        self._marks = {text: i for text, i in marks.items() if text}
        longest = sorted(self._marks, key=len, reverse=True)
        self._split = re.compile("(" + ("|".join(map(re.escape, longest)) or r"(?!)") + ")")

    @property
    def size(self) -> int:
        return int(self._inner.vocab_size())

    def encode(self, text: str) -> list[int]:
        # The library reads no control token out of a text; the contract says they are recognised.
        out: list[int] = []
        for i, piece in enumerate(self._split.split(text)):
            if i % 2:
                out.append(self._marks[piece])
            elif piece:
                out += self._inner.encode(piece)
        return out

    def decode(self, ids: Iterable[int]) -> str:
        size = self.size
        return str(self._inner.decode([i for i in ids if i not in self._special and i < size]))

    def token_bytes(self) -> list[bytes]:
        out: list[bytes] = []
        for i in range(self.size):
            piece = self._inner.id_to_piece(i)
            if self._inner.is_byte(i):
                out.append(bytes([int(piece[3:5], 16)]))
            else:
                out.append(piece.replace(_SPACE, " ").encode())
        return out

    def special_ids(self) -> frozenset[int]:
        return self._special


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a prompt as the decoder is given it, at run time and in training: with a BOS in front,
    unless the prompt brings its own (the marker that ChatML begins with is one)."""
    ids = tokenizer.encode(text)
    if tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids = [tokenizer.bos, *ids]
    return ids


def encode_tail(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that goes on another one: without the space that some put before a text."""
    if not getattr(tokenizer, "adds_space", False):
        return tokenizer.encode(text)
    head = tokenizer.encode(_ALONE)
    whole = tokenizer.encode(_ALONE + text)
    return whole[len(head) :] if whole[: len(head)] == head else tokenizer.encode(text)


def end_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Every id that ends a reply; chat models often have one for a turn and one for a text."""
    return frozenset({tokenizer.eos, *getattr(tokenizer, "ends", ())})


def from_gguf(fields: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in the metadata of a GGUF; see `anybind.core_model.gguf_tokenizer`."""
    from anybind.core_model import gguf_tokenizer

    return gguf_tokenizer.read(fields)


def from_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, else tokenizer.model, else
    vocab.json with merges.txt.

    Raises:
        ModelError: none of these is there or can be read.
    """
    if (folder / "tokenizer.json").exists():
        return _from_json(folder)
    if (folder / "tokenizer.model").exists():
        return SentencePieceTokenizer(folder / "tokenizer.model")
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _from_merges(folder)
    raise ModelError(f"{folder} holds neither tokenizer.json nor tokenizer.model.")


def _from_json(folder: Path) -> BpeTokenizer:
    library = require("tokenizers", "model")
    try:
        inner = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust side raises plain Exception
        raise ModelError(f"{folder}/tokenizer.json can't be read: {error}") from error
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = data.get("added_tokens") or []
    # The decoder tells the family: only byte-level vocabularies are written in stand-ins.
    kinds = json.dumps([data.get("decoder"), data.get("pre_tokenizer")])
    pieces = '"ByteLevel"' not in kinds
    special = [t["id"] for t in added if t.get("special")]
    return _finished(folder, inner, special, [t["id"] for t in added], pieces)


def _from_merges(folder: Path) -> BpeTokenizer:
    """GPT-2's two files."""
    library = require("tokenizers", "model")
    try:
        model = library.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the Rust side raises plain Exception
        raise ModelError(f"{folder}: vocab.json can't be read: {error}") from error
    inner = library.Tokenizer(model)
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    end = inner.token_to_id("<|endoftext|>")
    if end is not None:
        inner.add_special_tokens(["<|endoftext|>"])
    return _finished(folder, inner, [] if end is None else [end], [], False)


def _finished(
    folder: Path, inner: Any, special: list[int], added: list[int], pieces: bool
) -> BpeTokenizer:
    """The tokenizer with the ids that begin and end texts, from the other files of the folder."""
    config: dict[str, Any] = {}
    ends: list[int] = []
    for name in ("config.json", "generation_config.json"):
        data = _json(folder / name)
        config |= dict(data.get("text_config") or {}) | data
        found = config.get("eos_token_id")
        ends += found if isinstance(found, list) else [] if found is None else [found]
    about = _json(folder / "tokenizer_config.json")
    named = _id_of(inner, about.get("eos_token"))
    eos = config.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) else eos
    # Of several ends that of a turn is wanted, which is the one the tokenizer names.
    eos = named if eos is None or named in ends else eos
    if eos is None:
        raise ModelError(f"{folder}: config.json names no eos_token_id.")
    return BpeTokenizer(
        inner,
        bos=_bos(inner, config, about),
        eos=int(eos),
        special=special,
        ends=ends,
        added=added,
        pieces=pieces,
    )


def _bos(inner: Any, config: Mapping[str, Any], about: Mapping[str, Any]) -> int | None:
    """The id that begins every text, if this model was trained with one.

    Many configurations name an id that is never put there (Qwen); where there is a
    tokenizer_config.json, it or the tokenizer's own post-processor must say so.
    """
    bos = config.get("bos_token_id")
    if not about:
        return bos
    named = _id_of(inner, about.get("bos_token"))
    bos = named if named is not None else bos
    if "add_bos_token" in about:
        return bos if about["add_bos_token"] else None
    begun = list(inner.encode("").ids)
    return bos if bos is not None and begun[:1] == [bos] else None


def _id_of(inner: Any, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return inner.token_to_id(text) if isinstance(text, str) else None


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no object.")
    return data


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


def _bytes_of_symbols(token: str) -> bytes:
    """A byte-level token: each letter stands for a byte."""
    table = _byte_of_symbol()
    return b"".join(bytes([table[c]]) if c in table else c.encode() for c in token)


def _bytes_of_piece(token: str) -> bytes:
    """A token made from SentencePiece: a byte as `<0xE4>`, or text with its spaces written out."""
    if _BYTE.fullmatch(token):
        return bytes([int(token[3:5], 16)])
    return token.replace(_SPACE, " ").encode()


@cache
def _byte_of_symbol() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted: symbol -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(printable)]
    table = {chr(b): b for b in printable}
    return table | {chr(256 + i): b for i, b in enumerate(rest)}
