"""The learned way of pictures into the joint space, for what the backbone's classes don't cover.

A classifier of photographs is at a loss with drawings and with things that are none of its classes.
The head is a small network over the backbone's pooled features that knows more things, and a gate
that tells how much to trust it in place of the class mixture. Like the mixture, its embedding is a
sum of sentence embeddings by share, so both live in the same place of the joint space, and what
shows two things comes out between them. How it is trained, `anybind.core_model.training.image_head`
knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PREFIX = "head."
"""Of its tensors in the file of the mapping."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Sizes."""

    features: int
    """Width D of the backbone's pooled features."""
    hidden: int
    things: int
    dim: int
    """Width C of the joint space."""


class Headed(NamedTuple):
    """What the head says of pictures."""

    logits: Tensor
    """Of the things [B, T]."""
    gate: Tensor
    """How much the head is trusted [B, 1], 0..1."""


class ImageHead(nn.Module):
    """Pooled features -> shares of things, and a gate."""

    things: Tensor
    """Unit-norm sentence embedding of every thing [T, C]."""
    mean: Tensor
    """Of the features [D]."""
    spread: Tensor
    """Their standard deviation [D]."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("things", torch.zeros(config.things, config.dim))
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("spread", torch.ones(config.features))
        self.first = nn.Linear(config.features, config.hidden)
        self.second = nn.Linear(config.hidden, config.dim)
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.trust = nn.Linear(config.hidden, 1)
        self.apart = nn.Linear(5, 1)
        """Whether the halves of a picture show different things: see `halves`."""
        self.drop = nn.Dropout(0.0)

    def forward(self, features: Tensor) -> Headed:
        """Of pooled features [B, D]."""
        x = self.drop((features - self.mean) / self.spread)
        hidden = self.drop(F.gelu(self.first(x)))
        seen = F.normalize(self.second(hidden), dim=-1)
        return Headed(self.scale * seen @ self.things.T, torch.sigmoid(self.trust(hidden)))

    def embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B, C], whose norm (0..1) tells how sure the head is, and the gate [B, 1]."""
        said = self(features)
        return said.logits.softmax(-1) @ self.things, said.gate

    def halves(self, whole: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """How far a picture is to be taken for two things side by side [B, 1], 0..1.

        Told by how sure the eye is of either half, and how like they are to each other and to the
        whole; of embeddings [B, C] whose norm tells how sure it is.
        """
        return torch.sigmoid(self.apart(likeness(whole, left, right)))


def likeness(whole: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """What `ImageHead.halves` judges by [B, 5]: norms of the halves, three cosines."""
    cosine = F.cosine_similarity
    parts = [left.norm(dim=-1), right.norm(dim=-1), cosine(left, right, -1)]
    return torch.stack([*parts, cosine(left, whole, -1), cosine(right, whole, -1)], -1)


def packed(head: ImageHead) -> dict[str, Tensor]:
    """Its tensors as they are kept: weights in eight bits by row, the rest in half precision.

    The things stay whole, because the retrieval cache reads them too.
    """
    out: dict[str, Tensor] = {}
    for name, value in head.state_dict().items():
        if name in ("first.weight", "second.weight"):
            scale = value.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
            out[f"{PREFIX}{name}"] = (value / scale).round().to(torch.int8)
            out[f"{PREFIX}{name}.scale"] = scale[:, 0].float()
        else:
            out[f"{PREFIX}{name}"] = value.half() if value.ndim else value.float()[None]
    return {name: value.contiguous() for name, value in out.items()}


def unpacked(tensors: dict[str, Tensor]) -> ImageHead | None:
    """The head in the tensors of a file, None if there is none.

    Raises:
        KeyError: a tensor is missing.
        ValueError: shapes don't fit.
    """
    own = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    if not own:
        return None
    state: dict[str, Tensor] = {}
    for name, value in own.items():
        if name.endswith(".scale"):
            continue
        whole = value.float()
        if value.dtype == torch.int8:
            whole = whole * own[f"{name}.scale"].float()[:, None]
        state[name] = whole[0] if name == "scale" else whole
    things, first = state["things"], state["first.weight"]
    head = ImageHead(HeadConfig(first.shape[1], first.shape[0], things.shape[0], things.shape[1]))
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return head.eval().requires_grad_(False)
