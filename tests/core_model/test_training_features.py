"""Features made once by a frozen encoder: the file, the command, and training from them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as pil
from typer.testing import CliRunner

from anybind.core_model.training.data import FeatureMaker, open_sources
from anybind.core_model.training.data.config import read_data_config
from anybind.core_model.training.data.embedding import dataset_config, embed_sources
from anybind.core_model.training.data.features import FeatureFile, write_features
from anybind.core_model.training.data.mixer import Finish
from anybind.core_model.training.data.records import Attachment, BadRecord
from anybind.errors import AnybindError, ModelError, UserError

DIM = 12
HOME = os.environ.get("ANYBIND_HOME")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))


class Noise:
    """An encoder: an embedding by the first pixel; refuses black pictures, all white ones are zero."""

    def __init__(self, die_after: int = 10**9) -> None:
        self.seen: list[int] = []
        self.die_after = die_after

    def encode(self, parts: Any) -> Any:
        if sum(self.seen) + len(parts) > self.die_after:
            raise KeyboardInterrupt
        colours = [int(np.asarray(p.data)[0, 0, 0]) for p in parts]
        if 0 in colours:
            raise UserError("it is black")
        self.seen.append(len(parts))
        rows = np.stack([np.random.default_rng(c).normal(size=DIM) for c in colours])
        rows[np.array(colours) == 255] = 0
        norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        return type("Made", (), {"unit": (rows / norms).astype(np.float32)})


def maker(encoder: Noise | None = None, batch: int = 4) -> FeatureMaker:
    one = encoder or Noise()
    return FeatureMaker(lambda kind: one, "noise", DIM, batch)  # pyright: ignore


def data(base: Path, colours: list[int]) -> Path:
    (base / "pictures").mkdir(exist_ok=True)
    lines = ["url\tcaption"]
    for i, colour in enumerate(colours):
        pil.new("RGB", (40, 40), (colour, 0, 0)).save(base / f"pictures/{i}.png")
        lines.append(f"{i}.png\tcolour {colour}")
    (base / "d.tsv").write_text("\n".join(lines))
    return base / "d.tsv"


# ---------------------------------------------------------------- the file


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=40, unique=True).filter(any))
def test_every_key_finds_its_row(tmp_path: Path, keys: list[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(len(keys), DIM)).astype("<f2")
    (tmp_path / "rows").write_bytes(rows.tobytes())
    write_features(tmp_path / "f.safetensors", tmp_path / "rows", DIM, keys, "s", {})
    found = FeatureFile(tmp_path / "f.safetensors")
    assert (len(found), found.dim, found.space) == (len(keys), DIM, "s")
    for i, key in enumerate(keys):
        row = found.find(key)
        assert row is not None and found.key(i) == key
        wanted = rows[i].astype(np.float32)
        assert np.allclose(row, wanted / np.linalg.norm(wanted), atol=1e-6)
    assert found.find("\x00 not there") is None


def test_keys_with_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anybind.core_model.training.data import features

    monkeypatch.setattr(features, "_hash", lambda key: 7)
    rows = np.eye(DIM, dtype="<f2")[:3]
    (tmp_path / "rows").write_bytes(rows.tobytes())
    write_features(tmp_path / "f.safetensors", tmp_path / "rows", DIM, ["a", "b", "c"], "s", {})
    found = FeatureFile(tmp_path / "f.safetensors")
    assert [int(found.find(k).argmax()) for k in "abc"] == [0, 1, 2]  # pyright: ignore
    assert found.find("d") is None


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    rows = np.random.default_rng(0).normal(size=(3, DIM)).astype("<f2")
    (tmp_path / "rows").write_bytes(rows.tobytes())
    write_features(tmp_path / "f.safetensors", tmp_path / "rows", DIM, ["ä", "b", "c"], "s", {})
    found = load_file(tmp_path / "f.safetensors")
    assert np.array_equal(found["features"], rows)
    assert found["keys"].tobytes().decode() == "äbc" and found["ends"].tolist() == [2, 3, 4]


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_file_is_one_of_our_errors(tmp_path: Path, data: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(5, DIM)).astype("<f2")
    (tmp_path / "rows").write_bytes(rows.tobytes())
    path = tmp_path / "f.safetensors"
    keys = [f"key {i}" for i in range(5)]
    write_features(path, tmp_path / "rows", DIM, keys, "s", {})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))]))
    try:
        found = FeatureFile(path)
        for key in keys:
            row = found.find(key)
            assert row is None or (row.shape == (found.dim,) and np.isfinite(row).all())
    except AnybindError:
        pass


def test_what_is_no_such_file(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(UserError, match="anybind embed --dataset"):
        FeatureFile(tmp_path / "none.safetensors")
    save_file({"embeddings": np.eye(2, dtype=np.float32)}, tmp_path / "e.safetensors")
    with pytest.raises(ModelError, match="no file of features"):
        FeatureFile(tmp_path / "e.safetensors")


# ---------------------------------------------------------------- making them


def test_batches_are_full_and_bad_ones_stay_alone(tmp_path: Path) -> None:
    data(tmp_path, [10, 0, 20, 30, 255, 40, 50])
    encoder = Noise()
    wanted = [Attachment(f"{i}.png", str(tmp_path / f"pictures/{i}.png")) for i in range(7)]
    wanted.insert(2, Attachment("gone.png", str(tmp_path / "gone.png")))
    made = maker(encoder).make(wanted)
    why = [str(m) if isinstance(m, BadRecord) else "" for m in made]
    assert why[1] == "1.png: it is black" and "There is no file" in why[2]
    assert why[5].startswith("4.png: its embedding is no embedding")
    assert [bool(w) for w in why] == [False, True, True, False, False, True, False, False]
    assert encoder.seen == [1, 1, 1, 3]  # the first batch, refused, one by one
    assert np.isclose(np.linalg.norm(made[0]), 1)  # pyright: ignore


def test_an_encoder_that_does_not_keep_its_word(tmp_path: Path) -> None:
    data(tmp_path, [10])
    wrong = FeatureMaker(lambda kind: Noise(), "noise", DIM + 1)  # pyright: ignore
    with pytest.raises(ModelError, match="gave"):
        wrong.make([Attachment("0.png", str(tmp_path / "pictures/0.png"))])


def test_training_from_features_is_training_from_pictures(tmp_path: Path) -> None:
    data(tmp_path, list(range(1, 60)))
    source = {"format": "tsv", "path": "d.tsv", "images": "pictures"}
    config = read_data_config({"sources": [source], "epochs": 2}, tmp_path)
    made = embed_sources(config, maker(), tmp_path / "f.safetensors")
    assert (made.rows, made.dim, made.bad, made.space) == (59, DIM, 0, "noise")
    assert not (tmp_path / "f.safetensors.building").exists()
    seen = list(open_sources(config, maker=maker()))
    source["features"] = "f.safetensors"
    fed = list(open_sources(read_data_config({"sources": [source], "epochs": 2}, tmp_path)))
    assert [s.messages for s in seen] == [s.messages for s in fed] and len(seen) == 118
    for one, other in zip(seen, fed, strict=True):
        assert one.feature is not None and other.feature is not None
        assert np.allclose(one.feature, other.feature, atol=1e-3)
    # Whatever stands before the model at run time is applied to both.
    turned = list(open_sources(config, maker=maker(), finish=Finish(lambda rows: -rows)))
    assert all(np.allclose(a.feature, -b.feature) for a, b in zip(turned, seen, strict=True))  # pyright: ignore
    with pytest.raises(UserError, match="the model takes 'other'"):
        open_sources(read_data_config({"sources": [source]}, tmp_path), space="other", dim=DIM)


def test_pictures_without_a_feature_are_bad_records(tmp_path: Path) -> None:
    data(tmp_path, [1, 2, 3])
    source = {"format": "tsv", "path": "d.tsv", "images": "pictures", "limit": 2}
    embed_sources(read_data_config({"sources": [source]}, tmp_path), maker(), tmp_path / "f.safetensors")  # fmt: skip
    del source["limit"]
    told: list[str] = []
    config = read_data_config(
        {"sources": [{**source, "features": "f.safetensors"}], "epochs": 1}, tmp_path
    )
    assert len(list(open_sources(config, report=told.append))) == 2
    assert told == ["d.tsv, line 4: f.safetensors has no 2.png (left out)"]


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    data(tmp_path, [*range(1, 40), 0, *range(40, 60)])
    source = {"format": "tsv", "path": "d.tsv", "images": "pictures"}
    config = read_data_config({"sources": [source]}, tmp_path)
    out = tmp_path / "f.safetensors"
    with pytest.raises(KeyboardInterrupt):
        embed_sources(config, maker(Noise(die_after=36)), out)
    assert not out.exists()
    # A torn line, and a row whose line was never written.
    with (tmp_path / "f.safetensors.building/keys.jsonl").open("a") as keys:
        keys.write('"torn')
    with (tmp_path / "f.safetensors.building/rows.f16").open("ab") as rows:
        rows.write(b"\x00" * 5)
    encoder = Noise()
    made = embed_sources(config, maker(encoder), out)
    assert made.rows == 59 and made.resumed == 32 and made.bad == 1 and sum(encoder.seen) == 27
    found = FeatureFile(out)
    fresh = embed_sources(config, maker(), tmp_path / "g.safetensors")
    again = FeatureFile(fresh.path)
    for i in (0, 31, 32, 58):
        assert found.key(i) == again.key(i) and np.array_equal(found.row(i), again.row(i))
    with pytest.raises(KeyboardInterrupt):
        embed_sources(config, maker(Noise(die_after=3)), out)
    with pytest.raises(UserError, match="another encoder"):
        embed_sources(config, FeatureMaker(lambda kind: Noise(), "other", DIM), out)  # pyright: ignore


def test_one_name_for_two_pictures(tmp_path: Path) -> None:
    data(tmp_path, [1, 2])
    (tmp_path / "b").mkdir()
    data(tmp_path / "b", [3, 4])
    sources = [
        {"format": "tsv", "path": "d.tsv", "images": "pictures"},
        {"format": "tsv", "path": "b/d.tsv", "images": "b/pictures", "name": "b"},
    ]
    config = read_data_config({"sources": sources}, tmp_path)
    with pytest.raises(UserError, match=r"two files go by the name '0\.png'"):
        embed_sources(config, maker(), tmp_path / "f.safetensors")


def test_a_dataset_is_a_config_or_a_file(tmp_path: Path) -> None:
    data(tmp_path, [1])
    (tmp_path / "c.yaml").write_text(
        "stage: 1\ndata:\n  sources:\n  - {format: tsv, path: d.tsv}\n"
    )
    assert dataset_config(tmp_path / "c.yaml").sources[0].path == (tmp_path / "d.tsv",)
    (tmp_path / "l.json").write_text('[{"image": "a", "conversations": []}]')
    (tmp_path / "m.json").write_text('{"annotations": [{"image_id": "a"}]}')
    told = {
        n: dataset_config(tmp_path / n).sources[0].format for n in ("d.tsv", "l.json", "m.json")
    }
    assert told == {"d.tsv": "tsv", "l.json": "llava", "m.json": "minigpt4"}
    (tmp_path / "x.json").write_text('[{"instruction": "a"}]')
    (tmp_path / "y.yaml").write_text("a: [")
    for name in ("x.json", "y.yaml", "z.yaml", "z.bin"):
        with pytest.raises(UserError):
            dataset_config(tmp_path / name)


def test_the_command(tmp_path: Path, nano: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`anybind embed --dataset` with the real encoder of nano."""
    from anybind.agent.cli.app import app
    from anybind.core_model.retrieval.embedding import encoder_of

    if HOME is None:  # where nano's weights lie
        monkeypatch.delenv("ANYBIND_HOME")
    else:
        monkeypatch.setenv("ANYBIND_HOME", HOME)
    data(tmp_path, [10, 200])
    with (tmp_path / "d.tsv").open("a") as lines:
        lines.write("\ngone.png\tx")
    out = tmp_path / "f.safetensors"
    run = CliRunner().invoke(
        app,
        ["embed", "--dataset", str(tmp_path / "d.tsv"), "--images", str(tmp_path / "pictures"),
         "--out", str(out), "--json"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert (said["rows"], said["dim"], said["bad"]) == (2, 384, 1)
    assert "line 4: gone.png" in said["examples"][0]
    from anybind.media import open_file

    wanted = encoder_of(nano, "image").encode([open_file(tmp_path / "pictures/1.png")]).unit[0]
    found = FeatureFile(out).find("1.png")
    assert found is not None and float(found @ wanted) > 0.9999
    for words in (["embed"], ["embed", "cat", "--dataset", "x"], ["embed", "--dataset", "x.tsv"]):
        failed = CliRunner().invoke(app, words)
        assert isinstance(failed.exception, UserError)
