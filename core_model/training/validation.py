"""How well a stage does on samples that it never trains on: read once, measured every so many steps.

They are sources of their own, or the last records of each source of the stage, which its training
then leaves out. Which ones are measured depends on the config alone. Measuring draws no random
number and reads no training data, so that a run is the same with and without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.training.batches import Batch, Batcher
from anybind.core_model.training.building import Parts
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.data.config import DataConfig
from anybind.core_model.training.feed import Feed
from anybind.core_model.training.feeding import open_stage
from anybind.errors import UserError


class Found(NamedTuple):
    """What was measured."""

    loss: float
    """Mean nats an answer token; of a stage of alignment alone, the mean square distance."""
    accuracy: float
    """Share of the answer tokens predicted right; nan of a stage of alignment alone."""


@dataclass
class _Fixed:
    """Batches that are there already."""

    batches: list[Batch]
    total: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        assert not state


class Validation:
    """The held-out samples of a stage, as one process measures its part of them."""

    def __init__(
        self,
        config: TrainConfig,
        batches: list[Batch],
        *,
        rank: int = 0,
        world: int = 1,
        zero_image: Tensor | None = None,
    ) -> None:
        """`batches` are those of all processes."""
        self._alone = config.alignment.alone
        feed = Feed(
            _Fixed(batches), accumulation=max(1, math.ceil(len(batches) / world)), rank=rank,
            world=world, zero_image=zero_image,
        )  # fmt: skip
        taken = feed.take()
        count = 0 if taken is None else taken.worded if self._alone else taken.answers
        if taken is None or not count:
            what = "feature with words" if self._alone else "answer token"
            raise UserError(f"validation: its samples hold no {what}.")
        self._taken, self._count = taken, count

    @torch.no_grad()
    def measure(self, model: torch.nn.Module, accelerator: Any) -> Found:
        """Measure; every process must call it."""
        sums = torch.zeros(2, dtype=torch.float64)
        was = model.training
        model.eval()
        for batch in self._taken.mine:
            moved = {
                k: v.to(accelerator.device) if isinstance(v, Tensor) else v
                for k, v in batch.items()
            }
            losses = model(**moved)
            sums[0] += (losses.distance if self._alone else losses.loss).double().cpu()
            sums[1] += losses.right.double().cpu()
        model.train(was)
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.float().to(accelerator.device), "sum").double().cpu()
        loss, right = (float(s) / self._count for s in sums)
        return Found(loss, math.nan if self._alone else right)


def held_out_batches(
    config: TrainConfig, parts: Parts, report: Callable[[str], None] | None = None
) -> list[Batch]:
    """The batches of `validation.samples` held-out samples.

    Raises:
        UserError: files are missing or of another joint space.
    """
    wanted = config.validation
    sources = wanted.sources or config.data.sources
    data = DataConfig(sources=sources, seed=config.data.seed, epochs=1)
    mixer = open_stage(config, parts, data, report, validating=True)
    b = config.batch
    batcher = Batcher(
        _First(mixer, wanted.samples), parts.tokenizer, LAYOUTS[parts.chat],
        max_tokens=b.max_tokens, batch_tokens=b.tokens, dim=parts.trainee.bind.config.joint_dim,
        packing=b.packing,
    )  # fmt: skip
    try:
        return list(batcher)
    finally:
        mixer.close()


class _First:
    """The first samples of a mixer."""

    def __init__(self, samples: Any, count: int) -> None:
        self._samples, self._left = samples, count

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return next(self._samples)

    def state(self) -> dict[str, Any]:
        return self._samples.state()

    def restore(self, state: Any) -> None:
        self._samples.restore(state)
