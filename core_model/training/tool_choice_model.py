"""The network of `anybind.core_model.tool_matcher.ToolMatcher`, to be trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.core_model.training.tool_choice_known import NONE, OTHER, Known


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class Matcher(nn.Module):
    """Matches a request with descriptions, and weighs that against what is known of a tool."""

    def __init__(self, width: int, hidden: int, none_hidden: int) -> None:
        super().__init__()

        def small(a: int, b: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(a, b) * a**-0.5)

        self.down = small(width, hidden)
        self.up = nn.Parameter(torch.zeros(hidden, width))
        self.none_down = small(width, none_hidden)
        self.none_bias = nn.Parameter(torch.zeros(none_hidden))
        self.none_up = nn.Parameter(torch.zeros(none_hidden))
        self.weights = nn.Parameter(torch.tensor([8.0, 2.0, 4.0, 2.0, 5.0, 8.0]))
        self.mix = nn.Parameter(torch.tensor([0.5, 0.0, 0.5]))
        """Factor and shift of what is known of a tool, factor of what is known of none."""

    def forward(
        self, ask: Tensor, matched: Tensor, learned: Tensor, known: Tensor, tools: Tensor, there: Tensor,
        listed: Tensor,
    ) -> Tensor:  # fmt: skip
        """Logits [B, 1 + T], none first; -10,000 for tools that are not listed.

        Args:
            ask: Requests [B, C].
            matched: Cosines of requests and whole texts of the tools, as the reader reads both [B, T].
            learned: `relative` scores of none and the tools [B, 1 + T].
            known: How surely a tool is the one that its score is of [B, T], 0..1.
            tools: Texts of the tools [T, 2 + CLAUSES, C].
            there: Which of the texts a tool has [T, 2 + CLAUSES], bool; at least three.
            listed: Which tools are listed for which request [B, T], bool.
        """
        mapped = F.normalize(ask + ask @ self.down @ self.up, dim=-1)
        texts = F.normalize(tools + tools @ self.down @ self.up, dim=-1)
        cosine = torch.einsum("bc,tkc->btk", mapped, texts)
        clauses, some = cosine[..., 2:], there[:, 2:]
        best = clauses.masked_fill(~some, -1.0).amax(-1)
        mean = (clauses * some).sum(-1) / some.sum(-1)
        w, mix = self.weights, self.mix
        scores = w[0] * cosine[..., 0] + w[1] * cosine[..., 1] + w[2] * best + w[3] * mean
        scores = scores + w[5] * matched
        scores = scores + known * (mix[0] * learned[:, 1:] + mix[1])
        none = _gelu(ask @ self.none_down + self.none_bias) @ self.none_up + w[4]
        none = none + mix[2] * learned[:, 0]
        return torch.cat([none[:, None], scores.masked_fill(~listed, -1e4)], 1)

    def tensors(
        self, known: Known, read: tuple[Tensor, Tensor], described: Tensor
    ) -> dict[str, Tensor]:
        """What is kept, by the names of the file, in half precision.

        Args:
            known: What is known of K tools.
            read: The reader's answers: weights [C, 2 + K] and bias [2 + K].
            described: Embeddings [K, C] of those tools' whole texts.
        """
        factor = torch.cat([self.mix[0].repeat(len(known.tools)), self.mix[2:]])
        shift = torch.cat([self.mix[1].repeat(len(known.tools)), torch.zeros(1)])
        kept = {n.replace("_", ".", 1): p for n, p in self.named_parameters() if n != "mix"} | {
            "known.tools": described,
            "known.sentence": _none_last(relative(known.sentence)) * factor,
            "known.words": _none_last(relative(known.words)) * factor,
            "known.read": _none_last(relative(read[0])) * factor,
            "known.bias": _none_last(relative(known.bias) + relative(read[1])) * factor + shift,
        }
        return {n: p.detach().half().contiguous() for n, p in kept.items()}


def relative(scores: Tensor) -> Tensor:
    """Scores [..., 2 + K] of none, some other tool and the known ones, as log odds against some other
    tool [..., 1 + K], none first.
    """
    rest = torch.cat([scores[..., NONE : NONE + 1], scores[..., OTHER + 1 :]], -1)
    return rest - scores[..., OTHER : OTHER + 1]


def _none_last(scores: Tensor) -> Tensor:
    return scores.roll(-1, -1)


def loss_of(logits: Tensor, right: Tensor, smoothing: float) -> Tensor:
    """Cross entropy, a little of the weight on the other listed tools."""
    log = F.log_softmax(logits, 1)
    there = logits > -1e3
    spread = (log * there).sum(1) / there.sum(1)
    return -((1 - smoothing) * log.gather(1, right[:, None])[:, 0] + smoothing * spread).mean()
