"""`anybind embed`: the table, the file, the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pil
from safetensors import safe_open

from anybind.agent.cli import embedding
from anybind.errors import UserError


def test_the_file_the_table_and_the_picture(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    things = [str(examples / "cat.png"), str(examples / "dog.png"), "a cat", "a dog"]
    out, plot = tmp_path / "deep" / "e.safetensors", tmp_path / "deep" / "e.png"
    embedding.embed(things, "nano", out, plot, True)
    said = json.loads(capsys.readouterr().out)
    with safe_open(out, "np") as file:
        rows, raw = file.get_tensor("embeddings"), file.get_tensor("raw")
        assert json.loads(file.metadata()["labels"]) == things
        assert file.metadata()["space"] == said["space"] == "minilm-l6-v2"
    assert rows.shape == raw.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(said["similarity"], rows @ rows.T, atol=1e-4)
    assert said["similarity"][0][2] > said["similarity"][0][3]  # the cat is nearer to "a cat"
    with pil.open(plot) as picture:
        assert min(picture.size) > 200
        # The diagonal is drawn in the colour of 1, which covers more than the frame's ink.
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (np.abs(colours - np.array([103, 0, 31])).max(1) < 12).mean() > 0.02


def test_wrong_endings_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="safetensors"):
        embedding.embed(["a"], "no such bundle", tmp_path / "e.npy", None, False)
    with pytest.raises(UserError, match="png"):
        embedding.embed(["a"], "no such bundle", None, tmp_path / "e.bmp", False)
