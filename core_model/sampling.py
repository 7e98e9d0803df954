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
    logits = logits.float()
    if not torch.isfinite(logits).all():
        raise ModelError("The decoder gave logits that are not finite; its weights may be damaged.")
    if temperature <= 0 and allowed is None and (repetition_penalty == 1.0 or not seen):
        return int(logits.argmax())
    # Masks and the generator live on the CPU; one row of logits is little to bring over.
    logits = logits.cpu()
    if repetition_penalty != 1.0 and seen:
        ids = torch.tensor(sorted(set(seen)))
        values = logits[ids]
        scaled = torch.where(values > 0, values / repetition_penalty, values * repetition_penalty)
        logits = logits.index_copy(0, ids, scaled)
    if allowed is not None:
        if not allowed.any():
            raise ModelError("The grammar allows no token here.")
        padded = np.zeros(logits.shape[0], dtype=np.bool_)
        padded[: len(allowed)] = allowed[: logits.shape[0]]
        logits = logits.masked_fill(~torch.from_numpy(padded), -torch.inf)
    if temperature <= 0:
        return int(logits.argmax())
    # The maximum goes first: divided by a tiny temperature it would overflow to infinity.
    probabilities = torch.softmax((logits - logits.max()) / temperature, -1)
    if top_p < 1:
        # Keep a token while the mass before it is within top_p, as the released sampler does.
        ordered, order = probabilities.sort(descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered > top_p, 0.0)
        return int(order[torch.multinomial(ordered, 1, generator=rng)])
    return int(torch.multinomial(probabilities, 1, generator=rng))


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
