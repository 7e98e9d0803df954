"""What the chooser of tools learns of the tools that ship: one linear score a tool, from the sentence
and the words of a request.

Fitted by penalised logistic regression over "no tool", "some other tool" and the known tools. How the
matcher weighs these scores against descriptions is learned elsewhere (`tool_choice`), from scores of
fits that had seen neither the wording nor, in a share, the tool: `out_of_fold`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.tool_matcher import BUCKETS, marks

NONE, OTHER = 0, 1
"""Columns of the scores; those of the known tools follow."""
SHARP = 10.0
"""Multiplies the inputs, so that one penalty suits sentences and words."""


@dataclass(frozen=True, slots=True)
class Known:
    """Scores [N, 2 + K] of requests: `sentence @ S + words @ W + bias`."""

    tools: tuple[str, ...]
    sentence: Tensor
    words: Tensor
    bias: Tensor

    def scores(self, sentence: Tensor, words: Tensor) -> Tensor:
        """Scores [N, 2 + K] of requests given as sentences [N, C] and sparse words [N, BUCKETS]."""
        return sentence @ self.sentence + words @ self.words + self.bias


def word_rows(texts: Sequence[str]) -> Tensor:
    """The words of texts as a sparse matrix [N, BUCKETS] of unit rows."""
    found = [marks(t) for t in texts]
    rows = torch.tensor([i for i, some in enumerate(found) for _ in some], dtype=torch.long)
    columns = torch.tensor([m for some in found for m in some], dtype=torch.long)
    values = torch.tensor([len(some) ** -0.5 for some in found for _ in some])
    shape = (len(texts), BUCKETS)
    return torch.sparse_coo_tensor(
        torch.stack([rows, columns]), values, shape, check_invariants=True
    ).coalesce()


def fit(
    sentence: Tensor, words: Tensor, wanted: Sequence[str], tools: Sequence[str],
    weights: Tensor, penalty: float, steps: int,
) -> Known:  # fmt: skip
    """Fit the scores of `tools`.

    Args:
        sentence: Embeddings of requests [N, C].
        words: `word_rows` of the requests.
        wanted: The tool of each request; "" for none.
        tools: The known tools; every other name is "some other tool".
        weights: How much each request counts [N].
        penalty: On the squared weights.
        steps: Of L-BFGS, at most.
    """
    place = {n: i + 2 for i, n in enumerate(tools)} | {"": NONE}
    right = torch.tensor([place.get(w, OTHER) for w in wanted])
    share = weights / weights.sum()
    a = torch.zeros(sentence.shape[1], 2 + len(tools), requires_grad=True)
    b = torch.zeros(BUCKETS, 2 + len(tools), requires_grad=True)
    bias = torch.zeros(2 + len(tools), requires_grad=True)
    optimizer = torch.optim.LBFGS([a, b, bias], max_iter=steps, history_size=8)

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = SHARP * (sentence @ a + torch.sparse.mm(words, b)) + bias
        loss = (F.cross_entropy(scores, right, reduction="none") * share).sum()
        loss = loss + penalty * (a.square().sum() + b.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return Known(tuple(tools), SHARP * a.detach(), SHARP * b.detach(), bias.detach())


def split(
    groups: Sequence[tuple[str, str]], tools: Sequence[str], of: int, seed: int
) -> tuple[list[int], dict[str, int]]:
    """Each request's part of `of` by its wording, and each tool's; the same for the same seed.

    Args:
        groups: (tool, wording) of each request: what has both the same stays in one part.
        tools: The tools to be parted.
        of: Number of parts.
        seed: Of the shuffle.
    """
    r = random.Random(f"tool choice parts {seed}")
    once = sorted(set(groups))
    r.shuffle(once)
    part = {g: i % of for i, g in enumerate(once)}
    names = sorted(tools)
    r.shuffle(names)
    return [part[g] for g in groups], {n: i % of for i, n in enumerate(names)}
