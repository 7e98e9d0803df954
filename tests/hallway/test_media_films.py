"""Films: probed when opened, decoded piece by piece, silent or not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anybind.content import Audio, Footage, Video, Waveform
from anybind.errors import UserError
from anybind.media import Caps, decode_video, encode_video, open_file
from tests.films import STEP, film, turned

FORMS: dict[str, dict[str, Any]] = {
    "film.mp4": {"form": "mp4", "codec": "libx264", "sound": "aac"},
    "film.mov": {"form": "mov", "codec": "mpeg4"},
    "film.webm": {"form": "webm", "codec": "libvpx-vp9"},
    "film.mkv": {"form": "matroska", "codec": "ffv1", "pixels": "bgr0", "sound": "flac"},
    "film.avi": {"form": "avi", "codec": "mpeg4", "sound": "pcm_s16le"},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, options in FORMS.items():
        (folder / name).write_bytes(film(**options))
    (folder / "silent.mp4").write_bytes(film())
    return folder


def numbers(frames: Any) -> list[int]:
    """Which frames these are, by their grey."""
    return [round(float(f.mean()) / STEP) for f in frames]


@pytest.mark.parametrize("name", FORMS)
def test_films_open_and_say_what_they_are(films: Path, name: str) -> None:
    part = open_file(films / name)
    assert isinstance(part, Video) and part.media_type.startswith("video/")
    data = part.data
    assert (data.width, data.height) == (64, 48)
    assert data.duration == pytest.approx(4.0, abs=0.05)
    assert data.rate == pytest.approx(25, abs=0.1)
    assert "Footage" in repr(part.lazy)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.19), (1.49, 1.69), (3.49, 9.0), (2.0, 2.0)])
def test_a_piece_holds_the_frames_of_its_time(
    films: Path, name: str, start: float, end: float
) -> None:
    frames = open_file(films / name).data.between(start, end)
    assert frames.dtype == np.uint8 and frames.shape[1:] == (48, 64, 3)
    expected = [n for n in range(100) if start <= n / 25 < end]
    got = numbers(frames)
    assert len(got) == len(expected)
    assert all(abs(a - b) <= 1 for a, b in zip(got, expected, strict=True))


def test_a_lossless_film_gives_its_frames_exactly(films: Path) -> None:
    data = open_file(films / "film.mkv").data
    frames = data.frames
    assert frames.shape == (100, 48, 64, 3)
    assert (frames == (np.arange(100) * STEP)[:, None, None, None]).all()
    times = [time for time, _ in data]
    np.testing.assert_allclose(times, np.arange(100) / 25, atol=1e-3)


def test_seeking_decodes_no_more_than_it_must(films: Path, monkeypatch: Any) -> None:
    """The last frames of a film are reached from the key frame before them."""
    data = open_file(films / "film.mp4").data
    decoded: list[float] = []
    source: Any = data.source
    time = source._time

    def count(frame: Any, stream: Any) -> Any:
        decoded.append(float(frame.pts))
        return time(frame, stream)

    monkeypatch.setattr(source, "_time", count)
    assert len(data.between(3.8, 4.0)) == 5
    assert len(set(decoded)) < 25


def test_frames_are_picked_evenly(films: Path) -> None:
    data = open_file(films / "film.mkv").data
    assert numbers(data.pick(1.0, 3.0, 2)) == [25, 74]
    assert numbers(data.pick(0.0, 4.0, 4)) == [0, 33, 66, 99]
    assert numbers(data.pick(0.0, 0.05, 3)) == [0, 0, 1]
    assert numbers(data.pick(0.0, 4.0, 1)) == [0]
    assert data.pick(8.0, 9.0, 2).shape == (0, 48, 64, 3)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi"])
def test_the_sound_of_a_film(films: Path, name: str) -> None:
    sound = open_file(films / name).data.audio
    assert isinstance(sound, Waveform) and sound.rate == 16_000
    assert sound.samples.shape[0] == 1 and sound.samples.dtype == np.float32
    assert sound.seconds == pytest.approx(4.0, abs=0.15)
    spectrum = np.abs(np.fft.rfft(sound.samples[0, 4000:20_000]))
    assert int(spectrum.argmax()) == 440
    alone = open_file(f"audio:{films / name}")
    assert isinstance(alone, Audio)
    np.testing.assert_array_equal(alone.data.samples, sound.samples)


def test_stereo_stays_stereo() -> None:
    data = film("matroska", "ffv1", pixels="bgr0", sound="flac", channels=2, frames=25)
    sound = decode_video(data, "x", "video/x-matroska").audio
    assert sound is not None and sound.samples.shape == (2, 16_000)


def test_a_silent_film_has_no_sound_and_says_so_where_it_is_asked_for(films: Path) -> None:
    assert open_file(films / "silent.mp4").data.audio is None
    with pytest.raises(UserError, match=r"silent\.mp4 is a silent film"):
        open_file(films / "silent.mp4", kind="audio")


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_film_is_shown_upright(degrees: int) -> None:
    data = film(frames=3)
    flat = decode_video(data, "x", "video/mp4")
    shown = decode_video(turned(data, degrees), "x", "video/mp4")
    size = (48, 64) if degrees != 180 else (64, 48)
    assert (shown.width, shown.height) == size
    assert shown.frames.shape == (3, size[1], size[0], 3)
    assert flat.frames.shape == (3, 48, 64, 3)


def test_the_turn_goes_the_way_that_the_header_says() -> None:
    """A white top edge: turned by a quarter to the right it is the right edge."""
    import io

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        pictures: Any = container.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:12] = 255
        for _ in range(3):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(pictures.encode())
    # 90 in the matrix is what a phone held upright writes: a quarter turn clockwise when shown.
    frame = decode_video(turned(stream.getvalue(), 90), "x", "video/mp4").frames[0]
    assert frame[:, -6:].mean() > 240 and frame[:, :32].mean() < 16


# ---------------------------------------------------------------- what does not open


def test_caps_of_films(films: Path) -> None:
    for caps, said in (
        (Caps(video_seconds=3.0), "lasts 4 s"),
        (Caps(video_pixels=1000), "pixels"),
        (Caps(file_bytes=100), "limit"),
    ):
        with pytest.raises(UserError, match=said):
            open_file(films / "film.mp4", caps=caps)
    sound = open_file(films / "film.mkv", caps=Caps(audio_seconds=1.0)).data
    with pytest.raises(UserError, match="longer than 1 s"):
        _ = sound.audio


def test_more_frames_than_memory_should_hold(films: Path, monkeypatch: Any) -> None:
    from anybind import content

    data = open_file(films / "film.mkv").data
    monkeypatch.setattr(content, "MAX_FRAME_BYTES", 20 * 48 * 64 * 3)
    assert len(data.between(0.0, 0.5)) == 13
    with pytest.raises(UserError, match="shorter piece"):
        _ = data.frames


def test_damage_is_a_user_error(films: Path, tmp_path: Path) -> None:
    whole = (films / "film.mkv").read_bytes()
    for name, data in {
        "head.mp4": (films / "film.mp4").read_bytes()[:300],
        "tail.mp4": (films / "film.mp4").read_bytes()[:-3000],
        "head.mkv": whole[:400],
        "sound.mkv": _sound_only(),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            open_file(tmp_path / name)


def _sound_only() -> bytes:
    import io

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        track: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(track.encode(frame))
        container.mux(track.encode())
    return stream.getvalue()


def test_a_picture_is_no_film(examples: Path) -> None:
    with pytest.raises(UserError, match="not a film"):
        open_file(examples / "cat.png", kind="video")


# ---------------------------------------------------------------- films in memory


@pytest.mark.parametrize("channels", [0, 1, 2, 6])
def test_a_film_in_memory_is_written_without_loss(channels: int) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 34, 50, 3), np.uint8)
    sound = Waveform(rng.uniform(-1, 1, (channels, 4000)).astype(np.float32), 8000)
    data, media_type = encode_video(Footage.of_frames(frames, 24.0, sound if channels else None))
    again = decode_video(data, "x", media_type)
    np.testing.assert_array_equal(again.frames, frames)
    assert again.rate == pytest.approx(24.0) and again.duration == pytest.approx(0.5, abs=0.01)
    if channels:
        kept = again.audio
        assert kept is not None and kept.rate == 8000
        np.testing.assert_array_equal(kept.samples, sound.samples)
    else:
        assert again.audio is None


def test_a_film_from_a_file_stays_that_file(films: Path) -> None:
    data, media_type = encode_video(open_file(films / "film.mp4").data)
    assert data == (films / "film.mp4").read_bytes() and media_type == "video/mp4"


def test_a_film_without_frames_is_refused() -> None:
    with pytest.raises(UserError, match="without frames"):
        encode_video(Footage.of_frames(np.zeros((0, 8, 8, 3), np.uint8), 10.0))


def test_a_film_that_was_streamed_has_no_index(films: Path) -> None:
    """No duration and no table of key frames: both are found by going through the film."""
    import io

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska", options={"live": "1"}) as container:
        pictures: Any = container.add_stream("ffv1", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "bgr0"
        for number in range(100):
            grey = np.full((48, 64, 3), number * STEP, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(pictures.encode())
    data = decode_video(stream.getvalue(), "x", "video/x-matroska")
    assert data.duration == pytest.approx(4.0, abs=0.05)
    assert numbers(data.between(1.99, 2.17)) == [50, 51, 52, 53, 54]


def test_a_film_that_breaks_off_gives_what_there_is(films: Path) -> None:
    whole = (films / "film.mkv").read_bytes()
    data = decode_video(whole[: len(whole) // 2], "half.mkv", "video/x-matroska")
    assert numbers(data.between(0.0, 0.1)) == [0, 1, 2]
    assert 10 < len(data.frames) < 90
    assert data.duration == pytest.approx(len(data.frames) / 25, abs=0.06)


def test_a_film_that_does_not_begin_at_zero() -> None:
    """Times count from the first frame, whatever the clock of the recorder said."""
    import io

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        pictures: Any = container.add_stream("ffv1", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "bgr0"
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * STEP, np.uint8))
            frame.pts, frame.time_base = number + 250, Fraction(1, 25)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
    data = decode_video(stream.getvalue(), "x", "video/x-matroska")
    assert data.duration == pytest.approx(2.0, abs=0.05)
    assert numbers(data.between(1.0, 1.1)) == [25, 26, 27]
    assert numbers(data.pick(0.0, data.duration, 2)) == [0, 49]


def test_sound_that_outlasts_the_pictures_makes_no_film_longer() -> None:
    frames = np.zeros((25, 32, 32, 3), np.uint8)
    sound = Waveform(np.zeros((1, 8000 * 5), np.float32), 8000)
    data, media_type = encode_video(Footage.of_frames(frames, 25.0, sound))
    again = decode_video(data, "x", media_type)
    assert again.duration == pytest.approx(1.0, abs=0.05)
    assert again.audio is not None and again.audio.seconds == pytest.approx(5.0)
