"""Embedding arithmetic as methods: what `ImageBindLLM` offers over paths, texts and parts.

The sums themselves are in `anybind.core_model.mixing`; here things become embeddings first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from anybind.content import AnyPart, Embedding
from anybind.core_model import mixing


class Arithmetic(ABC):
    """For a class that can embed: `model.add("photo.jpg", "a red bicycle")` and so on.

    Results are embeddings of unit norm, to be used like any thing: as a condition of `generate`,
    as an attachment of a session, or in further sums. Where the two come from makes no difference;
    embeddings of another space are refused.
    """

    @abstractmethod
    def part(self, thing: Any) -> AnyPart:
        """A thing as a part."""

    @abstractmethod
    def embed_parts(self, parts: Sequence[AnyPart]) -> list[Embedding]:
        """One embedding a part."""

    def embeddings(self, *things: Any) -> list[Embedding]:
        """The embeddings of paths, texts, parts or pictures; embeddings stay as they are."""
        return self.embed_parts([self.part(t) for t in things])

    def add(self, *things: Any) -> Embedding:
        """The direction of the sum of two or more things.

        Raises:
            UserError: they cancel out, or live in different spaces.
        """
        return mixing.add(*self.embeddings(*things))

    def subtract(self, a: Any, b: Any) -> Embedding:
        """The direction of `a - b`.

        Raises:
            UserError: nothing is left, or they live in different spaces.
        """
        return mixing.subtract(*self.embeddings(a, b))

    def interpolate(self, a: Any, b: Any, t: float = 0.5, *, spherical: bool = False) -> Embedding:
        """What lies at `t` of the way from `a` to `b` (0..1), on the line or the great circle.

        Raises:
            UserError: `t` lies outside 0..1, the two are opposite, or live in different spaces.
        """
        first, second = self.embeddings(a, b)
        return mixing.interpolate(first, second, t, spherical=spherical)
