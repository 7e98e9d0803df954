"""The alignment of bound features with words: its target, alone and beside answers, gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from anybind.core_model.llama import Llama
from anybind.core_model.training.building import Parts, build_parts
from anybind.core_model.training.config import TrainConfig, parse
from anybind.core_model.training.feeding import StageBatches
from anybind.core_model.training.progress import read_metrics
from anybind.core_model.training.run import RunFolder
from anybind.core_model.training.trainer import train
from anybind.errors import UserError
from tests.core_model.train_tiny import (  # fmt: skip
    TinyBatch,
    TinyBatches,
    make_batch,
    settings,
    stage,
    write_base,
)

PROGRAM = Path(__file__).with_name("train_tiny.py")
BESIDE: dict[str, Any] = {"alignment": {"weight": 0.5}}
ALONE: dict[str, Any] = {
    "alignment": {"weight": 1.0, "alone": True}, "trainables__groups": ["bind"],
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_base(tmp_path_factory.mktemp("model") / "base")


def curve(run: Path) -> list[tuple[float, ...]]:
    kept = ("step", "answers", "loss", "grad_norm", "gate", "alignment")
    return [tuple(r[c] for c in kept) for r in read_metrics(run / "metrics.csv")]


def wanted(parts: Parts, names: list[list[int]]) -> torch.Tensor:
    """Where a feature should point, written down plainly."""
    table = parts.trainee.decoder.tok_embeddings.weight.detach()
    vectors = [(table[ids] - table.mean(0)).mean(0) for ids in names]
    mean = torch.stack(vectors).mean(0)
    return mean / mean.square().mean().sqrt()


def test_it_is_the_distance_from_the_mean_token_of_the_words(base: Path) -> None:
    parts = build_parts(stage(base, **BESIDE))
    b = make_batch(3)  # its first sample has no feature, its last no words
    got = parts.trainee(
        b.tokens, b.labels, b.segments, b.positions, b.features, b.present, True, b.words, b.shares
    )
    assert not b.present[2] and not b.shares[3].any()
    bound = parts.trainee.bind.bind(b.features)
    goals = [wanted(parts, [row]) for row in b.words[:2].tolist()]
    distance = sum(F.mse_loss(bound[i], goal) for i, goal in enumerate(goals))
    cosine = sum(F.cosine_similarity(bound[i], goal, dim=0) for i, goal in enumerate(goals))
    torch.testing.assert_close(got.distance, distance)
    torch.testing.assert_close(got.cosine, cosine)
    plain = build_parts(stage(base)).trainee(
        b.tokens, b.labels, b.segments, b.positions, b.features, b.present
    )
    assert torch.equal(got.loss, plain.loss) and float(plain.distance) == 0


def test_a_step_follows_both_losses(base: Path, tmp_path: Path) -> None:
    """The first gradient is that of mean answer loss plus weight times mean distance."""
    config = stage(base, steps=1, optimizer__clip=1e9, **BESIDE)
    train(config, tmp_path / "run", batches=TinyBatches(), live=False)
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    parts = build_parts(config)
    found = []
    for number in (1, 2):
        b = make_batch(number)
        found.append(
            parts.trainee(
                b.tokens, b.labels, b.segments, b.positions, b.features, b.present, True, b.words,
                b.shares,
            )
        )  # fmt: skip
    worded = 6
    mean = sum(f.loss for f in found) / row["answers"]
    (mean + 0.5 * sum(f.distance for f in found) / worded).backward()
    mean = mean.detach()
    norm = torch.stack([p.grad.norm() for p in parts.trainables.values() if p.grad is not None])
    assert row["grad_norm"] == pytest.approx(float(norm.norm()), rel=1e-5)
    assert row["loss"] == pytest.approx(float(mean), rel=1e-6)
    assert row["alignment"] == pytest.approx(float(sum(f.cosine for f in found)) / worded)


def test_alone_it_needs_no_decoder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the decoder ran")

    monkeypatch.setattr(Llama, "features", fail)
    config = stage(base, steps=60, save__every=60, **ALONE)
    outcome = train(config, tmp_path / "run", batches=TinyBatches(), live=False)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[0]["alignment"] < 0.5 and rows[-1]["alignment"] > 0.9
    assert outcome.loss < rows[0]["loss"] / 2
    monkeypatch.undo()
    # The next stage starts from it, queries and gates included.
    following = stage(base, steps=2, model__bind=None, model__init=str(tmp_path / "run"), **BESIDE)
    train(following, tmp_path / "next", batches=TinyBatches(), live=False)
    (first, *_) = read_metrics(tmp_path / "next" / "metrics.csv")
    assert first["alignment"] > 0.9


class Crash(Exception):
    """Something that nobody foresaw."""


class Stopping(TinyBatches):
    """Gives out in the middle of a step."""

    def __iter__(self) -> Iterator[TinyBatch]:
        for batch in super().__iter__():
            if self.at == 11:
                raise Crash
            yield batch


@pytest.mark.parametrize("changes", [BESIDE, ALONE])
def test_a_run_goes_on_bit_for_bit(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = stage(base, **changes)
    train(config, tmp_path / "whole", batches=TinyBatches(), live=False)
    with pytest.raises(Crash):
        train(config, tmp_path / "run", batches=Stopping(), live=False)
    train(config, tmp_path / "run", resume=True, batches=TinyBatches(), live=False)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "run")) == 8


@pytest.mark.parametrize("changes", [BESIDE, ALONE])
def test_two_processes_give_the_curve_of_one(
    base: Path, changes: dict[str, Any], tmp_path: Path
) -> None:
    single, double = tmp_path / "single", base.parent / f"double-{len(changes)}"
    train(
        stage(base, steps=4, batch__accumulation=4, **changes), single, batches=TinyBatches(),
        live=False,
    )  # fmt: skip
    said = [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    command += [str(PROGRAM), str(double), "steps=4", "batch.accumulation=2", *said]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in zip(curve(single), curve(double), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_words_of_records_reach_the_batch(base: Path, tmp_path: Path) -> None:
    ask, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}
    row = [1.0, 0, 0, 0, 0, 0]
    records = [
        {"messages": [ask, answer], "feature": row, "words": "ab, cde"},
        {"messages": [ask, answer], "feature": row},
        {"messages": [ask, answer], "words": "abc"},  # nothing that the words could be of
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, records)))
    tree = settings(base, model__chat="chatml", **BESIDE)
    tree["data"] = {"sources": [{"format": "jsonl", "path": "d.jsonl", "shuffle": "none"}], "epochs": 1}  # fmt: skip
    tree["batch"] = {"max_tokens": 64, "tokens": 256}
    config = parse(TrainConfig, tree, "x").at(tmp_path)
    parts = build_parts(config)
    (batch,) = list(StageBatches(config, parts))
    there = batch.shares.sum(-1)
    assert sorted(there.tolist()) == pytest.approx([0, 0, 1])
    ids = batch.words[there > 0][0]
    # A blank is an unknown letter to this tokenizer: 3 + 4 ids; each name counts a half.
    names = [parts.tokenizer.encode(" ab"), parts.tokenizer.encode(" cde")]
    assert ids.tolist() == [*names[0], *names[1]]
    assert batch.shares.max(0).values.tolist() == pytest.approx([1 / 6] * 3 + [1 / 8] * 4)
    got = parts.trainee(
        batch.tokens, batch.labels, batch.segments, batch.positions, batch.features, batch.present,
        True, batch.words, batch.shares,
    )  # fmt: skip
    bound = parts.trainee.bind.bind(torch.tensor([row]))[0]
    torch.testing.assert_close(got.distance, F.mse_loss(bound, wanted(parts, names)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alignment": {"alone": True}}, "weight above 0"),
        ({"alignment": {"weight": 1, "alone": True}}, r"groups: \[bind\]"),
        ({"alignment": {"weight": 1}, "trainables__groups": ["gates"]}, "needs the group bind"),
        ({"alignment": {"weight": -1}}, "alignment.weight"),
    ],
)
def test_what_can_not_be_aligned_is_refused(base: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(TrainConfig, settings(base, **changes), "x")


def test_a_run_from_before_can_be_gone_on_with(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = stage(base)
    with pytest.raises(Crash):
        train(config, run, batches=Stopping(), live=False)
    kept = json.loads((run / "config.json").read_text())
    del kept["alignment"]
    (run / "config.json").write_text(json.dumps(kept))
    lines = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    RunFolder(run).check(config, resume=True)
    train(config, run, resume=True, batches=TinyBatches(), live=False)
    assert len(read_metrics(run / "metrics.csv")) == 8
    with pytest.raises(UserError, match="alignment.weight"):
        RunFolder(run).check(stage(base, **BESIDE), resume=True)
