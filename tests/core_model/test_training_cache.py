"""The retrieval cache in training: what is fed is what the bind network sees at run time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from anybind.agent.cli.app import app
from anybind.core_model.retrieval import RetrievalCache
from anybind.core_model.training.building import build_parts
from anybind.core_model.training.cache_config import CacheConfig
from anybind.core_model.training.caching import stage_cache
from anybind.core_model.training.config import TrainConfig, load_config
from anybind.core_model.training.data import FeatureMaker, open_sources
from anybind.core_model.training.data.config import read_data_config
from anybind.core_model.training.data.features import FeatureFile, cache_of, write_features
from anybind.core_model.training.data.mixer import Finish
from anybind.core_model.training.feeding import StageBatches
from anybind.core_model.training.progress import read_metrics
from anybind.core_model.training.trainer import train
from anybind.core_model.training.validation import held_out_batches
from anybind.errors import UserError
from tests.core_model.train_tiny import JOINT, settings, write_base

CACHE = {"path": "rows.safetensors", "top_k": 3, "weight": 0.8, "kinds": ["image"]}
NAMES = [f"{i}.{'wav' if i % 3 == 2 else 'png'}" for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder, a cache of 20 rows, and 60 conversations about pictures and sounds."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cache")
    write_base(folder / "base")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, JOINT)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    save_file({"embeddings": rows}, folder / "rows.safetensors", {"space": "tiny"})
    (folder / "raw").write_bytes(rng.normal(size=(60, JOINT)).astype("<f2").tobytes())
    write_features(
        folder / "f.safetensors", folder / "raw", JOINT, NAMES, "tiny", {"cache": "none"}
    )
    with (folder / "d.jsonl").open("w") as lines:
        for i, name in enumerate(NAMES):
            said = [{"role": "user", "content": "a" * (1 + i % 4)}, {"role": "assistant", "content": "bcdef"[i % 5] * 3}]  # fmt: skip
            attached = [name] if i % 10 else [name, {"path": NAMES[i + 2], "weight": 0.5}]
            lines.write(json.dumps({"messages": said, "attachments": attached}) + "\n")
    return folder


def stage(folder: Path, name: str, cache: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The YAML of a stage over it."""
    tree = settings(Path("base"), model__chat="chatml", **changes)
    tree["data"] = {
        "sources": [{"format": "jsonl", "path": "d.jsonl", "features": "f.safetensors"}]
    }
    tree["batch"] = {"max_tokens": 64, "tokens": 128}
    if cache is not None:
        tree["cache"] = cache
    (folder / name).write_text(yaml.safe_dump(tree))
    return folder / name


def fed(config: TrainConfig) -> list[np.ndarray]:
    """The embeddings of two epochs, sorted so that order doesn't matter."""
    data = config.model_copy(update={"data": config.data.model_copy(update={"epochs": 2})})
    rows = torch.cat([b.features[b.present] for b in StageBatches(data, build_parts(data))])
    return sorted(rows.numpy(), key=lambda row: tuple(row.round(4)))


def by_hand(folder: Path, pulled: Any) -> list[np.ndarray]:
    """What these should be: `pulled` makes the embedding of a record from rows, names, weights."""
    file = FeatureFile(folder / "f.safetensors")
    out = []
    for line in (folder / "d.jsonl").read_text().splitlines():
        named = [n if isinstance(n, dict) else {"path": n, "weight": 1.0} for n in json.loads(line)["attachments"]]  # fmt: skip
        rows = [file.find(n["path"]) for n in named]
        out += 2 * [pulled(rows, [n["path"] for n in named], [n["weight"] for n in named])]
    return sorted(out, key=lambda row: tuple(row.round(4)))


def mix(rows: Any, weights: list[float]) -> np.ndarray:
    if len(rows) == 1:
        return rows[0]
    return sum(w * r for w, r in zip(weights, rows, strict=True)) / (sum(weights) + 1e-6)


