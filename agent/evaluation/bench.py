"""What every measure works with: a loaded bundle, the data, and one way to ask.

Each question gets a session of its own, so that no answer leans on an earlier one.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from anybind.agent.evaluation.data import Data
from anybind.agent.reply import Reply
from anybind.agent.runtime import Runtime
from anybind.agent.session import Session

Row = dict[str, Any]
"""What is kept of one question: at least `id`, and `hit` where it is right or wrong."""

T = TypeVar("T")


class Bench:
    """A bundle under measurement.

    Args:
        runtime: The bundle's parts.
        data: The held-out data.
        limit: At most this many items a measure, drawn by the seed; None takes all.
        seed: Of draws and scenes.
    """

    def __init__(
        self, runtime: Runtime, data: Data, limit: int | None = None, seed: int = 0
    ) -> None:
        self.runtime = runtime
        self.data = data
        self.limit = limit
        self.seed = seed

    def some(self, items: Sequence[T]) -> list[T]:
        """All items in their order, or `limit` of them."""
        if self.limit is None or len(items) <= self.limit:
            return list(items)
        chosen = random.Random(self.seed).sample(range(len(items)), self.limit)
        return [items[i] for i in sorted(chosen)]

    def ask(self, question: str, *things: Any, tools: bool = True) -> Reply:
        """The reply to one question about things, without boxes."""
        with tempfile.TemporaryDirectory(prefix="anybind-eval-") as folder:
            with Session(self.runtime, folder=Path(folder) / "s", seed=self.seed) as session:
                return session.ask(question, *things, ground=False, tools=tools)
