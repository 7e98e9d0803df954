"""The batches that a stage's config describes: its sources, its tokenizer, its layout.

Where configs, data and model meet; knows nothing of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.training.batches import Batch, Batcher
from anybind.core_model.training.building import Parts
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.data import FeatureMaker, open_sources
from anybind.core_model.training.data.config import PICTURED
from anybind.errors import UserError


class StageBatches:
    """Batches of a stage, from the place where it is."""

    def __init__(
        self, config: TrainConfig, parts: Parts, report: Callable[[str], None] | None = None
    ) -> None:
        """`report` is called with a line about each bad record.

        Raises:
            UserError: files are missing, of another joint space, or the layout is unknown.
        """
        if parts.chat not in LAYOUTS:
            raise UserError(
                f"model.chat: there is no layout {parts.chat!r}; on offer: {', '.join(LAYOUTS)}."
            )
        self._maker = None
        named = (s for s in config.data.sources if s.format in PICTURED and s.features is None)
        if config.model.bundle and any(named):
            self._maker = FeatureMaker.of_bundle(config.model.bundle)
        self.embeds = self._maker is not None
        """Whether pictures are embedded on the way."""
        dim = parts.trainee.bind.config.joint_dim
        self.mixer = open_sources(
            config.data, maker=self._maker, space=parts.space, dim=dim, report=report,
            held_out=config.validation.share,
        )  # fmt: skip
        epochs = config.data.epochs
        self.total = epochs * sum(s.count for s in self.mixer.sources) if epochs else None
        b = config.batch
        self._batcher = Batcher(
            self.mixer, parts.tokenizer, LAYOUTS[parts.chat], max_tokens=b.max_tokens,
            batch_tokens=b.tokens, dim=dim, packing=b.packing,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batcher)

    def state(self) -> dict[str, Any]:
        """The place behind the last batch that was given."""
        return self._batcher.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._batcher.restore(state)

    def summary(self) -> dict[str, Any]:
        """What the sources gave, and what became of it."""
        from dataclasses import asdict

        return {"sources": self.mixer.summary(), "counts": asdict(self._batcher.counts)}

    def close(self) -> None:
        """Close files and encoders."""
        self.mixer.close()
