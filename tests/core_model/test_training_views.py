"""Augmented views of pictures, embedded once: the file, the command, and whose turn it is."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from anybind.agent.cli.app import app
from anybind.core_model.training.data import open_sources
from anybind.core_model.training.data.augment import AugmentConfig
from anybind.core_model.training.data.embedding import embed_sources
from anybind.core_model.training.data.features import FeatureFile, view_key
from anybind.errors import UserError
from tests.core_model.training_files import DIM, Colours
from tests.core_model.training_pictures import AUGMENT, by_key, config, data, maker

HOME = os.environ.get("ANYBIND_HOME")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))


# ---------------------------------------------------------------- views made before


def test_views_are_taken_in_turn(tmp_path: Path) -> None:
    source = data(tmp_path)
    plain = embed_sources(config(tmp_path, source), maker(), tmp_path / "plain.safetensors")
    made = embed_sources(
        config(tmp_path, source), maker(), tmp_path / "f.safetensors", views=3, augment=AUGMENT
    )
    assert (plain.rows, made.rows, made.views, made.bad) == (20, 80, 3, 0)
    file, without = FeatureFile(made.path), FeatureFile(plain.path)
    assert (file.views, file.kind, file.cache, without.views) == (3, "image", "", 0)
    assert file.augment == AUGMENT.model_dump(mode="json")
    for i in range(20):
        row, known = file.find(f"{i}.png"), without.find(f"{i}.png")
        assert row is not None and known is not None and np.array_equal(row, known)
    source["features"] = "f.safetensors"
    seen = [
        (s.key, s.feature.tobytes())
        for s in open_sources(config(tmp_path, source, epochs=6), augment=AUGMENT)
        if s.feature is not None
    ]
    wanted: Counter[tuple[str, bytes]] = Counter()
    for i in range(20):
        for view in range(3):
            row = file.find(view_key(f"{i}.png", view))
            assert row is not None
            wanted[f"d.tsv, line {i + 2}", row.tobytes()] += 2
    assert Counter(seen) == wanted and len(wanted) == 60  # each view once in three epochs
    again = open_sources(config(tmp_path, source, epochs=6), augment=AUGMENT)
    assert by_key(again) == seen
    # Where nothing is augmented, a file with views is one without.
    off = by_key(open_sources(config(tmp_path, source)))
    source["features"] = "plain.safetensors"
    assert by_key(open_sources(config(tmp_path, source))) == off
    with pytest.raises(UserError, match=r"images\.augment: plain\.safetensors holds \d+\.png as"):
        list(open_sources(config(tmp_path, source), augment=AUGMENT))
    source["features"] = "f.safetensors"
    with pytest.raises(UserError, match="the views in f.safetensors were made with"):
        open_sources(config(tmp_path, source), augment=AugmentConfig())


class Dying(Colours):
    """Encodes so many and is stopped."""

    left = 40

    def encode(self, parts: Any) -> Any:
        self.left -= len(parts)
        if self.left < 0:
            raise KeyboardInterrupt
        return super().encode(parts)


def test_interrupted_views_go_on(tmp_path: Path) -> None:
    source = config(tmp_path, data(tmp_path))
    whole = embed_sources(source, maker(), tmp_path / "w.safetensors", views=2, augment=AUGMENT)
    out = tmp_path / "f.safetensors"
    with pytest.raises(KeyboardInterrupt):
        embed_sources(source, maker(Dying()), out, views=2, augment=AUGMENT)
    with pytest.raises(UserError, match="unfinished work"):
        embed_sources(source, maker(), out)
    with pytest.raises(UserError, match="unfinished work"):
        embed_sources(source, maker(), out, views=2, augment=AugmentConfig())
    made = embed_sources(source, maker(), out, views=2, augment=AUGMENT)
    assert (made.resumed, made.rows) == (32, 60)
    assert whole.path.read_bytes() == out.read_bytes()


def test_a_bad_picture_counts_once_and_a_sound_has_no_views(tmp_path: Path) -> None:
    data(tmp_path, 2)
    (tmp_path / "p/1.png").write_bytes(b"no picture")
    (tmp_path / "p/noise").write_bytes(
        (Path(__file__).parents[2] / "examples/bell.wav").read_bytes()
    )

    class Both(Colours):
        def encode(self, parts: Any) -> Any:
            if parts[0].kind == "audio":
                rows = np.eye(DIM, dtype=np.float32)[: len(parts)]
                return type("Made", (), {"unit": rows})
            return super().encode(parts)

    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [
        json.dumps({"messages": said, "attachments": [n]}) for n in ("0.png", "1.png", "noise")
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    source = {"format": "jsonl", "path": "d.jsonl", "images": "p"}
    told: list[str] = []
    made = embed_sources(
        config(tmp_path, source), maker(Both()), tmp_path / "f.safetensors", views=2,
        augment=AUGMENT, report=told.append,
    )  # fmt: skip
    assert (made.rows, made.bad, len(told)) == (4, 1, 1) and "\0" not in told[0]
    assert {FeatureFile(made.path).key(i) for i in range(4)} == {
        "0.png", view_key("0.png", 0), view_key("0.png", 1), "noise",
    }  # fmt: skip


# ---------------------------------------------------------------- the command


def test_the_command(nano: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`anybind embed --dataset --views` with the real encoder of nano and a stage's settings."""
    if HOME is None:  # where nano's weights lie
        monkeypatch.delenv("ANYBIND_HOME")
    else:
        monkeypatch.setenv("ANYBIND_HOME", HOME)
    source = data(tmp_path, 2)
    tree = {
        "stage": "s",
        "images": {"augment": {"crop": [0.2, 0.4]}},
        "data": {"sources": [source]},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "f.safetensors"
    words = ["embed", "--dataset", str(tmp_path / "s.yaml"), "--out", str(out), "--views"]
    ran = CliRunner().invoke(app, [*words, "2", "--json"])
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert (said["rows"], said["views"], said["bad"]) == (6, 2, 0)
    file = FeatureFile(out)
    assert file.augment["crop"] == [0.2, 0.4] and file.cache == ""
    rows = [file.find(k) for k in ("0.png", view_key("0.png", 0), view_key("0.png", 1))]
    near = np.stack([r for r in rows if r is not None]) @ np.stack([r for r in rows if r is not None]).T  # fmt: skip
    assert near.shape == (3, 3) and (near[~np.eye(3, dtype=bool)] < 0.9999).all()
    assert isinstance(CliRunner().invoke(app, [*words, "-1"]).exception, UserError)
    assert CliRunner().invoke(app, ["embed", "a cat", "--views", "2"]).exit_code == 2