def curve(run: Path) -> list[dict[str, float]]:
    return [{k: repr(v) for k, v in r.items() if k != "seconds"} for r in read_metrics(run / "metrics.csv")]  # type: ignore[misc]  # fmt: skip


# ---------------------------------------------------------------- what is fed


@pytest.mark.parametrize("mode", ["released", "paper", "paper-normalised"])
def test_each_embedding_of_the_kinds_is_pulled_before_they_are_mixed(
    folder: Path, mode: Any
) -> None:
    config = load_config(stage(folder, "each.yaml", CACHE | {"mode": mode, "temperature": 7.0}))
    assert config.cache is not None and config.cache.path == folder / "rows.safetensors"
    cache = RetrievalCache.load(
        folder / "rows.safetensors", top_k=3, weight=0.8, temperature=7.0, mode=mode
    )

    def pulled(rows: Any, names: list[str], weights: list[float]) -> np.ndarray:
        seen = [cache.apply(r[None])[0] if n.endswith("png") else r for r, n in zip(rows, names, strict=True)]  # fmt: skip
        return mix(seen, weights)

    np.testing.assert_allclose(fed(config), by_hand(folder, pulled), atol=1e-5)
    plain = fed(load_config(stage(folder, "plain.yaml")))
    np.testing.assert_allclose(plain, by_hand(folder, lambda rows, _, w: mix(rows, w)), atol=1e-6)


def test_or_the_mixture_is(folder: Path) -> None:
    config = load_config(stage(folder, "mix.yaml", CACHE | {"apply": "mix"}))
    cache = RetrievalCache.load(folder / "rows.safetensors", top_k=3, weight=0.8)

    def pulled(rows: Any, names: list[str], weights: list[float]) -> np.ndarray:
        row = mix(rows, weights)
        return cache.apply(row[None])[0] if any(n.endswith("png") for n in names) else row

    np.testing.assert_allclose(fed(config), by_hand(folder, pulled), atol=1e-5)


def test_an_embedding_without_a_file_is_a_kind_of_its_own(folder: Path, tmp_path: Path) -> None:
    line = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    row = [1.0] + [0.0] * (JOINT - 1)
    (tmp_path / "d.jsonl").write_text(json.dumps(line | {"feature": row}) + "\n")
    source = {"format": "jsonl", "path": "d.jsonl"}
    data = read_data_config({"sources": [source], "epochs": 1}, tmp_path)
    for kinds, taken in ((["embedding"], 1), (["image", "text"], 0)):
        config = CacheConfig.model_validate(
            {"path": folder / "rows.safetensors", "kinds": kinds, "weight": 1.0}
        )
        mixer = open_sources(data, finish=stage_cache(config, None, "tiny", JOINT))
        (sample,) = list(mixer)
        assert (mixer.seen, mixer.pulled) == (1, taken)
        assert sample.feature is not None and bool(sample.feature[0] == 1.0) is not bool(taken)


def test_held_out_samples_pass_it_too(folder: Path) -> None:
    held = {"share": 0.2, "samples": 100}
    rows = []
    for cache in (None, CACHE):
        config = load_config(stage(folder, "held.yaml", cache, validation=held))
        batches = held_out_batches(config, build_parts(config))
        rows.append(torch.cat([b.features for b in batches]))
    moved = (rows[0] - rows[1]).norm(dim=1) > 1e-3
    assert 0 < int(moved.sum()) < len(moved) == 12  # the pictures, not the sounds


