"""A position in a memory-mapped file that only moves within it; every failure is a `ModelError`.

Knows numbers, tags and length-prefixed vectors (little-endian, as FAISS writes them), no index.
"""

from __future__ import annotations

import mmap
import struct

import numpy as np
from numpy.typing import NDArray

from anybind.errors import ModelError


class Walk:
    """A position in a file that only moves within it."""

    def __init__(self, data: mmap.mmap, name: str, deep: bool) -> None:
        self.view = memoryview(data)
        self.name = name
        self.deep = deep
        self.at = 0

    def release(self) -> None:
        self.view.release()

    def bad(self, why: str) -> None:
        raise ModelError(f"{self.name} is not a sound FAISS index (at byte {self.at}): {why}.")

    def take(self, count: int) -> int:
        """Step over `count` bytes; where they began."""
        if count < 0 or count > len(self.view) - self.at:
            self.bad(f"{count} bytes are announced, {len(self.view) - self.at} are there")
        start = self.at
        self.at += count
        return start

    def read(self, form: str) -> tuple[int, ...]:
        start = self.take(struct.calcsize("<" + form))
        return struct.unpack_from("<" + form, self.view, start)

    def one(self, form: str) -> int:
        return self.read(form)[0]

    def flag(self) -> bool:
        value = self.one("B")
        if value > 1:
            self.bad(f"a yes-or-no is {value}")
        return bool(value)

    def tag(self) -> str:
        start = self.take(4)
        return bytes(self.view[start : start + 4]).decode("latin-1")

    def vector(self, width: int, expected: int | None = None, what: str = "a vector") -> int:
        """Step over a vector of `width`-byte entries; how many there are."""
        count = self.one("Q")
        if expected is not None and count != expected:
            self.bad(f"{what} has {count} entries instead of {expected}")
        self.take(count * width)
        return count

    def numbers(self, dtype: str, count: int | None = None) -> NDArray[np.integer]:
        """The entries of a vector, copied (only small ones, or with `deep`)."""
        width = np.dtype(dtype).itemsize
        n = self.one("Q") if count is None else count
        start = self.take(n * width)
        return np.array(np.frombuffer(self.view[start : self.at], dtype))
