"""The learned match of a request with tools: a small network over sentence embeddings.

Knows embeddings of texts, nothing of bundles, requests or what a tool does. A tool is what its
author wrote: its name, its description, and the clauses of the description one by one, so that any
plugin's tool can be matched. Tools that the network was trained with it knows again by what they say
of themselves, and adds what it learned of requests for them, also through a reader of requests
(`request_reader`). It was trained by `anybind.core_model.training.tool_choice`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anybind.errors import ModelError

if TYPE_CHECKING:  # both load torch, which choosing a tool by similarity does not need
    from anybind.core_model.encoders.minilm import TextEncoder
    from anybind.core_model.request_reader import RequestReader

Rows = NDArray[np.float32]
FORMAT = "anybind-tool-matcher-3"
READER = "reader."
"""Begins the names of the reader's tensors."""
CLAUSES = 6
"""At most this many clauses of a description are looked at."""
BUCKETS = 3072
"""Words, pairs of words and parts of words share so many places."""
SAME, OTHER = 0.95, 0.80
"""A tool is surely a known one from this cosine of their descriptions, and surely none of them below
the other (no two tools of anybind are nearer than 0.75)."""
TENSORS = (
    "down", "up", "weights", "none.down", "none.bias", "none.up",
    "known.tools", "known.sentence", "known.words", "known.read", "known.bias",
)  # fmt: skip
_WORD = re.compile(r"[a-z']+")
_CLAUSE = re.compile(r"[:;,.?!]\s+|\s+(?:or|and)\s+")
_FILE = re.compile(r"\S+/\S+\.\w+|\S+\.(?:png|jpe?g|webp|gif|wav|mp3|ply|pcd)\b")


def asked(request: str) -> str:
    """A request as it is embedded: names of files say nothing about what is wanted."""
    return _FILE.sub("the image", request)


def tool_texts(name: str, description: str) -> list[str]:
    """What of a tool is embedded: the whole, the name, then the clauses of the description."""
    bare = " ".join(description.split()).rstrip(".?!")
    clauses = [c.strip() for c in _CLAUSE.split(bare)]
    told = list(dict.fromkeys(c for c in clauses if len(c) > 2))
    return [f"{name}: {description}", name.replace("_", " "), *(told or [bare or name])[:CLAUSES]]


def marks(text: str) -> list[int]:
    """The places of a text's words, pairs of words and runs of four letters, ascending, each once.

    Small words say much about a wish ("gone", "instead of", "look like"), which the mean of a sentence
    blurs; runs of letters see through misspelling and endings.
    """
    words = _WORD.findall(text.lower())
    found = set(words) | {f"{a} {b}" for a, b in zip(words, words[1:], strict=False)}
    for word in words:
        whole = f"<{word}>"
        found |= {f"#{whole[i : i + 4]}" for i in range(len(whole) - 3)}
    return sorted({zlib.crc32(mark.encode()) % BUCKETS for mark in found})