def test_training_sees_what_nano_sees(nano: Any, tmp_path: Path) -> None:
    """Encoder, cache and mixture of the bundle, in training and at run time."""
    from PIL import Image

    from anybind.core_model.model import ImageBindLLM

    paths = []
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (6, 6, 3)).astype(np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(noise).resize((90, 70)).save(paths[-1])
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    attached: list[list[Any]] = [["0.png"], ["1.png", {"path": "2.png", "weight": 0.5}]]
    lines = [json.dumps({"messages": said, "attachments": a}) + "\n" for a in attached]
    (tmp_path / "d.jsonl").write_text("".join(lines))
    source = {"format": "jsonl", "path": "d.jsonl", "shuffle": "none"}
    data = read_data_config({"sources": [source], "epochs": 1}, tmp_path)
    finish = stage_cache(CacheConfig(), "nano", nano.bundle.space, 384)
    maker = FeatureMaker.of_bundle("nano")
    samples = list(open_sources(data, maker=maker, finish=finish))
    model = ImageBindLLM.from_bundle(nano)
    for sample, some, weights in zip(samples, ([0], [1, 2]), ([1.0], [1.0, 0.5]), strict=True):
        wanted = model.condition([model.part(str(paths[i])) for i in some], weights).data
        assert sample.feature is not None
        np.testing.assert_allclose(sample.feature, wanted, atol=1e-5)
        plain = model.mix(model.embed_parts([model.part(str(paths[i])) for i in some]), weights)
        assert float(np.abs(plain.data - wanted).max()) > 1e-3
    assert "top_k 5" in finish.about and finish.kinds == {"image"}
    changed = stage_cache(CacheConfig(top_k=2, kinds=("audio",)), "nano", nano.bundle.space, 384)
    assert "top_k 2" in changed.about and changed.kinds == {"audio"}


# ---------------------------------------------------------------- a run with it


class Crash(Exception):
    """Something that nobody foresaw."""


class Stopping(StageBatches):
    """Gives out after seven batches."""

    def __iter__(self) -> Any:
        for _, batch in zip(range(7), super().__iter__(), strict=False):
            yield batch
        raise Crash


def test_a_run_goes_on_to_the_same_curve(folder: Path) -> None:
    path = stage(folder, "run.yaml", CACHE, steps=10)
    ran = CliRunner().invoke(app, ["train", str(path), "--out", str(folder / "whole"), "--json"])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)["data"]["cache"]
    assert 0 < told["pulled"] < told["embeddings"] and "top_k 3 of 20 rows" in told["about"]
    train(load_config(path), folder / "again", live=False)
    first = load_config(path)
    with pytest.raises(Crash):
        train(
            first, folder / "crashed", live=False, batches=Stopping(first, build_parts(first))
        )  # fmt: skip
    train(first, folder / "crashed", resume=True, live=False)
    assert curve(folder / "whole") == curve(folder / "again") == curve(folder / "crashed")
    train(load_config(stage(folder, "without.yaml", steps=10)), folder / "without", live=False)
    assert curve(folder / "without") != curve(folder / "whole")


def test_a_run_is_not_gone_on_with_under_another_cache(folder: Path) -> None:
    path = stage(folder, "begun.yaml", CACHE, steps=2)
    train(load_config(path), folder / "begun", live=False)
    with pytest.raises(UserError, match=r"cache\.top_k"):
        train(load_config(path, ["cache.top_k=4"]), folder / "begun", resume=True, live=False)
    # Nor if the rows behind the same settings are others.
    config = load_config(path)
    state = StageBatches(config, build_parts(config)).state()
    rows = load_file(folder / "rows.safetensors")["embeddings"][:10]
    save_file({"embeddings": rows}, folder / "fewer.safetensors", {"space": "tiny"})
    other = load_config(path, [f"cache.path={folder / 'fewer.safetensors'}"])
    with pytest.raises(UserError, match="another finish"):
        StageBatches(other, build_parts(other)).restore(state)


def test_a_dry_run_says_it(folder: Path) -> None:
    path = stage(folder, "dry.yaml", CACHE)
    ran = CliRunner().invoke(app, ["train", str(path), "--dry-run", "--json"])
    assert ran.exit_code == 0, ran.output
    (note,) = [n for n in json.loads(ran.stdout)["notes"] if "cache" in n]
    assert "rows.safetensors" in note and "weight 0.8" in note and "it took" in note
    unread = ["--set", "data.sources.0.path=none.jsonl"]
    ran = CliRunner().invoke(app, ["train", str(path), "--dry-run", "--json", *unread])
    assert any("was not opened" in n for n in json.loads(ran.stdout)["notes"])
    ran = CliRunner().invoke(app, ["train", str(stage(folder, "p.yaml")), "--dry-run", "--json"])
    assert not any("cache" in n for n in json.loads(ran.stdout)["notes"])


