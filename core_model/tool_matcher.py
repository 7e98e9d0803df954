"""The learned match of a request with tools: a small network over sentence embeddings.

Knows embeddings of texts, nothing of bundles, requests or what a tool does. A tool is what its
author wrote: its name, its description, and the clauses of the description one by one, so that any
plugin's tool can be matched. The network was trained by `anybind.core_model.training.tool_choice`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anybind.errors import ModelError

Rows = NDArray[np.float32]
FORMAT = "anybind-tool-matcher-1"
CLAUSES = 6
"""At most this many clauses of a description are looked at."""
TENSORS = ("down", "up", "weights", "none.down", "none.bias", "none.up")
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


@dataclass(frozen=True, slots=True)
class ToolMatcher:
    """The network.

    With `P(x) = unit(x + x D U)`, the same for requests and texts of tools, a tool scores
    `w0 cos(whole) + w1 cos(name) + w2 max cos(clause) + w3 mean cos(clause)`; no tool scores
    `gelu(x Dn + bn) Un + w4`, where x is the request alone.
    """

    tensors: Mapping[str, Rows]
    space: str

    def scores(self, request: Rows, tools: Sequence[Rows]) -> tuple[float, list[float]]:
        """Logits of "no tool" and of each tool.

        Args:
            request: The embedding [C], unit norm, of `asked(request)`.
            tools: For each tool the embeddings [2 + clauses, C] of its `tool_texts`.
        """
        t = self.tensors
        mapped = self._mapped(request[None])[0]
        found: list[float] = []
        for rows in tools:
            cosine = self._mapped(rows) @ mapped
            clauses = cosine[2:]
            parts = np.array([cosine[0], cosine[1], clauses.max(), clauses.mean()], np.float32)
            found.append(float(parts @ t["weights"][:4]))
        hidden = _gelu(request @ t["none.down"] + t["none.bias"])
        return float(hidden @ t["none.up"] + t["weights"][4]), found

    def _mapped(self, rows: Rows) -> Rows:
        out = rows + rows @ self.tensors["down"] @ self.tensors["up"]
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def _gelu(x: Rows) -> Rows:
    """The tanh form of GELU, as training computes it."""
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def load_tool_matcher(path: Path) -> ToolMatcher:
    """Read the weights.

    Raises:
        ModelError: the file is none of these, or a tensor is missing or of a wrong shape.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            about = dict(file.metadata() or {})
            names = set(file.keys())
            read = {n: np.asarray(file.get_tensor(n), np.float32) for n in TENSORS if n in names}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can't be read as a tool matcher: {error}") from error
    if about.get("format") != FORMAT:
        raise ModelError(f"{path} is no tool matcher: its format is {about.get('format')!r}.")
    if missing := [n for n in TENSORS if n not in read]:
        raise ModelError(f"{path} lacks the tensors {', '.join(missing)}.")
    try:
        space = str(json.loads(about["config"])["space"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} does not say which space it is for ({error}).") from error
    width = read["down"].shape[0]
    shapes = {
        "down": (width, -1), "up": (-1, width), "weights": (5,), "none.down": (width, -1),
        "none.bias": (-1,), "none.up": (-1,),
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
    return ToolMatcher(read, space)
