"""Artifacts: names from content, inside the folder, gone when forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.agent.artifacts import NAME, ArtifactStore
from anybind.content import AnyPart, Audio, Box, Boxes, File, Image, Text, Waveform
from anybind.errors import ToolError, UserError
from tests.fakes import picture

SOUND = Waveform(np.linspace(-1, 1, 100, dtype=np.float32)[None], 8000)
PARTS: list[AnyPart] = [
    Image.of(picture()),
    Audio.of(SOUND),
    Text.of("Grüße\nund mehr"),
    Boxes.of((Box("cat", (1.0, 2.0, 3.0, 4.5), 0.25),)),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda p: p.kind)
def test_a_part_is_kept_under_a_name_and_read_again(tmp_path: Path, part: AnyPart) -> None:
    store = ArtifactStore(tmp_path)
    kept = store.add(part)
    assert NAME.fullmatch(kept.name) and kept.name.startswith(part.kind + "/")
    assert store.get(kept.name) is kept and kept.path == store.path(kept.name)
    other = ArtifactStore(tmp_path)
    other.restore(kept.name, kept.digest, "tool:T", ["a"])
    again = other.get(kept.name)
    if isinstance(part, Audio):
        np.testing.assert_array_equal(again.data.samples, SOUND.samples)
        assert again.data.rate == 8000
    elif isinstance(part, Image):
        assert again.data.tobytes() == part.data.tobytes()
    else:
        assert again.data == part.data
    assert again.digest == kept.digest and again.provenance.made_by == "tool:T"


def test_the_name_follows_from_the_content(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    one, same, other = (store.add(Image.of(picture(i))) for i in (1, 1, 2))
    assert one.name == same.name != other.name
    assert store.names() == [one.name, other.name]
    assert ArtifactStore(tmp_path / "b").add(Image.of(picture(1))).name == one.name
    # The same bytes as another kind are another artifact.
    text = store.add(Text.of("x"))
    assert text.name.partition("/")[2][:8] != one.name.partition("/")[2][:8]
    assert store.names("image") == [one.name, other.name]


@pytest.mark.parametrize(
    "name",
    [
        "../image/1a2b3c4d.png", "image/../../1a2b3c4d.png", "/etc/passwd", "image/..",
        "image/1a2b3c4d.png\n", "image/1a2b3c4d.png/..", "image//1a2b3c4d.png", "", ".",
        "image/1A2B3C4D.png", "image/1a2b3c4d", "image\\1a2b3c4d.png", "image/1a2b3c4d.png\0",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    store = ArtifactStore(tmp_path / "s")
    store.add(Image.of(picture()))
    with pytest.raises(UserError):
        store.path(name)
    with pytest.raises(ToolError):
        store.get(name)
    with pytest.raises(UserError):
        store.restore(name, "", "", [])


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "image").symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match="leads out"):
        ArtifactStore(tmp_path / "s").add(Image.of(picture()))
    assert not list((tmp_path / "out").iterdir())


@given(st.text(max_size=30))
def test_whatever_is_asked_for_there_is_a_tool_error(name: str) -> None:
    store = ArtifactStore(Path("/nonexistent"))
    with pytest.raises(ToolError, match="there are: none"):
        store.get(name)


def test_get_lists_what_there_is(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    kept = store.add(Image.of(picture()))
    with pytest.raises(ToolError, match=kept.name):
        store.get("image/00000000.png")
    assert store.get(f" {kept.name} ") is kept


def test_forgotten_artifacts_are_gone(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    one, two = store.add(Image.of(picture(1))), store.add(Image.of(picture(2)))
    store.forget([one.name, "image/00000000.png"])
    assert store.names() == [two.name]
    assert one.path is not None and not one.path.exists()
    assert two.path is not None and two.path.exists()
    assert store.add(Image.of(picture(1))).name == one.name


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def fall(*_: object) -> None:
        raise OSError("no space left")

    store = ArtifactStore(tmp_path)
    monkeypatch.setattr(os, "replace", fall)
    with pytest.raises(OSError):
        store.add(Image.of(picture()))
    assert store.names() == [] and not list(tmp_path.rglob("*.png"))


def test_what_can_not_be_kept_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="file"):
        ArtifactStore(tmp_path).add(File.of(b"x"))


def test_a_missing_file_is_not_taken_back(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    store.restore("image/1a2b3c4d.png", "d", "user", [])
    assert store.names() == []
