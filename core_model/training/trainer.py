"""The training loop: steps over batches, on one process or many, until the data or the run ends.

Distribution, mixed precision and clipping are those of `accelerate`, configured in its own way
(`accelerate launch`, `accelerate config`): DDP and FSDP2 come with that. Knows a stage's config, a
model that is ready, and something that gives batches.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.training.building import Parts, build_parts
from anybind.core_model.training.compiling import fuse
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.feed import Batches, Feed, StepBatches, read_zero_image
from anybind.core_model.training.feeding import StageBatches
from anybind.core_model.training.guard import Guard
from anybind.core_model.training.progress import Quiet, Reporter, StepFigures
from anybind.core_model.training.run import RunFolder
from anybind.core_model.training.schedule import learning_rate, parameter_groups
from anybind.core_model.training.sharded import gather, scatter, whole
from anybind.core_model.training.state import (
    Progress,
    Snapshot,
    read,
    rng_state,
    set_rng_state,
    write,
)
from anybind.core_model.training.validation import Validation, held_out_batches
from anybind.optional import require

_RECENT = 50
"""Steps that the loss at the end is a mean of."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    samples: int
    loss: float
    """Mean over the last steps that were made (up to 50); nan if there were none."""
    skipped: int
    seconds: float
    """Of all steps, those before it was gone on with included."""
    checkpoint: Path | None
    stopped: bool = False
    """It was told to stop and can be gone on with."""
    best: int | None = None
    """The step whose loss on held-out samples was lowest, if there are any."""
    data: dict[str, Any] | None = None
    """What the sources gave and what of it was bad."""


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    parts: Parts | None = None,
    batches: Batches | None = None,
    live: bool | None = None,
) -> Outcome:
    """Run a stage.

    Args:
        config: The stage.
        out: The folder of the run.
        resume: Go on from its last checkpoint.
        parts: The model, if it is built already.
        batches: What to train on, if not what `config.data` says.
        live: A live bar (None: on a terminal).

    Raises:
        UserError: the folder holds a run already, or another one than the config says.
        ModelError: too many steps were not finite, or files don't fit.
    """
    require("accelerate", "training")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    folder = RunFolder(out)
    folder.check(config, resume=resume)
    # The state is the process's, and of the precision that the run before had.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    torch.manual_seed(config.seed)
    parts = parts or build_parts(config)
    if config.compile:
        fuse(parts.trainee, accelerator.device)
    opened = batches or StageBatches(config, parts)
    accelerator.wait_for_everyone()  # all have looked at the folder before one of them writes
    if accelerator.is_main_process:
        folder.begin(config, parts)
    try:
        outcome = _Loop(config, folder, parts, opened, accelerator).run(resume, live)
        if isinstance(opened, StageBatches):
            outcome = replace(outcome, data=opened.summary())
    finally:
        if isinstance(opened, StageBatches):
            opened.close()
    accelerator.wait_for_everyone()  # none leaves while another still talks to it
    accelerator.end_training()
    return outcome


