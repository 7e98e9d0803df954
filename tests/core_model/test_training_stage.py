"""Stages from their YAML on real files: configs, data, batches, steps, estimates, curves."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anybind.core_model.training.building import build_hollow, build_parts
from anybind.core_model.training.config import TrainConfig, load_config, shipped
from anybind.core_model.training.curves import draw
from anybind.core_model.training.estimate import estimate
from anybind.core_model.training.feeding import StageBatches
from anybind.core_model.training.progress import read_metrics
from anybind.core_model.training.trainer import train
from anybind.errors import UserError
from tests.core_model.train_tiny import JOINT, settings, write_base

CHAT = {"model__chat": "chatml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stage")
    write_base(folder / "base")
    rng = random.Random(0)
    with (folder / "data.jsonl").open("w") as stream:
        for _ in range(60):
            kind = rng.randrange(JOINT)
            record: dict[str, Any] = {
                "messages": [
                    {"role": "user", "content": "a" * rng.randrange(1, 5)},
                    {"role": "assistant", "content": chr(98 + kind) * rng.randrange(2, 5)},
                ]
            }
            if rng.random() < 0.8:
                record["feature"] = [float(i == kind) for i in range(JOINT)]
            stream.write(json.dumps(record) + "\n")
    return folder


def table(folder: Path, **changes: Any) -> dict[str, Any]:
    """A stage over the file, as its YAML says it."""
    tree = settings(Path("base"), **CHAT, **changes)
    tree["data"] = {"sources": [{"format": "jsonl", "path": "data.jsonl"}]} | tree["data"].get(
        "x", {}
    )
    tree["batch"] = {"max_tokens": 64, "tokens": 128}
    return tree


def written(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(table(folder, **changes)))
    return path


# ---------------------------------------------------------------- configs


def test_every_shipped_stage_is_sound() -> None:
    names = set(shipped())
    assert {"pretrain", "instruct", "quality", "dialogue", "tools"} < names
    assert sum(n.startswith("nano-") for n in names) >= 4
    for name in names:
        assert load_config(name).stage == name


@pytest.mark.parametrize(("name", "trained"), [("pretrain", 608_322_560), ("instruct", 41_340_928)])
def test_the_stages_train_what_the_release_trained(name: str, trained: int) -> None:
    """Counts of the released code at 7B (without data: sizes alone)."""
    trainee = build_hollow(load_config(name))
    assert sum(p.numel() for p in trainee.parameters() if p.requires_grad) == trained


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer.lrr": 1}, "optimizer.lrr: no such key"),
        ({"optimizer.lr": -1}, "optimizer.lr: Input should be greater than 0"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr"),
        ({"model.init": "x"}, "model: bind gives sizes"),
        ({"model.decoder": None}, "model: give a bundle or a decoder"),
        ({"trainables.groups": ["eyes"]}, "trainables.groups.0"),
        ({"trainables.lora": {"linears": ["w9"]}}, "trainables.lora.linears.0"),
        ({"data.sources": [{"format": "xml", "path": "x"}]}, "data.sources.0.format"),
        ({"batch": {"max_tokens": 64, "tokens": 32}}, "batch: tokens (32) is less"),
        ({"steps": None}, "give steps, or data.epochs"),
        ({"precision": "fp8"}, "precision"),
        ({"surplus": 1}, "surplus: no such key"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, changes: dict[str, Any], said: str) -> None:
    path = written(folder, "wrong.yaml")
    settings = [
        f"{k}={yaml.safe_dump(v, default_flow_style=True).strip().removesuffix('...')}"
        for k, v in changes.items()
    ]
    with pytest.raises(UserError) as caught:
        load_config(path, settings)
    assert said in str(caught.value) and "wrong.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\t:", "a: &a [*a]"])
def test_what_is_no_table_is_refused(folder: Path, text: str) -> None:
    path = folder / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"odd\.yaml"):
        load_config(path)
    with pytest.raises(UserError, match="pretrain"):
        load_config(folder / "nowhere.yaml")


@pytest.mark.parametrize("change", ["x", "=1", "a..b=1", "steps.x=1", "data.sources.7.path=x"])
def test_a_setting_that_is_none_is_refused(folder: Path, change: str) -> None:
    with pytest.raises(UserError):
        load_config(written(folder, "set.yaml"), [change])


def test_paths_start_from_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(written(folder, "paths.yaml"), ["optimizer.lr=5e-3", "steps=3"])
    assert config.model.decoder == folder / "base" and config.data.sources[0].path[0].exists()
    assert config.optimizer.lr == 5e-3 and config.steps == 3
    # One that is typed starts from where it is typed.
    (tmp_path / "other.jsonl").touch()
    typed = load_config(folder / "paths.yaml", ["data.sources.0.path=other.jsonl"])
    assert typed.data.sources[0].path == (tmp_path / "other.jsonl",)


# ---------------------------------------------------------------- a stage on files


def test_a_stage_on_files_goes_on_to_the_same_curve(folder: Path) -> None:
    path = written(folder, "run.yaml", steps=10)
    whole = train(load_config(path), folder / "whole", live=False)
    assert whole.data is not None and whole.data["sources"][0]["bad"] == 0
    first = load_config(path)
    batches = Stopping(first)
    with pytest.raises(Crash):
        train(first, folder / "crashed", live=False, batches=batches)
    outcome = train(first, folder / "crashed", resume=True, live=False)
    assert outcome.step == 10
    curves = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in read_metrics(r / "metrics.csv")
        ]
        for r in (folder / "whole", folder / "crashed")
    ]
    assert curves[0] == curves[1]


class Crash(Exception):
    """Something that nobody foresaw."""


class Stopping(StageBatches):
    """Gives out after seven batches."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, build_parts(config))

    def __iter__(self) -> Any:
        for _, batch in zip(range(7), super().__iter__(), strict=False):
            yield batch
        raise Crash


