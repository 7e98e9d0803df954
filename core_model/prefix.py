"""KV prefixes kept between calls, so that a prompt that grows is not computed again.

A prefix is valid only for the condition it was computed under: slots are keyed by the digest of
the condition, and the tokens themselves are compared, so nobody gets an answer about another's
picture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from anybind.core_model.decoder import Cache


@dataclass
class Slot:
    """One kept prefix: the tokens whose keys and values the cache holds."""

    condition: str
    cache: Cache
    tokens: list[int] = field(default_factory=list[int])


class PrefixStore:
    """A few slots, the least recently used one given up first.

    A slot belongs to whoever took it until it is given back, so two replies that are written side
    by side never share one.
    """

    def __init__(self, new_cache: Callable[[int, int], Cache], slots: int = 3) -> None:
        """`new_cache(batch, capacity)` makes an empty cache: `Decoder.new_cache`."""
        self._new_cache = new_cache
        self.slots = slots
        self._kept: list[Slot] = []
        self._lock = threading.Lock()

    def take(self, condition: str, tokens: list[int], room: int) -> tuple[Slot, int]:
        """A slot cut back to what it shares with `tokens`, with capacity for `room` positions.

        Returns:
            The slot and the number of positions that need not be computed. At least the last
            token is always left to compute: its logits are wanted.
        """
        best, shared = None, 0
        with self._lock:
            for slot in self._kept:
                if slot.condition == condition:
                    common = _common(slot.tokens, tokens)
                    if best is None or common > shared:
                        best, shared = slot, common
            # A slot that shares little is left alone for the conversation it belongs to.
            if best is None or (shared < 16 and shared < len(tokens) // 2 and self._room()):
                best, shared = Slot(condition, self._new_cache(1, 256)), 0
            else:
                self._kept.remove(best)
        shared = min(shared, len(tokens) - 1)
        best.cache.cut(shared)
        best.tokens = tokens[:shared]
        best.cache.grow(-(-room // 256) * 256)
        return best, shared

    def give(self, slot: Slot) -> None:
        """Keep a slot for later calls; one whose tokens and cache disagree is dropped."""
        if len(slot.tokens) != slot.cache.length:
            return
        with self._lock:
            while self._kept and not self._room():
                self._kept.pop(0)
            self._kept.append(slot)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _room(self) -> bool:
        return len(self._kept) < self.slots


def _common(a: list[int], b: list[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
