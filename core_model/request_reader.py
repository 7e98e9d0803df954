"""Reads a request that is about pictures: an embedding that tells tools apart, and what it is about.

The sentence encoder of the hub, its last layers adapted by low-rank updates (LoRA, arXiv 2106.09685), with
scores for the first and last token of each role's words, as extractive question answering has them
(BERT, arXiv 1810.04805, section 4.2). Knows texts; nothing of tools, artifacts or bundles. Trained by
`anybind.core_model.training.tool_choice`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.core_model.encoders.minilm import MiniLM, TextEncoder
from anybind.errors import ModelError

Rows = NDArray[np.float32]
ROLES = ("object", "old", "new", "text")
"""What the words of a request can be: a thing in the picture; a thing there that another one is put in the
place of, and that other one; a scene to be made."""
LINEARS = ("query", "key", "value", "attended", "widen", "narrow")
"""The linear layers that have updates."""
NORMS = ("norm1", "norm2")
MAX_TOKENS = 96
LONGEST = 32
"""Most tokens of a role's words."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read."""

    embedding: Rows
    """[C], unit norm; of no joint space."""
    words: Mapping[str, str]
    """Role -> its words as they stand in the request; roles that it says nothing of are absent."""


class RequestReader:
    """The adapted encoder; see the module."""

    def __init__(self, encoder: TextEncoder, tensors: Mapping[str, Tensor]) -> None:
        """Put the updates into a copy of the encoder's layers; embeddings are shared with it.

        Args:
            encoder: The one that the updates were trained on.
            tensors: `layers.N.LINEAR.down` [R, in] and `.up` [out, R], `layers.N.NORM.weight` and `.bias` [C]
                of the last layers; `span.weight` [C, 2 * roles] and `span.bias`.

        Raises:
            ModelError: a tensor is missing or does not fit the encoder.
        """
        self.tokenizer = encoder.tokenizer
        try:
            self.model = _adapted(encoder.model, tensors)
            self.span = (tensors["span.weight"].float(), tensors["span.bias"].float())
        except (KeyError, RuntimeError, IndexError, ValueError) as error:
            raise ModelError(f"The reader does not fit this text encoder: {error}") from error
        if self.span[0].shape != (self.model.width, 2 * len(ROLES)):
            raise ModelError(f"The reader's span.weight has the shape {list(self.span[0].shape)}.")
        # Descriptions of tools are read too: room for those of many plugins beside the requests.
        self._kept = lru_cache(maxsize=4096)(self._read)

    def read(self, text: str) -> Reading:
        """Read a request; what was read lately is not read again."""
        return self._kept(text)

    @torch.inference_mode()
    def _read(self, text: str) -> Reading:
        encoding = self.tokenizer.encode(text)
        ids = torch.tensor([encoding.ids[:MAX_TOKENS]])
        mask = torch.ones_like(ids, dtype=torch.bool)
        states = self.model.tokens(ids, mask)[0]
        scores = states @ self.span[0] + self.span[1]
        spans = {
            role: best_spans(scores[:, 2 * number].numpy(), scores[:, 2 * number + 1].numpy())
            for number, role in enumerate(ROLES)
        }
        spans["old"], spans["new"] = apart(spans["old"], spans["new"])
        words: dict[str, str] = {}
        for role, found in spans.items():
            if found:
                first, last = (encoding.offsets[i] for i in (found[0].first, found[0].last))
                words[role] = text[first[0] : last[1]]
        return Reading(F.normalize(states.mean(0), dim=0).numpy(), words)


class Span(NamedTuple):
    """Where the words of a role may be."""

    first: int
    last: int
    """Tokens, both part of it."""
    odds: float
    """Score above that of "nothing"."""


def best_spans(starts: Rows, ends: Rows, most: int = 12) -> list[Span]:
    """The likeliest places of a role's words, best first; those less likely than "nothing" are left out.

    Args:
        starts: Scores [T] of each token as the first; of the first token, as "nothing".
        ends: The same of the last.
        most: How many are given.
    """
    count = len(starts)
    pairs = starts[:, None] + ends[None, :] - (starts[0] + ends[0])
    first, last = np.indices(pairs.shape)
    # The closing token is never part of it.
    allowed = (first >= 1) & (last >= first) & (last - first < LONGEST) & (last < count - 1)
    odds = np.where(allowed, pairs, -np.inf).ravel()
    order = np.argsort(-odds, kind="stable")[:most]
    return [Span(int(i) // count, int(i) % count, float(odds[i])) for i in order if odds[i] > 0]


def apart(one: Sequence[Span], other: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """The likeliest spans of two roles that have no word in common: a thing and what takes its place.

    Where every pair overlaps, the likelier role keeps its words and the other has none.
    """
    if not one or not other:
        return list(one), list(other)
    pairs = [(a, b) for a in one for b in other if a.last < b.first or b.last < a.first]
    if pairs:
        a, b = max(pairs, key=lambda pair: pair[0].odds + pair[1].odds)
        return [a], [b]
    return ([one[0]], []) if one[0].odds >= other[0].odds else ([], [other[0]])


def _adapted(model: MiniLM, tensors: Mapping[str, Tensor]) -> MiniLM:
    """The encoder with updated layers; what has no update is shared."""
    made = copy.copy(model)
    made._modules = dict(model._modules)  # a shallow copy would share the table of modules
    layers = list(model.layers)
    changed = sorted({int(n.split(".")[1]) for n in tensors if n.startswith("layers.")})
    for number in changed:
        layer = copy.deepcopy(layers[number])
        for name in LINEARS:
            key = f"layers.{number}.{name}"
            linear: nn.Linear = getattr(layer, name)
            linear.weight += tensors[f"{key}.up"].float() @ tensors[f"{key}.down"].float()
        for name in NORMS:
            norm: nn.LayerNorm = getattr(layer, name)
            norm.weight.copy_(tensors[f"layers.{number}.{name}.weight"].float())
            norm.bias.copy_(tensors[f"layers.{number}.{name}.bias"].float())
        layers[number] = layer
    made.layers = nn.ModuleList(layers)
    return made.eval().requires_grad_(False)