class _Loop:
    """One run, as one of its processes goes through it."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        parts: Parts,
        batches: Batches,
        accelerator: Any,
    ) -> None:
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.about = folder.about(config, parts)
        self.names = frozenset(parts.trainables)
        self.bind = parts.trainee.bind
        zero = None
        if config.zero_image is not None:
            zero = read_zero_image(config.zero_image, self.about.bind.joint_dim)
        self.feed = Feed(
            batches, accumulation=config.batch.accumulation, rank=accelerator.process_index,
            world=accelerator.num_processes, zero_image=zero,
        )  # fmt: skip
        self.validation: Validation | None = None
        if config.validation.on:
            self.validation = Validation(
                config, held_out_batches(config, parts), rank=accelerator.process_index,
                world=accelerator.num_processes, zero_image=zero,
            )  # fmt: skip
        o = config.optimizer
        groups = parameter_groups(parts.trainee.named_parameters(), o)
        optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, eps=o.eps)
        self.model, self.optimizer = accelerator.prepare(parts.trainee, optimizer)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.guard = Guard(config.limits)
        self.place = Progress()
        self.saved: Path | None = None
        self.told_to_stop = False
        self.recent: list[float] = []

    def run(self, resume: bool, live: bool | None) -> Outcome:
        """Until the steps or the data end, a signal comes, or too much went wrong."""
        if resume:
            self._load()
        main = self.accelerator.is_main_process
        reporter = Reporter(self.folder.path, self.place.step, live=live) if main else Quiet()
        stopped = False
        with reporter, self._signals():
            if self.accelerator.num_processes > 1 and getattr(self.feed.batches, "embeds", False):
                reporter.note(
                    "Every process embeds every picture. Make the features first (anybind embed "
                    "--dataset) and give them to the sources."
                )
            while not (self._ended or stopped):
                began = time.perf_counter()
                if (taken := self.feed.take()) is None:
                    break
                figures, fault, stopped = self._step(taken, began)
                figures, best = self._validated(figures)
                reporter.step(figures, self._share)
                if fault:
                    reporter.note(f"step {figures.step} skipped: {fault}")
                    self.guard.halt(figures.step, str(self.saved or ""))
                regular = figures.step % self.config.save.every == 0
                if self._ended or stopped or regular or (best and self.config.save.keep_best):
                    self._save()
            if self.place.step and (
                self.saved is None or int(self.saved.name.rpartition("-")[2]) != self.place.step
            ):
                self._save()  # the data ended before the steps did
        loss = sum(self.recent) / len(self.recent) if self.recent else float("nan")
        return Outcome(
            self.place.step, self.place.samples, loss, self.guard.in_all, self.place.seconds,
            self.saved, stopped and not self._ended, self.place.best_step or None,
        )  # fmt: skip

    # ------------------------------------------------------------ a step

    def _step(self, taken: StepBatches, began: float) -> tuple[StepFigures, str, bool]:
        """One step: its figures, why it was skipped (""), whether a process was told to stop.

        `began` is when its batches were asked for: reading is part of it.
        """
        accelerator, before, share = self.accelerator, self.place, self._share
        self.place = replace(
            before, step=before.step + 1, samples=before.samples + taken.samples,
            tokens=before.tokens + taken.tokens,
        )  # fmt: skip
        # In the middle of the step, so that neither the first nor the last one has a rate of 0.
        rate = learning_rate(self.config.optimizer, (share + self._share) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        answers, worded = max(taken.answers, 1), max(taken.worded, 1)
        align = self.config.alignment
        sums = torch.zeros(5, dtype=torch.float64)
        for i, batch in enumerate(taken.mine):
            last = i + 1 == len(taken.mine)
            with nullcontext() if last else accelerator.no_sync(self.model):
                losses = self.model(**_on(batch, accelerator.device))
                # Means are over the answer tokens (and features with words) of all micro-batches of
                # all processes; what the processes found is averaged, hence their number.
                mean = losses.loss / answers + losses.distance * (align.weight / worded)
                accelerator.backward(mean * accelerator.num_processes)
            for i, found in enumerate(losses):
                sums[i] += found.detach().double().cpu()
        norm = float(whole(accelerator.clip_grad_norm_(self.trained, self.config.optimizer.clip)))
        sums[4] = float(self.told_to_stop)
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.float().to(accelerator.device), "sum").double().cpu()
        loss, accuracy = float(sums[0]) / answers, float(sums[1]) / answers
        distance = float(sums[2]) / worded
        if align.alone:
            loss, accuracy = distance, math.nan
        if taken.worded if align.alone else taken.answers:
            fault = self.guard.fault(loss + distance, norm)
        else:
            what = "feature with words" if align.alone else "answer token"
            fault = f"it holds no {what}"
        if not fault:
            self.optimizer.step()
            self.recent = [*self.recent[1 - _RECENT :], loss]
        self.optimizer.zero_grad(set_to_none=True)
        gate = float(whole(self.bind.gate.detach()).tanh().abs().mean())
        seconds = time.perf_counter() - began
        self.place = replace(self.place, seconds=before.seconds + seconds)
        figures = StepFigures(
            step=self.place.step, samples=self.place.samples, tokens=taken.tokens,
            answers=taken.answers, loss=loss, accuracy=accuracy, grad_norm=norm, lr=rate, gate=gate,
            seconds=seconds, skipped=int(bool(fault)),
            alignment=float(sums[3]) / worded if align.on and taken.worded else math.nan,
        )  # fmt: skip
        return figures, fault, bool(sums[4] > 0)

    def _validated(self, figures: StepFigures) -> tuple[StepFigures, bool]:
        """The figures of a step with those on held-out samples, if it is time for them, and whether
        they are the best so far."""
        due = self._ended or figures.step % self.config.validation.every == 0
        if self.validation is None or not due:
            return figures, False
        loss, accuracy = self.validation.measure(self.model, self.accelerator)
        lowest = self.place.best_loss
        best = math.isfinite(loss) and (lowest is None or loss < lowest)
        if best:
            self.place = replace(self.place, best_step=figures.step, best_loss=loss)
        return replace(figures, valid_loss=loss, valid_accuracy=accuracy), best

    @property
    def _share(self) -> float:
        """How much of the run lies behind, 0 to 1."""
        if self.config.steps is not None:
            return self.place.step / self.config.steps
        total = self.feed.batches.total
        return min(1.0, self.place.samples / total) if total else 0.0

    @property
    def _ended(self) -> bool:
        return self.config.steps is not None and self.place.step >= self.config.steps

    # ------------------------------------------------------------ saving and going on

    def _save(self) -> None:
        from accelerate.utils import gather_object

        trained, moments = gather(self.model, _plain(self.optimizer), self.names)
        rng: dict[str, Tensor] = {}
        for part in gather_object([rng_state(self.accelerator.process_index)]):
            rng |= part
        if self.accelerator.is_main_process:
            place = replace(
                self.place, bad_in_a_row=self.guard.in_a_row, bad_in_all=self.guard.in_all,
                data=self.feed.batches.state(),
            )  # fmt: skip
            write(
                self.folder.path, Snapshot(place, trained, moments, rng), self.about,
                self.config.save.keep,
            )  # fmt: skip
        self.accelerator.wait_for_everyone()
        self.saved = self.folder.last

    def _load(self) -> None:
        self.saved = self.folder.last
        assert self.saved is not None  # looked for before
        found = read(self.saved)
        scatter(self.model, _plain(self.optimizer), found.trainables, found.optimizer, self.names)
        self.feed.batches.restore(found.progress.data)
        self.place = found.progress
        self.guard.in_a_row = found.progress.bad_in_a_row
        self.guard.in_all = found.progress.bad_in_all
        set_rng_state(self.accelerator.process_index, found.rng)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Interrupt and termination end the run behind the present step, with a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(number: int, _: object) -> None:
            if self.told_to_stop and number == signal.SIGINT:
                raise KeyboardInterrupt  # asked twice
            self.told_to_stop = True

        old = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, previous in old.items():
                signal.signal(number, previous)


def _on(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