@dataclass(frozen=True, slots=True)
class ToolMatcher:
    """The network.

    With `P(x) = unit(x + x D U)`, the same for requests and texts of tools, a tool scores
    `w0 cos(whole) + w1 cos(name) + w2 max cos(clause) + w3 mean cos(clause)`, and
    `w5 cos` of request and whole as the reader reads both; a known one `x S_k + m W_k + r R_k + b_k`
    besides, m the marks of the request as a unit vector and r what the reader makes of it; no tool scores `gelu(x Dn + bn) Un + w4` and the last column of S, W, R and b,
    where x is the request alone.
    """

    tensors: Mapping[str, Rows]
    space: str
    reader: RequestReader

    def scores(
        self, text: str, request: Rows, told: Sequence[Sequence[str]], tools: Sequence[Rows]
    ) -> tuple[float, list[float]]:
        """Logits of "no tool" and of each tool.

        Args:
            text: `asked(request)`.
            request: The embedding [C] of that text, unit norm.
            told: The `tool_texts` of each tool.
            tools: Their embeddings [2 + clauses, C].
        """
        t = self.tensors
        mapped = self._mapped(request[None])[0]
        learned = request @ t["known.sentence"] + t["known.bias"]
        read = self.reader.read(text).embedding
        learned = learned + read @ t["known.read"]
        if places := marks(text):
            learned = learned + t["known.words"][places].sum(0) * len(places) ** -0.5
        found: list[float] = []
        for texts, rows in zip(told, tools, strict=True):
            cosine = self._mapped(rows) @ mapped
            clauses = cosine[2:]
            parts = np.array([cosine[0], cosine[1], clauses.max(), clauses.mean()], np.float32)
            again = recognised(t["known.tools"] @ rows[0])
            whole = float(self.reader.read(texts[0]).embedding @ read)
            known = float(again @ learned[:-1])
            found.append(float(parts @ t["weights"][:4]) + float(t["weights"][5]) * whole + known)
        hidden = _gelu(request @ t["none.down"] + t["none.bias"])
        return float(hidden @ t["none.up"] + t["weights"][4] + learned[-1]), found

    def _mapped(self, rows: Rows) -> Rows:
        out = rows + rows @ self.tensors["down"] @ self.tensors["up"]
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def recognised(cosines: Rows) -> Rows:
    """How surely a tool is each of the known ones [K], 0..1, by the cosines of their descriptions."""
    return np.clip((cosines - OTHER) / (SAME - OTHER), 0.0, 1.0)


def _gelu(x: Rows) -> Rows:
    """The tanh form of GELU, as training computes it."""
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def load_tool_matcher(path: Path, encoder: TextEncoder) -> ToolMatcher:
    """Read the weights.

    Args:
        path: The file.
        encoder: The text encoder that it was trained with; its reader is an adapted copy.

    Raises:
        ModelError: the file is none of these, or of an older format, or a tensor is missing or of a
            wrong shape.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    from anybind.core_model.request_reader import RequestReader

    try:
        with safe_open(str(path), framework="np") as file:
            about = dict(file.metadata() or {})
            names = set(file.keys())
            read = {n: np.asarray(file.get_tensor(n), np.float32) for n in TENSORS if n in names}
            of_reader = {
                n.removeprefix(READER): torch.from_numpy(file.get_tensor(n))
                for n in names if n.startswith(READER)
            }  # fmt: skip
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can't be read as a tool matcher: {error}") from error
    said = str(about.get("format"))
    if said != FORMAT:
        family = FORMAT.rpartition("-")[0]
        if said.startswith(family):
            raise ModelError(
                f"{path} is a tool matcher of the format {said!r}; this version reads {FORMAT!r}. "
                "Train it again: python -m anybind.core_model.training.tool_choice."
            )
        raise ModelError(f"{path} is no tool matcher: its format is {about.get('format')!r}.")
    if missing := [n for n in TENSORS if n not in read]:
        raise ModelError(f"{path} lacks the tensors {', '.join(missing)}.")
    try:
        space = str(json.loads(about["config"])["space"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} does not say which space it is for ({error}).") from error
    _check(path, read)
    try:
        reader = RequestReader(encoder, of_reader)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return ToolMatcher(read, space, reader)


def _check(path: Path, read: Mapping[str, Rows]) -> None:
    width, known = read["down"].shape[0], read["known.tools"].shape[0]
    shapes = {
        "down": (width, -1), "up": (-1, width), "weights": (6,), "none.down": (width, -1),
        "none.bias": (-1,), "none.up": (-1,), "known.tools": (known, width),
        "known.sentence": (width, known + 1), "known.words": (BUCKETS, known + 1),
        "known.read": (width, known + 1), "known.bias": (known + 1,),
    }  # fmt: skip
    for name, shape in shapes.items():
        said = read[name].shape
        if len(said) != len(shape) or any(
            w not in (-1, s) for w, s in zip(shape, said, strict=True)
        ):
            raise ModelError(f"{path}: the tensor {name} has the shape {list(said)}.")
    for down, up in (("down", "up"), ("none.down", "none.up")):
        if read[down].shape[1] != read[up].shape[0]:
            raise ModelError(f"{path}: the tensors {down} and {up} don't fit together.")
    if read["none.bias"].shape != read["none.up"].shape:
        raise ModelError(f"{path}: the tensors none.bias and none.up don't fit together.")
