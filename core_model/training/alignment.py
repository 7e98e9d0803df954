"""The alignment of bound features with words: where a feature should point among the decoder's tokens.

The target of a feature is the mean embedding of the tokens of its words, seen from the mean of all
tokens and brought to a mean square of 1. A bound feature that points there carries a meaning before
the decoder has run once, so that the gates get a steady gradient from their first step. Knows
token ids and the table of embeddings; no decoder pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anybind.core_model.tokenizer import Tokenizer, encode_tail


class Aligned(NamedTuple):
    """Sums over the samples of a batch that have words."""

    distance: Tensor
    """Mean square distance of the bound feature from its target, []."""
    cosine: Tensor
    """Cosine of the angle between them, [], no gradient."""


def word_ids(tokenizer: Tokenizer, words: str) -> list[list[int]]:
    """The token ids of each name in a text of names with commas between; none for ""."""
    names = [name.strip() for name in words.split(",")]
    # As a word stands in the middle of a text: behind a blank.
    return [ids for name in names if name and (ids := encode_tail(tokenizer, f" {name}"))]


def word_table(samples: list[list[list[int]]]) -> tuple[Tensor, Tensor]:
    """The names of samples as ids [S, W] and the share of each in its sample, float32 [S, W].

    Every name counts the same, however many tokens it has; the shares of a sample add up to 1, or
    are all 0 where it has no words.
    """
    width = max((sum(map(len, names)) for names in samples), default=0)
    ids = torch.zeros((len(samples), width), dtype=torch.int64)
    shares = torch.zeros((len(samples), width))
    for row, names in enumerate(samples):
        at = 0
        for name in names:
            here = slice(at, at + len(name))
            ids[row, here] = torch.tensor(name)
            shares[row, here] = 1 / (len(names) * len(name))
            at = here.stop
    return ids, shares


@torch.no_grad()
def targets(table: Tensor, centre: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """Where the features of samples should point, float32 [S, dim].

    Args:
        table: Token embeddings [V, dim].
        centre: Their mean [dim], float32.
        ids: As `word_table` gives them [S, W].
        shares: Likewise [S, W]; the target of a row of zeros means nothing.
    """
    away = table[ids].float() - centre
    mean = torch.einsum("sw,swd->sd", shares, away)
    return mean / mean.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)


def compare(bound: Tensor, wanted: Tensor, present: Tensor) -> Aligned:
    """How far bound features [S, dim] are from their targets [S, dim], where `present` [S]."""
    bound = bound.float()
    square = (bound - wanted).square().mean(-1)
    with torch.no_grad():
        cosine = F.cosine_similarity(bound, wanted, dim=-1)
    zero = torch.zeros_like(square)
    return Aligned(
        torch.where(present, square, zero).sum(), torch.where(present, cosine, zero).sum()
    )
