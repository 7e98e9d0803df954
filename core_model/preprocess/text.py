"""Texts for the text tower: CLIP's byte pair encoding (Radford et al. 2021), 77 ids a text."""

from __future__ import annotations

import gzip
import html
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.errors import ModelError
from anybind.optional import require

CONTEXT = 77
START, END = 49406, 49407
_SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
_MERGES = slice(1, 48895)
"""Lines of the vocabulary file that are merges; the first is a version."""
_MAX_FILE = 16 << 20
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class ClipTokenizer:
    """CLIP's tokenizer from `bpe_simple_vocab_16e6.txt.gz`.

    Ids: the 256 bytes, the 256 bytes at the end of a word, a merge each, start, end; 49,408 in all.
    A literal `<|startoftext|>` or `<|endoftext|>` in a text becomes the id; "!" has id 0, which is
    also the padding.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the vocabulary.

        Raises:
            ModelError: not the vocabulary of CLIP.
        """
        try:
            with gzip.open(path, "rb") as stream:
                lines = stream.read(_MAX_FILE).decode("utf-8").split("\n")[_MERGES]
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} is not CLIP's vocabulary: {error}") from error
        merges = [tuple(line.split()) for line in lines]
        if len(merges) != 48_894 or any(len(m) != 2 for m in merges):
            raise ModelError(
                f"{path} is not CLIP's vocabulary: it holds {len(merges)} merges, not 48894 pairs."
            )
        letters = list(_byte_letters().values())
        tokens = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges)]
        self._ids = {token: i for i, token in enumerate(tokens)} | _SPECIAL
        self._ranks: dict[tuple[str, ...], int] = {m: i for i, m in enumerate(merges)}
        self._pattern: Any = require("regex", "imagebind").compile(_WORDS, flags=0x2)
        self._ftfy: Any = require("ftfy", "imagebind")
        self._bytes = _byte_letters()
        self._word = lru_cache(maxsize=65_536)(self._split)

    @property
    def size(self) -> int:
        """Number of ids."""
        return END + 1

    def encode(self, texts: Sequence[str], context: int = CONTEXT) -> Tensor:
        """Ids of texts, start and end included, padded with 0.

        Text that is too long is cut so that the end id stays, in the last place.

        Returns:
            int64 [B, context].
        """
        rows = torch.zeros(len(texts), context, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [START, *self.ids(text)][: context - 1] + [END]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def ids(self, text: str) -> list[int]:
        """Ids of a text alone, neither cut nor framed."""
        out: list[int] = []
        for word in self._pattern.findall(self.clean(text)):
            out += self._word(word)
        return out

    def clean(self, text: str) -> str:
        """Broken encodings mended, HTML entities resolved twice, blanks joined, lower case."""
        text = html.unescape(html.unescape(self._ftfy.fix_text(text)))
        return " ".join(text.split()).lower()

    def _split(self, word: str) -> tuple[int, ...]:
        """Ids of one word: the pair that was learnt first is merged until none is left."""
        if word in _SPECIAL:
            return (_SPECIAL[word],)
        parts = [self._bytes[b] for b in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = set(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, 1 << 30))
            if best not in self._ranks:
                break
            parts = _merged(parts, best)
        return tuple(self._ids[p] for p in parts)


def _merged(parts: list[str], pair: tuple[str, ...]) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(parts):
        if tuple(parts[at : at + 2]) == pair:
            out.append(parts[at] + parts[at + 1])
            at += 2
        else:
            out.append(parts[at])
            at += 1
    return out


def _byte_letters() -> dict[int, str]:
    """A printable letter for every byte, in the order of the vocabulary: bytes that print as
    themselves come first, the others take the letters from 256 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(own)]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(others)}
