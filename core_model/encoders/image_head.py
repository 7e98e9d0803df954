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
_JUDGE = 64
"""Hidden units of the gate."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Sizes."""

    features: int
    """Width P of the backbone's pooled features."""
    top: int
    """How many of them, the first, are of its last map."""
    hidden: int
    things: int
    dim: int
    """Width C of the joint space."""


class Headed(NamedTuple):
    """What the head says of pictures."""

    logits: Tensor
    """Of the things [..., T]."""
    gate: Tensor
    """How much the head is trusted [..., 1], 0..1."""


class ImageHead(nn.Module):
    """Pooled features -> shares of things, and a gate."""

    things: Tensor
    """Unit-norm sentence embedding of every thing [T, C]."""
    mean: Tensor
    """Of the features [P]."""
    spread: Tensor
    """Their standard deviation [P]."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("things", torch.zeros(config.things, config.dim))
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("spread", torch.ones(config.features))
        self.first = nn.Linear(config.features, config.hidden)
        self.second = nn.Linear(config.hidden, config.dim)
        self.scale = nn.Parameter(torch.tensor(20.0))
        # Judged by the last map alone: of photographs, training knows no other features.
        self.judge = nn.Linear(config.top, _JUDGE)
        self.trust = nn.Linear(_JUDGE, 1)
        self.apart = nn.Linear(5, 1)
        """Whether the figures of a picture are different things: see `several`."""
        self.drop = nn.Dropout(0.0)

    def forward(self, features: Tensor) -> Headed:
        """Of pooled features [..., P]."""
        x = self.drop((features - self.mean) / self.spread)
        hidden = self.drop(F.gelu(self.first(x)))
        seen = F.normalize(self.second(hidden), dim=-1)
        return Headed(self.scale * seen @ self.things.T, self.trusted(features))

    def trusted(self, features: Tensor) -> Tensor:
        """The gate [..., 1] of pooled features, of which the first `top` are enough."""
        top = self.config.top
        x = self.drop((features[..., :top] - self.mean[:top]) / self.spread[:top])
        return torch.sigmoid(self.trust(F.gelu(self.judge(x))))

    def embed(self, features: Tensor, sharpen: float = 1.0) -> tuple[Tensor, Tensor]:
        """Embeddings [..., C], whose norm (0..1) tells how sure the head is, and the gate [..., 1].

        Args:
            features: Pooled features [..., P].
            sharpen: Shares are raised to this before they are added up, less so where the head is not
                to be trusted: of a photograph it should not be sure.
        """
        said = self(features)
        sharper = 1 + (sharpen - 1) * said.gate
        return (sharper * said.logits).softmax(-1) @ self.things, said.gate

    def several(self, whole: Tensor, figures: Tensor) -> Tensor:
        """How far a picture is to be taken for several things [B, 1], 0..1.

        Args:
            whole: Embeddings of the pictures [B, C], whose norm tells how sure the eye is.
            figures: Of N figures in each [B, N, C].
        """
        return torch.sigmoid(self.apart(likeness(whole, figures)))


def likeness(whole: Tensor, figures: Tensor) -> Tensor:
    """What `ImageHead.several` judges by [B, 5]: the smallest and largest norm of the figures, how
    like the two are that are most alike, the least and the most that one is like the whole."""
    norms = figures.norm(dim=-1)
    unit = F.normalize(figures, dim=-1)
    between = unit @ unit.transpose(1, 2) - 2 * torch.eye(figures.shape[1])
    to_whole = F.cosine_similarity(figures, whole[:, None], dim=-1)
    parts = [norms.amin(1), norms.amax(1), between.amax((1, 2)), to_whole.amin(1), to_whole.amax(1)]
    return torch.stack(parts, -1)


def packed(head: ImageHead) -> dict[str, Tensor]:
    """Its tensors as they are kept: weights in eight bits by row, the rest in half precision.

    The things stay whole, because the retrieval cache reads them too.
    """
    out: dict[str, Tensor] = {}
    for name, value in head.state_dict().items():
        if name in ("first.weight", "second.weight", "judge.weight"):
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
    things, (hidden, features) = state["things"], state["first.weight"].shape
    top = state["judge.weight"].shape[1]
    head = ImageHead(HeadConfig(features, top, hidden, *things.shape))
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return head.eval().requires_grad_(False)