def test_a_stage_lasts_as_long_as_its_data(folder: Path) -> None:
    config = load_config(written(folder, "epoch.yaml"), ["steps=null", "data.epochs=2"])
    outcome = train(config, folder / "epochs", live=False)
    assert outcome.samples == 120
    rows = read_metrics(folder / "epochs" / "metrics.csv")
    assert rows[-1]["samples"] == 120 and rows[-1]["lr"] < 1e-3


# ---------------------------------------------------------------- estimates and curves


def test_an_estimate_counts_and_measures(folder: Path) -> None:
    config = load_config(written(folder, "estimate.yaml"), ["steps=null", "data.epochs=2"])
    found = estimate(config)
    parts = build_parts(config)
    assert sum(found.trainable.values()) == sum(p.numel() for p in parts.trainables.values())
    assert set(found.trainable) == {"bind", "queries", "gates"}
    assert found.memory["optimizer"] == 2 * found.memory["gradients"]
    assert found.samples == 60 and found.how == "measured on two steps"
    batches = StageBatches(config, parts)
    exact = sum(int((b.segments >= 0).sum()) for b in batches) // 2
    assert found.tokens == pytest.approx(exact, rel=0.1)
    assert found.steps is not None and found.seconds == found.steps * found.step_seconds
    made = train(config, folder / "estimated", live=False)
    assert found.steps == pytest.approx(made.step, rel=0.35)


def test_an_estimate_without_files(folder: Path) -> None:
    config = load_config(written(folder, "no-data.yaml"), ["data.sources.0.path=none.jsonl"])
    found = estimate(config)
    assert found.tokens is None and "made-up" in found.how
    assert any("none.jsonl" in note for note in found.notes)
    with pytest.raises(UserError, match="no decoder"):
        estimate(load_config(folder / "no-data.yaml", ["model.decoder=gone"]))


def test_curves_are_drawn(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "curves.png"
    runs = []
    for name in ("one", "two"):
        runs.append(folder / f"curve-{name}")
        train(load_config(written(folder, f"{name}.yaml", steps=3)), runs[-1], live=False)
    draw(runs, out)
    with Image.open(out) as picture:
        assert picture.size[0] > 800
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 100
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no steps"):
        draw([tmp_path / "empty"], out)
