"""The order in which the records of a source are met: a function of seed, epoch and place alone.

Nothing is drawn in advance and nothing has to be remembered: a run that is taken up again in the
middle of an epoch asks for the next place. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MASK = (1 << 64) - 1
_SMALL = 1 << 20
"""Up to so many places a permutation is kept in memory (8 MB)."""
_ROUNDS = 6


def mix64(*values: int) -> int:
    """64 bits that depend on every bit of the values (splitmix64, chained)."""
    z = 0
    for value in values:
        z = (z ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
        z ^= z >> 31
    return z


def chance(*values: int) -> float:
    """A number in 0..1 (1 excluded) that the values decide."""
    return (mix64(*values) >> 11) / (1 << 53)


class Permutation:
    """A permutation of 0 .. n-1 by seed; long ones cost no memory.

    A long one is a Feistel network over the next even number of bits; what falls outside is sent
    through again until it lies inside, which keeps it one to one.
    """

    def __init__(self, n: int, *seed: int) -> None:
        self.n = n
        self._key = mix64(*seed)
        self._table = None
        if n <= _SMALL:
            self._table = np.random.default_rng(self._key).permutation(n)
        self._half = (max(n - 1, 1).bit_length() + 1) // 2

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.n:
            raise IndexError(place)
        if self._table is not None:
            return int(self._table[place])
        half, mask = self._half, (1 << self._half) - 1
        value = place
        while True:
            left, right = value >> half, value & mask
            for turn in range(_ROUNDS):
                left, right = right, left ^ (mix64(self._key, turn, right) & mask)
            value = left << half | right
            if value < self.n:
                return value


class Order:
    """Which record stands at a place of an epoch.

    Args:
        sizes: Records of each file.
        shuffle: `full`, `file` or `none`, as in `SourceConfig.shuffle`.
        seed: Of the source.
        limit: Only the first so many records, counted through the files.
    """

    def __init__(
        self, sizes: Sequence[int], shuffle: str, seed: int, limit: int | None = None
    ) -> None:
        left = sum(sizes) if limit is None else min(limit, sum(sizes))
        self.count = left
        self._sizes: list[int] = []
        for size in sizes:
            self._sizes.append(min(size, left))
            left -= self._sizes[-1]
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        self._shuffle, self._seed = shuffle, seed
        self._epoch = -1
        self._whole: Permutation | None = None
        self._files: list[int] = []
        self._ends = np.zeros(0, np.int64)
        self._inner: tuple[int, Permutation] | None = None

    def at(self, epoch: int, place: int) -> int:
        """The number of the record (0 .. count-1)."""
        if self._shuffle == "none":
            return place
        if epoch != self._epoch:
            self._begin(epoch)
        if self._whole is not None:
            return self._whole[place]
        turn = int(np.searchsorted(self._ends, place, "right"))
        file = self._files[turn]
        if self._inner is None or self._inner[0] != turn:
            inner = Permutation(self._sizes[file], self._seed, epoch, file + 1)
            self._inner = (turn, inner)
        within = place - int(self._ends[turn]) + self._sizes[file]
        return int(self._starts[file]) + self._inner[1][within]

    def place(self, record: int) -> tuple[int, int]:
        """File and place in it of a record."""
        file = int(np.searchsorted(self._starts, record, "right")) - 1
        return file, record - int(self._starts[file])

    def _begin(self, epoch: int) -> None:
        self._epoch, self._inner = epoch, None
        if self._shuffle == "full":
            self._whole = Permutation(self.count, self._seed, epoch)
            return
        files = Permutation(len(self._sizes), self._seed, epoch, 0)
        self._files = [files[i] for i in range(len(self._sizes))]
        self._ends = np.cumsum([self._sizes[f] for f in self._files])
