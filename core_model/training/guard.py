"""The guard against steps whose loss or gradients are not finite.

Knows numbers only. Such a step must not reach the weights: one NaN there and everything after it
is lost. Now and then one is an accident (a record, an overflow) and is skipped; many mean that the
run has gone wrong, and going on would only hide it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from anybind.core_model.training.config import Limits
from anybind.errors import ModelError


@dataclass
class Guard:
    """Counts steps that were skipped."""

    limits: Limits
    in_a_row: int = 0
    in_all: int = 0

    def fault(self, loss: float, norm: float) -> str:
        """What is wrong with a step; "" if it may be made. Counts the bad ones.

        Args:
            loss: Of the step.
            norm: Of all gradients together, before clipping.
        """
        faults = []
        if not math.isfinite(loss):
            faults.append(f"the loss is {loss}")
        if not math.isfinite(norm):
            faults.append(f"the norm of the gradients is {norm}")
        if not faults:
            self.in_a_row = 0
            return ""
        self.in_a_row += 1
        self.in_all += 1
        return " and ".join(faults)

    def halt(self, step: int, checkpoint: str) -> None:
        """End the run if there were too many.

        Raises:
            ModelError: says so, and what is left to go on from.
        """
        row, total = self.limits.bad_in_a_row, self.limits.bad_in_all
        if self.in_a_row < row and self.in_all < total:
            return
        how = (
            f"{self.in_a_row} steps in a row" if self.in_a_row >= row else f"{self.in_all} steps"
        )  # fmt: skip
        kept = (
            f"{checkpoint} is the last good checkpoint" if checkpoint else "there is no checkpoint"
        )
        raise ModelError(
            f"Halted at step {step}: {how} had a loss or gradients that are not finite; {kept}. "
            "Lower optimizer.lr, lengthen optimizer.warmup, or use precision float32, and look at "
            "the samples of these steps."
        )
