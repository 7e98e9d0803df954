"""Runs and checkpoints on disk: what was trained, and all that going on from it takes.

    RUN/config.json              the stage
    RUN/frozen.safetensors       what belongs to the adapter and is not trained in this stage
    RUN/metrics.csv              one row a step
    RUN/checkpoints/step-N/      trainables.safetensors, optimizer.safetensors, rng.safetensors,
                                 state.json (step, place in the data, counts)

A checkpoint appears whole or not at all: it is written beside, flushed to the disk, and renamed.
Knows tensors by name; no model, no data.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.adapters import Adapter, tuned_adapter
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints.tensors import read_safetensors
from anybind.core_model.llama import RopeLayout
from anybind.errors import ModelError, UserError

FORMAT = "anybind-run-1"
TRAINABLES, OPTIMIZER, RNG, STATE = (
    "trainables.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json",
)  # fmt: skip
FROZEN, CONFIG, CHECKPOINTS = "frozen.safetensors", "config.json", "checkpoints"
_PREFIX = "step-"


@dataclass(frozen=True)
class About:
    """What a run says of its model."""

    bind: BindConfig
    base: str
    """Identity of the decoder's weights."""
    layout: RopeLayout = "interleaved"
    """How the rows of its wq and wk lie, and so those of what was trained beside them."""
    decoder: str = ""
    """Where the decoder lay, for export."""
    tokenizer: str = ""
    chat: str = ""
    space: str = ""
    stage: str = ""
    seed: int = 0
    frozen: bool = False
    """Whether `frozen.safetensors` of the run belongs to it."""

    def text(self) -> str:
        """As the header of a safetensors file holds it."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> About:
        """Read `text` back; KeyError, TypeError, ValueError if it is something else."""
        data = json.loads(text)
        return cls(**(data | {"bind": BindConfig(**data["bind"])}))


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Steps behind it, skipped ones too."""
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    bad_in_a_row: int = 0
    bad_in_all: int = 0
    best_step: int = 0
    """Where the loss on held-out samples was lowest; 0 before it was measured."""
    best_loss: float | None = None
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    """The place in the data, as its reader gave it."""


@dataclass(frozen=True)
class Snapshot:
    """All that is written at one step; tensors by name."""

    progress: Progress
    trainables: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """State of the optimiser: "parameter|moment"."""
    rng: Mapping[str, Tensor]
    """State of torch's generators, "process.device"."""


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = run / CHECKPOINTS
    found = [p for p in folder.glob(f"{_PREFIX}*") if (p / STATE).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(_PREFIX)))


def is_run(path: Path) -> bool:
    """Whether a path is a run or one of its checkpoints."""
    return path.is_dir() and ((path / TRAINABLES).is_file() or (path / CHECKPOINTS).is_dir())


def checkpoint_of(path: Path) -> Path:
    """The checkpoint itself, or the last one of a run.

    Raises:
        UserError: there is none.
    """
    if (path / TRAINABLES).is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise UserError(f"{path} holds no checkpoint.")
    return found[-1]


def write(run: Path, snapshot: Snapshot, about: About, keep: int) -> Path:
    """Write a checkpoint, then remove all but the last `keep` and the best."""
    folder = run / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{snapshot.progress.step:08d}"
    scratch = folder / f".{final.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    header = {"format": FORMAT, "run": about.text()}
    _save(scratch / TRAINABLES, snapshot.trainables, header)
    _save(scratch / OPTIMIZER, snapshot.optimizer, {"format": FORMAT})
    _save(scratch / RNG, snapshot.rng, {"format": FORMAT})
    with (scratch / STATE).open("w", encoding="utf-8") as stream:
        json.dump({"format": FORMAT, **asdict(snapshot.progress)}, stream)
        _flush(stream.fileno())
    _flush_folder(scratch)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(scratch, final)
    _flush_folder(folder)
    best = f"{_PREFIX}{snapshot.progress.best_step:08d}"
    for old in checkpoints(run)[:-keep]:
        if old.name != best:
            shutil.rmtree(old)
    return final


def write_frozen(run: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write what belongs to the adapter and stays as it is; once a run."""
    scratch = run / f".{FROZEN}.part"
    _save(scratch, tensors, {"format": FORMAT})
    os.rename(scratch, run / FROZEN)
    _flush_folder(run)


def read(checkpoint: Path) -> Snapshot:
    """Read a checkpoint back.

    Raises:
        ModelError: it is damaged.
    """
    try:
        data = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        progress = Progress(**data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{checkpoint / STATE} can't be read: {error!r}") from error
    return Snapshot(
        progress,
        read_safetensors(checkpoint / TRAINABLES)[0],
        read_safetensors(checkpoint / OPTIMIZER)[0],
        _read_bytes(checkpoint / RNG),
    )


def about(checkpoint: Path) -> About:
    """What a checkpoint says of its model.

    Raises:
        ModelError: it is damaged.
    """
    try:
        return About.of(read_safetensors(checkpoint / TRAINABLES)[1]["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{checkpoint / TRAINABLES} says not what it is: {error!r}") from error


def read_adapter(path: Path) -> Adapter:
    """Bind network and decoder part of a run or checkpoint, in float32.

    Raises:
        UserError: there is no checkpoint.
        ModelError: it is damaged.
    """
    checkpoint = checkpoint_of(path)
    known = about(checkpoint)
    state = dict(read_safetensors(checkpoint / TRAINABLES)[0])
    if known.frozen:
        file = checkpoint.parent.parent / FROZEN
        if not file.is_file():
            raise ModelError(
                f"{checkpoint} needs {file}, which holds what its stage did not train."
            )
        state |= read_safetensors(file)[0]
    bind_state = {n.removeprefix("bind."): t for n, t in state.items() if n.startswith("bind.")}
    decoder = {
        n.removeprefix("decoder."): t.float() for n, t in state.items() if n.startswith("decoder.")
    }
    bind = BindNetwork(known.bind)
    try:
        bind.load_state_dict({n: t.float() for n, t in bind_state.items()}, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{checkpoint} holds no whole bind network: {error}") from error
    record = {"source": str(path), "stage": known.stage}
    return tuned_adapter(
        bind.requires_grad_(False), decoder, str(checkpoint), layout=known.layout, base=known.base,
        about=record,
    )  # fmt: skip


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path, metadata)
    with path.open("rb+") as stream:
        _flush(stream.fileno())


def _read_bytes(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows: a folder can't be opened, nor needs it
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rng_state(rank: int) -> dict[str, Tensor]:
    """Torch's generators of this process."""
    state = {f"{rank}.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state[f"{rank}.cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(rank: int, state: Mapping[str, Tensor]) -> None:
    """Set them as `rng_state` gave them; a process that was not there keeps its own."""
    setters: dict[str, Callable[[Tensor], None]] = {f"{rank}.cpu": torch.set_rng_state}
    if torch.cuda.is_available():
        setters[f"{rank}.cuda"] = torch.cuda.set_rng_state
    for name, setter in setters.items():
        if name in state:
            setter(state[name])
