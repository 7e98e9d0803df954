"""The training loop: the right loss, the same curve however it is run, guards, checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from anybind.core_model.training.building import build_parts, group_of
from anybind.core_model.training.progress import read_metrics
from anybind.core_model.training.state import checkpoints, read, read_adapter
from anybind.core_model.training.trainer import train
from anybind.errors import ModelError, UserError
from tests.core_model.train_tiny import LAYERS, TinyBatches, make_batch, stage, write_base

PROGRAM = Path(__file__).with_name("train_tiny.py")
ALL: dict[str, Any] = {
    "trainables__groups": ["bind", "queries", "gates", "lora", "biases", "norms"],
    "trainables__lora": {"rank": 2},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("model") / "base")


def curve(run: Path) -> list[tuple[float, ...]]:
    """What must be the same however a run came about."""
    kept = ("step", "samples", "tokens", "answers", "loss", "grad_norm", "lr", "gate", "skipped")
    return [tuple(r[c] for c in kept) for r in read_metrics(run / "metrics.csv")]


def environment(**extra: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | extra


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("site", ["residual", "attention_output"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_packed_rows_are_samples_by_themselves(base: Path, site: str, checkpoint: bool) -> None:
    config = stage(
        base, model__bind__injection=site, model__bind__first_layer=1,
        activation_checkpointing=checkpoint, **ALL,
    )  # fmt: skip
    trainee = build_parts(config).trainee
    with torch.no_grad():
        for parameter in trainee.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    b = make_batch(3)  # one of its samples has no feature
    got = trainee(b.tokens, b.labels, b.segments, b.positions, b.features, b.present)
    loss = torch.zeros(())
    right = 0
    for sample in range(4):
        at = b.segments == sample
        tokens, labels = b.tokens[at][None], b.labels[at]
        inject = trainee.bind(b.features[sample : sample + 1], trainee.decoder)
        logits = trainee.decoder(
            tokens, inject=inject if b.present[sample] else None, site=trainee.bind.config.injection
        )[0]
        learned = labels[1:] != -100
        loss = loss + F.cross_entropy(logits[:-1][learned], labels[1:][learned], reduction="sum")
        right += int((logits[:-1].argmax(-1) == labels[1:])[learned].sum())
    torch.testing.assert_close(got.loss, loss, atol=2e-4, rtol=1e-5)
    assert int(got.right) == right
    names, parameters = zip(
        *((n, p) for n, p in trainee.named_parameters() if p.requires_grad), strict=True
    )
    ours = torch.autograd.grad(got.loss, parameters)
    theirs = torch.autograd.grad(loss, parameters)
    for name, mine, wanted in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-3, rtol=1e-3, msg=name)


def test_rows_of_one_sample_need_no_mask(base: Path) -> None:
    trainee = build_parts(stage(base)).trainee
    torch.nn.init.constant_(trainee.bind.gate, 0.5)
    b = make_batch(1)
    first = (b.segments == 0) | (b.segments == 2)
    segments = torch.where(first, b.segments, -1)
    labels = torch.where(first, b.labels, -100)
    rest = (b.positions, b.features, b.present)
    packed = trainee(b.tokens, labels, segments, *rest, packed=True)
    plain = trainee(b.tokens, labels, segments, *rest, packed=False)
    torch.testing.assert_close(packed.loss, plain.loss)


def test_without_a_feature_the_decoder_is_the_plain_one(base: Path) -> None:
    trainee = build_parts(stage(base)).trainee
    torch.nn.init.constant_(trainee.bind.gate, 3.0)
    b = make_batch(1)
    none = torch.zeros_like(b.present)
    rest = (b.tokens, b.labels, b.segments, b.positions)
    without = trainee(*rest, b.features, none).loss
    torch.nn.init.zeros_(trainee.bind.gate)
    assert torch.equal(trainee(*rest, b.features, none | True).loss, without)


def test_the_zero_image_stands_for_samples_without_a_feature(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    zero = tmp_path / "zero.safetensors"
    save_file({"zero_image": torch.full((6,), 0.4)}, zero)
    with_zero = stage(base, zero_image=str(zero), steps=2)
    train(with_zero, tmp_path / "a", batches=TinyBatches(), live=False)
    train(stage(base, steps=2), tmp_path / "b", batches=TinyBatches(), live=False)
    a, b = curve(tmp_path / "a"), curve(tmp_path / "b")
    assert a[0] == b[0]  # all have a feature
    assert a[1][4] != b[1][4]  # one has none
    save_file({"zero_image": torch.zeros(5)}, zero)
    with pytest.raises(UserError, match="6 numbers"):
        train(with_zero, tmp_path / "c", batches=TinyBatches(), live=False)


# ---------------------------------------------------------------- the curve


def test_it_learns_and_only_what_it_should(base: Path, tmp_path: Path) -> None:
    config = stage(base, steps=50, save__every=25)
    parts = build_parts(config)
    frozen = {n: p.clone() for n, p in parts.trainee.decoder.named_parameters()}
    outcome = train(config, tmp_path / "run", parts=parts, batches=TinyBatches(), live=False)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [r["step"] for r in rows] == list(range(1, 51))
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert rows[-1]["gate"] > 0.1
    for name, parameter in parts.trainee.decoder.named_parameters():
        assert torch.equal(parameter, frozen[name]), name
    assert outcome.step == 50 and outcome.samples == 400
    trained = set(read(checkpoints(tmp_path / "run")[-1]).trainables)
    assert {group_of(n) for n in trained} == {"bind", "queries", "gates"}
    assert trained == set(parts.trainables)


def test_accumulation_is_a_larger_batch(base: Path, tmp_path: Path) -> None:
    """The mean is over answer tokens, however they lie in micro-batches."""
    config = stage(base, steps=1)
    train(config, tmp_path / "run", batches=TinyBatches(), live=False)
    trainee = build_parts(config).trainee
    losses, answers = [], 0
    for number in (1, 2):
        b = make_batch(number)
        rest = (b.tokens, b.labels, b.segments, b.positions, b.features, b.present)
        losses.append(trainee(*rest).loss)
        answers += int((b.labels != -100).sum())
    loss = torch.stack(losses).sum() / answers
    loss.backward()
    grads = [p.grad for p in trainee.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm()
    row = read_metrics(tmp_path / "run" / "metrics.csv")[0]
    assert row["answers"] == answers
    assert row["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_bfloat16_keeps_what_is_trained_in_float32(base: Path, tmp_path: Path) -> None:
    config = stage(base, steps=30, precision="bf16", **ALL)
    parts = build_parts(config)
    assert parts.trainee.decoder.tok_embeddings.weight.dtype == torch.bfloat16
    assert {p.dtype for p in parts.trainables.values()} == {torch.float32}
    train(config, tmp_path / "run", parts=parts, batches=TinyBatches(), live=False)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[-1]["loss"] < rows[0]["loss"] / 1.5


# ---------------------------------------------------------------- killed, stopped, gone on with


@pytest.fixture(scope="module")
def whole_run(base: Path) -> Path:
    run = base.parent / "whole"
    torch.set_num_threads(1)
    train(stage(base, steps=12, **ALL), run, batches=TinyBatches(), live=False)
    return run


def test_a_killed_run_goes_on_bit_for_bit(base: Path, whole_run: Path) -> None:
    run = base.parent / "killed"
    changes = [f"{k}={json.dumps(v)}" for k, v in ALL.items()]
    command = [sys.executable, str(PROGRAM), str(run), "steps=12", *changes]
    process = subprocess.Popen([*command, "--slow"], env=environment(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(curve(run)) < 5:
        assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(curve(run)) < 12
    outcome = train(
        stage(base, steps=12, **ALL), run, resume=True, batches=TinyBatches(), live=False
    )
    assert outcome.step == 12
    assert curve(run) == curve(whole_run)
    a, b = (read(checkpoints(r)[-1]) for r in (run, whole_run))
    for name in a.trainables:
        assert torch.equal(a.trainables[name], b.trainables[name]), name
    for name in a.optimizer:
        assert torch.equal(a.optimizer[name], b.optimizer[name]), name


def test_a_run_that_is_told_to_stop_saves_first(base: Path, whole_run: Path) -> None:
    run = base.parent / "stopped"
    changes = [f"{k}={json.dumps(v)}" for k, v in ALL.items()] + ["save.every=100"]
    command = [sys.executable, str(PROGRAM), str(run), "steps=12", *changes, "--slow"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE)
    while len(curve(run)) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = json.loads(process.communicate(timeout=60)[0].splitlines()[-1])
    assert process.returncode == 0 and said["stopped"] and 3 <= said["step"] < 12
    train(stage(base, steps=12, **ALL), run, resume=True, batches=TinyBatches(), live=False)
    assert curve(run) == curve(whole_run)


def test_two_processes_give_the_curve_of_one(base: Path) -> None:
    single, double = base.parent / "single", base.parent / "double"
    train(stage(base, steps=6, batch__accumulation=4), single, batches=TinyBatches(), live=False)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    command += [str(PROGRAM), str(double), "steps=6", "batch.accumulation=2"]
    done = subprocess.run(
        command, env=environment(ACCELERATE_USE_CPU="true"), capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = curve(single), curve(double)
    assert len(b) == 6
    for one, two in zip(a, b, strict=True):
        assert one[:4] == two[:4]
        assert two[4:] == pytest.approx(one[4:], rel=1e-4, abs=1e-6)
    assert a[0][4] > 1.05 * a[-1][4]  # the curve is not flat


@pytest.mark.parametrize("site", ["residual", "attention_output"])
def test_sharded_layers_learn_the_same(base: Path, site: str) -> None:
    """As accelerate shards for FSDP2, which it does on accelerators only."""
    program = PROGRAM.with_name("train_sharded.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", str(program), str(base), site]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, env=environment(PYTHONPATH=root), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("same")


# ---------------------------------------------------------------- what goes wrong


def test_a_bad_step_is_skipped_and_reported(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train(
        stage(base, steps=6), tmp_path / "run", batches=TinyBatches(poison=(5,)), live=False
    )
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [r["skipped"] for r in rows] == [0, 0, 1, 0, 0, 0]
    assert outcome.skipped == 1 and outcome.step == 6
    assert "step 3 skipped: the loss is nan" in capsys.readouterr().err
    trained = read(checkpoints(tmp_path / "run")[-1]).trainables
    assert all(t.isfinite().all() for t in trained.values())


def test_many_bad_steps_halt_the_run(base: Path, tmp_path: Path) -> None:
    config = stage(base, steps=20, limits__bad_in_a_row=3)
    poison = tuple(range(9, 40))  # from step 5 on
    with pytest.raises(ModelError, match=r"step 7.*3 steps in a row.*step-00000006.*optimizer\.lr"):
        train(config, tmp_path / "run", batches=TinyBatches(poison=poison), live=False)
    last = checkpoints(tmp_path / "run")[-1]
    assert all(t.isfinite().all() for t in read(last).trainables.values())
    assert all(t.isfinite().all() for t in read(last).optimizer.values())
    # Gone on with over good data, it ends well.
    outcome = train(config, tmp_path / "run", resume=True, batches=TinyBatches(), live=False)
    assert outcome.step == 20


def test_bad_steps_add_up(base: Path, tmp_path: Path) -> None:
    config = stage(base, steps=20, limits__bad_in_all=2)
    with pytest.raises(ModelError, match="2 steps had a loss"):
        train(config, tmp_path / "r", batches=TinyBatches(poison=(3, 9)), live=False)


def test_a_run_is_not_run_over(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match="no checkpoint to go on from"):
        train(stage(base), run, resume=True, batches=TinyBatches(), live=False)
    train(stage(base, steps=2), run, batches=TinyBatches(), live=False)
    with pytest.raises(UserError, match="--resume"):
        train(stage(base, steps=2), run, batches=TinyBatches(), live=False)
    with pytest.raises(UserError, match=r"optimizer\.lr, steps"):
        train(
            stage(base, steps=4, optimizer__lr=0.5), run, resume=True, batches=TinyBatches(),
            live=False,
        )  # fmt: skip


def test_checkpoints_are_kept_and_whole(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(stage(base, steps=8, save__every=1, save__keep=3), run, batches=TinyBatches(), live=False)
    assert [p.name for p in checkpoints(run)] == ["step-00000006", "step-00000007", "step-00000008"]
    # What a crash leaves of one that was being written is not taken for one.
    (run / "checkpoints" / ".step-00000009.part").mkdir()
    assert len(checkpoints(run)) == 3
    (checkpoints(run)[-1] / "trainables.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="can't be read"):
        read(checkpoints(run)[-1])


def test_a_run_ends_with_its_data(base: Path, tmp_path: Path) -> None:
    outcome = train(
        stage(base, steps=None, data__epochs=1), tmp_path / "run", batches=TinyBatches(7),
        live=False,
    )  # fmt: skip
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert outcome.step == 4 and outcome.samples == 28  # the last step has one micro-batch
    assert outcome.checkpoint is not None and outcome.checkpoint.name == "step-00000004"
    assert 0 < rows[-1]["lr"] < rows[1]["lr"]


# ---------------------------------------------------------------- one stage after another


def test_a_stage_starts_from_another(base: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / n for n in ("first", "second", "third"))
    train(stage(base, steps=6), first, batches=TinyBatches(), live=False)
    tuning: dict[str, Any] = {
        "model__bind": None, "trainables__groups": ["lora", "biases", "norms"],
        "trainables__lora": {"rank": 2}, "steps": 4,
    }  # fmt: skip
    train(stage(base, model__init=str(first), **tuning), second, batches=TinyBatches(), live=False)
    assert not any(n.startswith("bind.") for n in read(checkpoints(second)[-1]).trainables)
    before, after = read_adapter(first), read_adapter(second)
    for name, tensor in before.bind.state_dict().items():
        assert torch.equal(tensor, after.bind.state_dict()[name]), name
    assert after.rank == 2 and len(after.decoder) == LAYERS * (7 * 2 + 5 + 2) + 1
    # A third goes on with all of it; the loss begins where the second ended.
    train(stage(base, model__init=str(second), **tuning), third, batches=TinyBatches(), live=False)
    again = build_parts(stage(base, model__init=str(second), **tuning))
    for name, tensor in after.decoder.items():
        held = dict(again.trainee.decoder.named_parameters())[name]
        assert torch.equal(held, tensor), name
    other = write_base(tmp_path / "other", kv_heads=4)
    with pytest.raises(ModelError, match="does not belong"):
        build_parts(stage(other, model__init=str(second), **tuning))
