"""Artifacts: names from content, inside the folder, gone when forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.agent.artifacts import NAME, ArtifactStore
from anybind.content import (
    IMU,
    AnyPart,
    Audio,
    Box,
    Boxes,
    Depth,
    File,
    Footage,
    Image,
    Motion,
    PointCloud,
    Text,
    Thermal,
    Video,
    Waveform,
)
from anybind.errors import ToolError, UserError
from anybind.media import open_file
from tests.fakes import picture
from tests.films import film

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


RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (5, 32, 48, 3), np.uint8)
ARRAYS: list[tuple[AnyPart, str, str]] = [
    (PointCloud.of(RNG.normal(size=(9, 3)).astype(np.float32)), "ply", "model/ply"),
    (Depth.of(RNG.uniform(0, 9, (6, 4)).astype(np.float32)), "npy", "application/x-npy"),
    (Thermal.of(RNG.integers(0, 256, (6, 4), np.uint8)), "png", "image/png"),
]


@pytest.mark.parametrize(("part", "ending", "media_type"), ARRAYS, ids=lambda p: str(p)[:9])
def test_arrays_are_kept_without_loss(
    tmp_path: Path, part: AnyPart, ending: str, media_type: str
) -> None:
    kept = ArtifactStore(tmp_path).add(part)
    assert kept.name.endswith(f".{ending}")
    other = ArtifactStore(tmp_path)
    other.restore(kept.name, kept.digest, "user", [])
    again = other.get(kept.name)
    assert type(again) is type(part) and again.media_type == media_type
    np.testing.assert_array_equal(again.data, part.data)
    assert again.data.dtype == part.data.dtype
    assert other.add(again).name == kept.name


@pytest.mark.parametrize("rate", [None, 100.0, 50.0 / 3.0, 0.5])
def test_readings_are_kept_with_their_rate(tmp_path: Path, rate: float | None) -> None:
    samples = RNG.normal(size=(40, 6)).astype(np.float32)
    kept = ArtifactStore(tmp_path).add(IMU.of(Motion(samples, rate)))
    other = ArtifactStore(tmp_path)
    other.restore(kept.name, kept.digest, "user", [])
    again = other.get(kept.name).data
    np.testing.assert_array_equal(again.samples, samples)
    assert again.rate == (None if rate is None else pytest.approx(rate, rel=1e-9))


def test_a_film_from_a_file_is_kept_as_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(film(frames=30))
    kept = ArtifactStore(tmp_path / "s").add(open_file(tmp_path / "a.mp4"))
    assert kept.name.endswith(".mp4") and kept.path is not None
    assert kept.path.read_bytes() == (tmp_path / "a.mp4").read_bytes()
    other = ArtifactStore(tmp_path / "s")
    other.restore(kept.name, kept.digest, "user", [])
    again = other.get(kept.name)
    assert isinstance(again, Video) and again.media_type == "video/mp4"
    np.testing.assert_array_equal(again.data.frames, kept.data.frames)


def test_a_film_made_in_memory_is_kept_without_loss(tmp_path: Path) -> None:
    sound = Waveform(RNG.uniform(-1, 1, (2, 1600)).astype(np.float32), 8000)
    kept = ArtifactStore(tmp_path).add(Video.of(Footage.of_frames(FRAMES, 25.0, sound)))
    assert kept.name.endswith(".mkv")
    other = ArtifactStore(tmp_path)
    other.restore(kept.name, kept.digest, "user", [])
    again = other.get(kept.name).data
    np.testing.assert_array_equal(again.frames, FRAMES)
    np.testing.assert_array_equal(again.audio.samples, sound.samples)
    assert other.add(other.get(kept.name)).name == kept.name


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
