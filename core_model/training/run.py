"""The folder of a run: may it be begun or gone on with, and what is put there first.

Knows configs and folders; no tensors beyond what it is handed.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anybind.core_model.training.building import Parts
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.state import (
    CONFIG,
    FROZEN,
    About,
    checkpoints,
    write_frozen,
)
from anybind.errors import UserError

_MAY_CHANGE = ("about", "save", "limits", "activation_checkpointing")
"""What may differ when a run is gone on with: it leaves the curve as it is."""


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path

    @property
    def last(self) -> Path | None:
        """The last checkpoint."""
        found = checkpoints(self.path)
        return found[-1] if found else None

    def check(self, config: TrainConfig, *, resume: bool) -> None:
        """Whether a stage may run here.

        Raises:
            UserError: something else is here; nothing to go on from; the stage has changed.
        """
        here = self.path / CONFIG
        if not resume:
            if here.exists() or self.last is not None:
                raise UserError(
                    f"{self.path} holds a run already. Go on with it by --resume, or give another "
                    "--out."
                )
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f"{self.path} is a file; a run needs a folder.")
            return
        if self.last is None:
            raise UserError(f"{self.path} holds no checkpoint to go on from.")
        try:
            old = json.loads(here.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{here} can't be read: {error}") from error
        with suppress(
            ValidationError
        ):  # settings that it didn't know yet are as they are by default
            old = TrainConfig.model_validate(old).model_dump(mode="json")
        new = config.model_dump(mode="json")
        changed = [k for k in sorted(differences(old, new)) if k.split(".")[0] not in _MAY_CHANGE]
        if changed:
            raise UserError(
                f"The stage differs from the run in {self.path}: {', '.join(changed)}. A run is "
                'gone on with as it was; start a new one from it with "model.init".'
            )

    def begin(self, config: TrainConfig, parts: Parts) -> None:
        """Put the stage and the frozen part of its adapter there; nothing if they are."""
        self.path.mkdir(parents=True, exist_ok=True)
        if (kept := parts.kept) and not (self.path / FROZEN).exists():
            write_frozen(self.path, kept)
        scratch = self.path / f".{CONFIG}.part"
        scratch.write_text(
            json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False), "utf-8"
        )
        scratch.replace(self.path / CONFIG)

    def about(self, config: TrainConfig, parts: Parts) -> About:
        """What its checkpoints say of the model."""
        tokenizer = config.model.tokenizer
        return About(
            bind=parts.trainee.bind.config,
            base=parts.identity,
            layout=parts.trainee.decoder.config.rope_layout,
            decoder=str(parts.base.absolute()),
            tokenizer=str(tokenizer.absolute()) if tokenizer else "",
            chat=parts.chat,
            space=parts.space,
            stage=config.stage,
            seed=config.seed,
            frozen=bool(parts.kept),
        )


def differences(old: Any, new: Any, way: str = "") -> set[str]:
    """Dotted keys under which two trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = set(old) | set(new)
        found = (differences(old.get(k), new.get(k), f"{way}.{k}" if way else k) for k in keys)
        return set().union(*found)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return set().union(*(differences(a, b, f"{way}.{i}") for i, (a, b) in pairs))
    return set() if old == new else {way}
