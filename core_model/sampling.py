"""Choosing the next token, and cutting text at stop strings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.errors import ModelError


def choose(
    logits: Tensor,
    *,
    temperature: float,
    top_p: float,
    rng: torch.Generator,
    allowed: NDArray[np.bool_] | None = None,
    seen: Sequence[int] = (),
    repetition_penalty: float = 1.0,
) -> int:
    """One token of logits [vocab].

    Raises:
        ModelError: the logits are not numbers, or the mask allows nothing.
    """
    # One row in numpy, on one thread: torch would wake its pool for it, whose members then spin on
    # the processors that the next step of the decoder needs, which halves its speed.
    row = logits.detach().float().cpu().numpy()
    if not np.isfinite(row).all():
        raise ModelError("The decoder gave logits that are not finite; its weights may be damaged.")
    if repetition_penalty != 1.0 and seen:
        ids = np.array(sorted(set(seen)))
        values = row[ids]
        row = row.copy()
        row[ids] = np.where(values > 0, values / repetition_penalty, values * repetition_penalty)
    if allowed is not None:
        if not allowed.any():
            raise ModelError("The grammar allows no token here.")
        open_to = np.zeros(row.shape[0], dtype=np.bool_)
        open_to[: len(allowed)] = allowed[: row.shape[0]]
        row = np.where(open_to, row, -np.inf)
    if temperature <= 0:
        return int(row.argmax())
    # The maximum goes first: divided by a tiny temperature it would overflow to infinity.
    shares = np.exp((row.astype(np.float64) - row.max()) / temperature)
    order = np.argsort(-shares, kind="stable")
    shares = shares[order] / shares.sum()
    sums = shares.cumsum()
    if top_p < 1:
        # Keep a token while the mass before it is within top_p, as the released sampler does.
        shares[sums - shares > top_p] = 0.0
        sums = shares.cumsum()
    drawn = float(torch.rand(1, generator=rng, dtype=torch.float64)) * sums[-1]
    # A draw lands strictly inside the share of a token that has one.
    return int(order[min(int(np.searchsorted(sums, drawn, side="right")), _last(shares))])


def _last(shares: NDArray[np.float64]) -> int:
    """The last place with a share."""
    return int(np.flatnonzero(shares)[-1])


class StopCutter:
    """Lets text through up to the first stop string, holding back what may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [s for s in stops if s]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that is safe to show."""
        if self.stopped:
            return ""
        self._held += text
        found = [i for i in (self._held.find(s) for s in self._stops) if i >= 0]
        if found:
            self.stopped = True
            out, self._held = self._held[: min(found)], ""
            return out
        keep = max((_overlap(self._held, s) for s in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def flush(self) -> str:
        """What was held back in vain."""
        out, self._held = self._held, ""
        return "" if self.stopped else out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