# ---------------------------------------------------------------- refused


def finish() -> Finish:
    return Finish(lambda rows: rows, about="test")


@pytest.mark.parametrize(
    ("notes", "through"),
    [
        ({"cache": "none"}, ""),
        ({}, ""),
        ({"cache": "released, top_k 5"}, "released, top_k 5"),
        # Files of nano's data from before it was said.
        ({"made_by": "anybind.core_model.training.nano_data"}, "nano's data"),
        ({"carries": "{}", "sources": "[]"}, "nano's data"),
        ({"carries": "{}", "cache": "none"}, ""),
    ],
)
def test_what_went_through_a_cache_does_not_go_again(
    folder: Path, tmp_path: Path, notes: dict[str, str], through: str
) -> None:
    assert (through in cache_of(notes)) is True and bool(cache_of(notes)) is bool(through)
    write_features(tmp_path / "f.safetensors", folder / "raw", JOINT, NAMES, "tiny", notes)
    source = {"format": "jsonl", "path": str(folder / "d.jsonl"), "features": "f.safetensors"}
    data = read_data_config({"sources": [source], "epochs": 1}, tmp_path)
    open_sources(data, space="tiny", dim=JOINT)
    if not through:
        assert len(list(open_sources(data, finish=finish()))) == 60
        return
    with pytest.raises(UserError, match=r"f\.safetensors have been through a retrieval cache") as e:
        open_sources(data, finish=finish())
    assert through in str(e.value) and "twice" in str(e.value)


def test_rows_with_texts_are_marked_too(tmp_path: Path) -> None:
    row = np.eye(JOINT, dtype=np.float32)[:1]
    for notes, refused in (({}, False), ({"cache": "released"}, True)):
        about = {"space": "tiny", "labels": '["b"]', **notes}
        save_file({"embeddings": row}, tmp_path / "e.safetensors", about)
        source = {"format": "features", "path": "e.safetensors"}
        data = read_data_config({"sources": [source], "epochs": 1}, tmp_path)
        if refused:
            with pytest.raises(UserError, match="through a retrieval cache"):
                open_sources(data, finish=finish())
        else:
            open_sources(data, finish=finish())


def test_the_command_marks_what_it_writes(nano: Any, tmp_path: Path) -> None:
    assert os.environ["ANYBIND_OFFLINE"] == "1"
    out = tmp_path / "e.safetensors"
    ran = CliRunner().invoke(app, ["embed", "a cat", "a dog", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    from anybind.core_model.retrieval.rows import metadata

    assert metadata(out)["cache"] == "none"


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ({}, "cache: give a path, or a model.bundle"),
        ({"path": "rows.safetensors", "top_k": 0}, "cache.top_k"),
        ({"path": "rows.safetensors", "weight": 1.5}, "cache.weight"),
        ({"path": "rows.safetensors", "temperature": -1}, "cache.temperature"),
        ({"path": "rows.safetensors", "kinds": ["pictures"]}, "cache.kinds.0"),
        ({"path": "rows.safetensors", "kinds": []}, "cache.kinds"),
        ({"path": "rows.safetensors", "topk": 3}, "cache.topk: no such key"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, cache: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(stage(folder, "wrong.yaml", cache))
    assert said in str(caught.value)


def test_a_cache_of_another_space_or_width_is_refused(folder: Path, tmp_path: Path) -> None:
    config = CacheConfig(path=folder / "rows.safetensors")
    with pytest.raises(UserError, match="the model takes 'other'"):
        stage_cache(config, None, "other", JOINT)
    with pytest.raises(UserError, match=f"with {JOINT + 1}"):
        stage_cache(config, None, "tiny", JOINT + 1)
