"""The batches that a stage's config describes: its sources, its tokenizer, its layout.

Where configs, data and model meet; knows nothing of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.training.batches import Batch, Batcher
from anybind.core_model.training.building import Parts
from anybind.core_model.training.caching import stage_cache
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.data import FeatureMaker, Mixer, open_sources
from anybind.core_model.training.data.config import PICTURED, DataConfig
from anybind.errors import UserError


def open_stage(
    config: TrainConfig,
    parts: Parts,
    data: DataConfig,
    report: Callable[[str], None] | None = None,
    *,
    validating: bool = False,
) -> Mixer:
    """Samples of a stage with the embeddings that the bind network is to see.

    Args:
        config: The stage: its bundle's encoders, its cache, its augmentation.
        parts: The model.
        data: Its sources, or those that it is measured on.
        report: Called with a line about each bad record.
        validating: To measure: held-out records where `data` holds the stage's own sources, and
            pictures as they are.

    Raises:
        UserError: files are missing, of another joint space, have been through a cache already, or
            lack the augmented views.
    """
    dim = parts.trainee.bind.config.joint_dim
    bundle = config.model.bundle
    augment = None if validating else config.images.augment
    finish = None
    if config.cache is not None:
        finish = stage_cache(config.cache, bundle, parts.space, dim)
    maker = None
    if bundle and _embeds(config, data):
        maker = FeatureMaker.of_bundle(bundle, augment=augment)
    return open_sources(
        data, maker=maker, finish=finish, space=parts.space, dim=dim, report=report,
        held_out=config.validation.share, validating=validating and not config.validation.sources,
        augment=augment,
    )  # fmt: skip


def _embeds(config: TrainConfig, data: DataConfig) -> bool:
    named = any(s.format in PICTURED and s.features is None for s in data.sources)
    return bool(config.model.bundle) and named


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
        self.embeds = _embeds(config, config.data)
        """Whether pictures are embedded on the way."""
        self.mixer = open_stage(config, parts, config.data, report)
        epochs = config.data.epochs
        self.total = epochs * sum(s.count for s in self.mixer.sources) if epochs else None
        b = config.batch
        self._batcher = Batcher(
            self.mixer, parts.tokenizer, LAYOUTS[parts.chat], max_tokens=b.max_tokens,
            batch_tokens=b.tokens, dim=parts.trainee.bind.config.joint_dim, packing=b.packing,
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

        found = {"sources": self.mixer.summary(), "counts": asdict(self._batcher.counts)}
        if about := self.mixer.finish:
            cache = {"about": about, "embeddings": self.mixer.seen, "pulled": self.mixer.pulled}
            found["cache"] = cache
        return found

    def close(self) -> None:
        """Close files and encoders."""
        self.mixer.close()
