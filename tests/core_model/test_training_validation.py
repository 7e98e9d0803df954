"""Held-out samples: never trained on, measured rightly, and the best checkpoint is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anybind.core_model.training.building import build_parts
from anybind.core_model.training.config import TrainConfig, load_config
from anybind.core_model.training.curves import draw
from anybind.core_model.training.data.config import read_data_config
from anybind.core_model.training.data.mixer import open_sources
from anybind.core_model.training.feed import Feed
from anybind.core_model.training.feeding import StageBatches
from anybind.core_model.training.progress import read_metrics
from anybind.core_model.training.state import checkpoints, read_adapter
from anybind.core_model.training.trainer import train
from anybind.core_model.training.validation import held_out_batches
from anybind.errors import UserError
from tests.core_model.train_tiny import JOINT, settings, write_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stage")
    write_base(folder / "base")
    for name, count in (("a", 50), ("b", 30)):
        with (folder / f"{name}.jsonl").open("w") as stream:
            for number in range(count):
                kind = number % JOINT
                record = {
                    "messages": [
                        {"role": "user", "content": "a" * (1 + number % 4)},
                        {"role": "assistant", "content": chr(98 + kind) * 3},
                    ],
                    "feature": [float(i == kind) for i in range(JOINT)],
                }
                stream.write(json.dumps(record) + "\n")
    return folder


def stage(folder: Path, name: str, **changes: Any) -> TrainConfig:
    tree = settings(Path("base"), model__chat="chatml", **changes)
    tree["data"] = {"sources": [{"format": "jsonl", "path": f"{n}.jsonl"} for n in "ab"]}
    tree["batch"] = {"max_tokens": 64, "tokens": 128}
    (folder / name).write_text(yaml.safe_dump(tree))
    return load_config(folder / name)


def test_the_last_records_are_held_out_and_no_others(folder: Path) -> None:
    data = {"sources": [{"format": "jsonl", "path": ["a.jsonl", "b.jsonl"]}], "epochs": 1}
    config = read_data_config(data, folder)
    parts = [
        {s.key for s in open_sources(config, held_out=0.1, validating=v)} for v in (False, True)
    ]
    assert parts[1] == {f"b.jsonl, line {n}" for n in range(23, 31)}
    assert len(parts[0]) == 72 and not parts[0] & parts[1]
    assert parts[0] | parts[1] == {s.key for s in open_sources(config)}
    short = read_data_config({"sources": [{**data["sources"][0], "limit": 1}]}, folder)
    with pytest.raises(UserError, match="too few records"):
        open_sources(short, held_out=0.1)


def test_training_leaves_them_out(folder: Path) -> None:
    config = stage(folder, "share.yaml", validation={"share": 0.2})
    batches = StageBatches(config, build_parts(config))
    assert [s.count for s in batches.mixer.sources] == [40, 24]


def test_it_measures_what_a_pass_over_them_gives(folder: Path, tmp_path: Path) -> None:
    wanted = {"share": 0.2, "every": 3, "samples": 12}
    config = stage(folder, "measured.yaml", validation=wanted, save__every=1, save__keep=9)
    outcome = train(config, tmp_path / "run", live=False)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    measured = {r["step"]: r for r in rows if not math.isnan(r["valid_loss"])}
    assert set(measured) == {3, 6, 8}
    assert measured[8]["valid_loss"] < measured[3]["valid_loss"]
    parts = build_parts(config)
    batches = held_out_batches(config, parts)
    assert sum(b.samples for b in batches) == 12
    for step in (3, 8):
        adapter = read_adapter(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
        parts.trainee.bind.load_state_dict(adapter.bind.state_dict())
        loss = right = answers = 0.0
        for batch in batches:
            taken = Feed([batch], accumulation=1).take()  # type: ignore[arg-type]
            assert taken is not None
            found = parts.trainee(**taken.mine[0])
            loss, right = loss + found.loss.item(), right + found.right.item()
            answers += taken.answers
        assert measured[step]["valid_loss"] == pytest.approx(loss / answers, rel=1e-5)
        assert measured[step]["valid_accuracy"] == pytest.approx(right / answers)
    best = min(measured, key=lambda s: measured[s]["valid_loss"])
    assert outcome.best == best


def test_a_run_is_the_same_with_and_without_it(folder: Path, tmp_path: Path) -> None:
    """Held-out sources of their own take nothing from the training, nor its random numbers."""
    held = [{"format": "jsonl", "path": "b.jsonl"}]
    config = stage(folder, "held.yaml", validation={"sources": held, "every": 2, "samples": 5})
    assert config.validation.sources[0].path == (folder / "b.jsonl",)
    plain = stage(folder, "plain.yaml")
    train(config, tmp_path / "held", live=False)
    train(plain, tmp_path / "plain", live=False)
    curves = [
        [(r["loss"], r["grad_norm"], r["samples"]) for r in read_metrics(tmp_path / n / "metrics.csv")]
        for n in ("held", "plain")
    ]  # fmt: skip
    assert curves[0] == curves[1]
    draw([tmp_path / "held", tmp_path / "plain"], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


class Crash(Exception):
    """Something that nobody foresaw."""


class Stopping(StageBatches):
    """Gives out after seven batches."""

    def __iter__(self) -> Any:
        for number, batch in enumerate(super().__iter__()):
            if number == 7:
                raise Crash
            yield batch


def test_the_best_checkpoint_stays_and_is_remembered(folder: Path, tmp_path: Path) -> None:
    # A rate so high that it gets worse after a while.
    config = stage(
        folder, "best.yaml", validation={"share": 0.2, "every": 1, "samples": 12}, steps=12,
        optimizer__lr=10.0, optimizer__floor=1.0, optimizer__clip=1000.0, save={"every": 2, "keep": 1},
    )  # fmt: skip
    whole = train(config, tmp_path / "whole", live=False)
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    lowest = min(rows, key=lambda r: r["valid_loss"])["step"]
    assert whole.best == lowest < 12
    kept = [int(c.name.removeprefix("step-")) for c in checkpoints(tmp_path / "whole")]
    assert kept == [lowest, 12]
    with pytest.raises(Crash):
        stopping = Stopping(config, build_parts(config))
        train(config, tmp_path / "run", batches=stopping, live=False)
    again = train(config, tmp_path / "run", resume=True, live=False)
    assert again.best == whole.best
    drop = lambda run: [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(run / "metrics.csv")]  # noqa: E731  # fmt: skip
    assert drop(tmp_path / "run") == drop(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": 0.7}, "validation.share"),
        ({"share": 0.1, "sources": [{"format": "jsonl", "path": "a.jsonl"}]}, "not both"),
        ({"every": 0}, "validation.every"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stage(folder, "bad.yaml", validation=changes)
