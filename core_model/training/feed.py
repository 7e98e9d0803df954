"""What one step is made of: micro-batches, shared out among the processes of a run.

Every process reads the same batches in the same order and keeps each n-th of them. So a step of n
processes is, sample for sample, a step of one process with n times the accumulation; the number of
answer tokens that a step is averaged over is known without asking the others; and there is one
place in the data, whoever goes on from it. Reading is cheap beside training where features are made
before (`anybind embed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from anybind.core_model.checkpoints.tensors import read_safetensors
from anybind.core_model.training.trainee import answer_tokens
from anybind.errors import UserError


class BatchLike(Protocol):
    """A micro-batch (see `anybind.core_model.training.batches.Batch`)."""

    tokens: Any
    labels: Any
    segments: Any
    positions: Any
    features: Any
    present: Any
    samples: int
    words: Any
    shares: Any


class Batches(Protocol):
    """Where micro-batches come from."""

    @property
    def total(self) -> int | None:
        """Samples of the whole run; None where it has no end."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """From the present place on."""
        ...

    def state(self) -> dict[str, Any]:
        """The place behind the last batch that was given, for `restore` (JSON)."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of one step."""

    mine: list[dict[str, Any]]
    """Arguments of `Trainee.forward`, those of this process."""
    answers: int
    """Learned tokens of all processes."""
    tokens: int
    """Tokens of all processes, padding left out."""
    samples: int
    """Samples of all processes."""
    worded: int = 0
    """Of these, with words that their features are of."""


class Feed:
    """Steps out of batches."""

    def __init__(
        self,
        batches: Batches,
        *,
        accumulation: int,
        rank: int = 0,
        world: int = 1,
        zero_image: Tensor | None = None,
    ) -> None:
        """`zero_image` [C] stands for samples without a feature; None leaves them without."""
        self.batches = batches
        self._count, self._rank, self._world = accumulation * world, rank, world
        self._zero = zero_image
        self._source: Iterator[Any] | None = None

    def take(self) -> StepBatches | None:
        """The next step, or None where the data ends. The last one may be short."""
        if self._source is None:
            self._source = iter(self.batches)
        whole: list[Any] = []
        while len(whole) < self._count and (batch := next(self._source, None)) is not None:
            whole.append(batch)
        if not whole:
            return None
        rows = [_tensors(batch) for batch in whole]
        mine = rows[self._rank :: self._world]
        if short := -(-len(rows) // self._world) - len(mine):
            # Every process must take part in every pass: here one that is of no weight.
            first = rows[0]
            blank = first | {
                "labels": torch.full_like(first["labels"], -100),
                "shares": torch.zeros_like(first["shares"]),
            }
            mine += [blank] * short
        return StepBatches(
            [self._finish(row) for row in mine],
            sum(answer_tokens(r["labels"], r["segments"]) for r in rows),
            sum(int((r["segments"] >= 0).sum()) for r in rows),
            sum(int(b.samples) for b in whole),
            sum(int((r["shares"] > 0).any(-1).sum()) for r in rows),
        )

    def _finish(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._zero is not None:
            absent = ~row["present"]
            features = row["features"].clone()
            features[absent] = self._zero.to(features)
            row = row | {"features": features, "present": torch.ones_like(row["present"])}
        segments = row["segments"]
        packed = bool(((segments != segments[:, :1]) & (segments >= 0)).any())
        return row | {"packed": packed}


def _tensors(batch: BatchLike) -> dict[str, Any]:
    names = (
        "tokens", "labels", "segments", "positions", "features", "present", "words", "shares",
    )  # fmt: skip
    found = {name: torch.as_tensor(getattr(batch, name)) for name in names}
    # Words of what is not there are not compared with anything.
    return found | {"shares": found["shares"] * found["present"][:, None]}


def read_zero_image(path: Path, dim: int) -> Tensor:
    """The features [C] of a picture of the mean colour.

    Raises:
        UserError: the file has no such row.
        ModelError: it can't be read.
    """
    tensors = read_safetensors(path)[0]
    found = tensors.get("zero_image", next(iter(tensors.values())) if len(tensors) == 1 else None)
    if found is None or found.numel() != dim:
        raise UserError(f"zero_image: {path} must hold a tensor `zero_image` of {dim} numbers.")
    return found.float().flatten()
