"""Preprocessing against what the public reference code computes, and what it refuses."""

from __future__ import annotations

import gzip
import json
import os
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image as pil

from anybind.content import Footage, Motion, Waveform
from anybind.core_model.preprocess.audio import audio_clips, fbank, resampled
from anybind.core_model.preprocess.clips import clip_times
from anybind.core_model.preprocess.depth import depth_tensor
from anybind.core_model.preprocess.image import MEAN, STD, cropped, image_tensor
from anybind.core_model.preprocess.imu import imu_tensor
from anybind.core_model.preprocess.points import (
    farthest_points,
    normalise,
    point_tensor,
    sample_points,
)
from anybind.core_model.preprocess.text import ClipTokenizer
from anybind.core_model.preprocess.thermal import thermal_tensor
from anybind.core_model.preprocess.video import clip_crops, scaled_sides, subsample, video_clips
from anybind.errors import ModelError, UserError

torch.set_num_threads(1)

DATA = Path(__file__).parent.parent / "data"
FOLDER = Path(os.environ.get("ANYBIND_PARITY_DIR") or DATA / "parity")
VOCABULARY = DATA / "bpe_simple_vocab_16e6.txt.gz"


@cache
def arrays() -> Any:
    return np.load(FOLDER / "preprocess_io.npz")


def pictures() -> list[Path]:
    return sorted(FOLDER.glob("image_*.png"))


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("index", range(3))
def test_pictures_are_those_of_the_reference(index: int) -> None:
    picture = pil.open(pictures()[index]).convert("RGB")
    crop = np.asarray(cropped(picture, 224)).transpose(2, 0, 1)
    np.testing.assert_array_equal(crop, arrays()["image.crop_u8"][index])
    got = image_tensor(picture)
    assert got.shape == (3, 224, 224) and got.dtype == torch.float32
    np.testing.assert_allclose(
        got[:, ::7, ::7].numpy(), arrays()["image.tensor_stride7"][index], atol=1e-6
    )


def test_a_flat_picture_is_its_colour_in_units_of_deviation() -> None:
    got = image_tensor(pil.new("RGB", (50, 90), (255, 0, 51)), size=32)
    assert got.shape == (3, 32, 32)
    for channel, level in enumerate((1.0, 0.0, 0.2)):
        expected = (level - MEAN[channel]) / STD[channel]
        assert got[channel].min() == pytest.approx(expected, abs=1e-5)
        assert got[channel].max() == pytest.approx(expected, abs=1e-5)


def test_a_sliver_is_refused() -> None:
    with pytest.raises(UserError, match="narrow"):
        image_tensor(pil.new("RGB", (2, 2000)))


# ---------------------------------------------------------------- sounds


def wave(name: str) -> Waveform:
    if f"audio.{name}.resampled" in arrays():
        return Waveform(arrays()[f"audio.{name}.resampled"], 16_000)
    samples, rate = soundfile.read(FOLDER / f"{name}.wav", dtype="int16", always_2d=True)
    return Waveform((samples.T / 32768).astype(np.float32), rate)


@pytest.mark.parametrize("name", ["audio_mono16k_1p3s", "audio_stereo44k1_5s", "audio_mono16k_12s"])
def test_filter_banks_are_those_of_the_reference(name: str) -> None:
    sound = wave(name)
    before = sound.samples.copy()
    got = audio_clips(sound)
    expected = arrays()[f"audio.{name}.fbank"][0]
    assert got.shape == (3, 1, 128, 204) and got.dtype == torch.float32
    assert np.abs(got.numpy() - expected).max() < 2e-3
    np.testing.assert_array_equal(sound.samples, before)  # the caller's sound is left as it was


def test_copied_clips_differ_where_the_released_code_shifts_samples() -> None:
    sound = wave("audio_stereo44k1_5s")
    apart = (audio_clips(sound) - audio_clips(sound, copy_clips=True)).abs()
    assert apart[0].max() == 0
    assert 0.5 < apart[1:, 0, :, 48:50].max() < 1.2
    apart[1:, 0, :, 48:50] = 0
    assert apart.max() < 1e-3
    # Clips that do not overlap are the same either way.
    long = wave("audio_mono16k_12s")
    assert (audio_clips(long) - audio_clips(long, copy_clips=True)).abs().max() < 1e-6


def test_resampling_keeps_the_tone_and_both_channels() -> None:
    time = np.arange(44_100 * 2) / 44_100
    tone = np.stack([np.sin(2 * np.pi * 1000 * time), 0.5 * np.sin(2 * np.pi * 3000 * time)])
    got = resampled(Waveform(tone.astype(np.float32), 44_100)).numpy()
    assert got.shape == (2, 32_000)
    at = np.arange(32_000) / 16_000
    inner = slice(500, -500)
    np.testing.assert_allclose(got[0, inner], np.sin(2 * np.pi * 1000 * at)[inner], atol=2e-3)
    np.testing.assert_allclose(got[1, inner], 0.5 * np.sin(2 * np.pi * 3000 * at)[inner], atol=2e-3)


def test_a_file_of_another_rate_comes_near_the_reference() -> None:
    """soxr against torchaudio's resampler: the same but for the edge of the band."""
    samples, rate = soundfile.read(
        FOLDER / "audio_stereo44k1_5s.wav", dtype="int16", always_2d=True
    )
    got = audio_clips(Waveform((samples.T / 32768).astype(np.float32), rate))
    apart = np.abs(got.numpy() - arrays()["audio.audio_stereo44k1_5s.fbank"][0])
    assert rate == 44_100 and np.median(apart) < 5e-3 and apart[:, :, :100].mean() < 0.05


def test_mono_and_stereo_are_taken() -> None:
    rng = np.random.default_rng(0)
    mono = rng.uniform(-0.5, 0.5, (1, 48_000)).astype(np.float32)
    one = audio_clips(Waveform(mono, 16_000))
    two = audio_clips(Waveform(np.concatenate([mono, mono]), 16_000))
    assert one.shape == two.shape == (3, 1, 128, 204)
    assert (one - two).abs().max() < 1e-3
    five = audio_clips(Waveform(mono, 16_000), clips=5, seconds=1.0)
    assert five.shape == (5, 1, 128, 204)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((1, 0), np.float32), "zero length"),
        (np.zeros((2, 0), np.float32), "zero length"),
        (np.zeros((1, 399), np.float32), "25 ms"),
        (np.full((1, 4000), np.nan, np.float32), "not numbers"),
    ],
)
def test_sounds_that_are_refused(samples: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        audio_clips(Waveform(samples, 16_000))


def test_silence_sits_at_the_floor() -> None:
    bank = fbank(torch.zeros(16_000))
    assert bank.shape == (98, 128)
    assert (bank == bank[0, 0]).all() and bank[0, 0] == pytest.approx(-15.9424, abs=1e-3)
    assert fbank(torch.zeros(300)).shape == (0, 128)


# ---------------------------------------------------------------- texts


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer(VOCABULARY)


def test_all_texts_have_the_ids_of_the_reference(tokenizer: ClipTokenizer) -> None:
    texts = json.loads((FOLDER / "text_strings.json").read_text(encoding="utf-8"))
    expected = arrays()["text.ids"].astype(np.int64)
    assert len(texts) == len(expected) == 48
    got = tokenizer.encode(texts)
    assert got.dtype == torch.int64
    np.testing.assert_array_equal(got.numpy(), expected)
    # Four of them are long: there the end id is kept, which older copies lose.
    old = arrays()["text.ids_old_truncation"].astype(np.int64)
    assert (got.numpy() != old).any(axis=1).sum() == 4


def test_the_end_id_is_where_the_encoder_looks(tokenizer: ClipTokenizer) -> None:
    ids = tokenizer.encode(["", "a dog", "word " * 300])
    assert ids.argmax(dim=1).tolist() == [1, 3, 76]
    assert tokenizer.encode([]).shape == (0, 77)
    assert tokenizer.ids("!") == [256] and tokenizer.size == 49_408


def test_another_file_is_no_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"no gzip")
    (tmp_path / "short.gz").write_bytes(gzip.compress(b"#version\na b\n"))
    (tmp_path / "cut.gz").write_bytes(VOCABULARY.read_bytes()[:5000])
    for name in ("plain", "short.gz", "cut.gz", "missing"):
        with pytest.raises(ModelError, match="vocabulary"):
            ClipTokenizer(tmp_path / name)


# ---------------------------------------------------------------- clips and films


def test_clips_lie_where_the_reference_puts_them() -> None:
    cases = json.loads((FOLDER / "clip_timepoints.json").read_text())
    assert len(cases) > 10
    for case in cases:
        got = clip_times(case["duration"], case["clip_duration"], case["clips"])
        assert got == [(Fraction(a), Fraction(b)) for a, b in case["timepoints"]]
        assert [[int(a * 16_000), int(b * 16_000)] for a, b in got] == case["samples_16k"]


def test_one_clip_begins_at_the_beginning() -> None:
    assert clip_times(10.0, 2.0, 1) == [(Fraction(0), Fraction(2))]
    for wrong in ((1.0, 2.0, 0), (1.0, 0.0, 3), (-1.0, 2.0, 3)):
        with pytest.raises(ValueError, match="no clips"):
            clip_times(*wrong)


@pytest.mark.parametrize("name", ["landscape", "portrait"])
def test_crops_of_a_film_are_those_of_the_reference(name: str) -> None:
    frames = torch.from_numpy(arrays()[f"in.video_{name}"]).permute(1, 2, 3, 0)
    assert (
        list(scaled_sides(*frames.shape[1:3], 224)) == arrays()[f"video.{name}.scaled_hw"].tolist()
    )
    got = clip_crops(subsample(frames, 2))
    assert got.shape == (3, 3, 2, 224, 224)
    expected = arrays()[f"video.{name}.crops_stride8"]
    np.testing.assert_allclose(got[..., ::8, ::8].numpy(), expected, atol=1e-4)
    means = got.mean(dim=(-1, -2)).numpy()
    np.testing.assert_allclose(means, arrays()[f"video.{name}.crops_mean"], atol=1e-4)


def test_clips_of_a_film_are_in_order() -> None:
    """Each frame's grey is its number, so what is in the tensor says which frames were taken."""
    rate, count = 10, 60
    frames = np.repeat(np.arange(count, dtype=np.uint8), 8 * 8 * 3).reshape(count, 8, 8, 3)
    got = video_clips(Footage.of_frames(frames, rate), size=16)
    assert got.shape == (15, 3, 2, 16, 16)
    red = (got[:, 0, :, 0, 0] * STD[0] + MEAN[0]) * 255
    shown = red.round().int().reshape(5, 3, 2)
    # Clips begin at 0, 1, 2, 3 and 4 s; the frame at the very end of a clip is not in it.
    first = [0, 10, 20, 30, 40]
    last = [19, 29, 39, 49, 59]
    for crop in range(3):
        assert shown[:, crop, 0].tolist() == first
        assert shown[:, crop, 1].tolist() == last
    assert video_clips(Footage.of_frames(frames, rate), clips=1, crops=1, size=16).shape[0] == 1


def test_more_frames_are_taken_evenly() -> None:
    frames = torch.arange(7)
    assert subsample(frames, 4).tolist() == [0, 2, 4, 6]
    assert subsample(frames, 2).tolist() == [0, 6]
    assert subsample(frames[:1], 2).tolist() == [0, 0]


def test_a_film_that_shows_nothing_is_refused() -> None:
    film = Footage(
        20.0, 8, 8, 10.0, Footage.of_frames(np.zeros((10, 8, 8, 3), np.uint8), 10).source
    )
    with pytest.raises(UserError, match="no frame between 4.50 s"):
        video_clips(film)


# ---------------------------------------------------------------- points


@pytest.mark.parametrize(
    ("name", "tolerance"), [("small", 1e-6), ("offset", 1e-5), ("far64", 1e-6)]
)
def test_clouds_are_centred_as_by_the_reference(name: str, tolerance: float) -> None:
    points = arrays()[f"in.points_{name}"]
    got = normalise(points)
    assert got.dtype == points.dtype
    np.testing.assert_allclose(got, arrays()[f"points.{name}.normalised"], atol=tolerance)


def test_farthest_points_are_those_of_the_reference() -> None:
    points = arrays()["in.points_offset"]
    chosen = farthest_points(points, 64)
    np.testing.assert_array_equal(points[chosen], arrays()["points.offset.fps64_start0"])
    assert farthest_points(points, 64, start=7)[0] == 7
    for n, start in ((501, 0), (0, 0), (5, 500)):
        with pytest.raises(ValueError, match="farthest"):
            farthest_points(points, n, start)


def test_a_cloud_is_brought_to_a_number_of_points() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(3000, 3)).astype(np.float32)
    for n in (16, 256, 3000, 5000):
        got = sample_points(cloud, n)
        assert got.shape == (n, 3)
        np.testing.assert_array_equal(got, sample_points(cloud, n))
        assert {p.tobytes() for p in got} <= {p.tobytes() for p in cloud}
    np.testing.assert_array_equal(sample_points(cloud, 5000)[3000:], cloud[:2000])
    tensor = point_tensor(cloud * 7 + 3, 4000)
    assert tensor.shape == (4000, 3) and tensor.dtype == torch.float32
    assert tensor[:3000].mean(dim=0).abs().max() < 1e-5
    assert tensor.norm(dim=1).max() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("cloud", "said"),
    [
        (np.zeros((0, 3), np.float32), "0 points"),
        (np.ones((1, 3), np.float32), "1 points"),
        (np.ones((9, 3), np.float32), "one place"),
        (np.array([[0, 0, 0], [1, np.nan, 0]], np.float32), "1 of 2 points .* NaN"),
        (np.array([[0, 0, 0], [np.inf, 1, 0]], np.float32), "NaN or infinite"),
        (np.zeros((4, 2), np.float32), r"\[points, 3\]"),
        (np.zeros((4, 3), np.int64), "floats"),
    ],
)
def test_what_is_no_cloud_is_refused(cloud: Any, said: str) -> None:
    for refuse in (normalise, sample_points, point_tensor):
        with pytest.raises(UserError, match=said):
            refuse(cloud)


# ---------------------------------------------------------------- depth, thermal, imu


def test_depth_becomes_disparity() -> None:
    metres = np.full((240, 320), 4.0, np.float32)
    got = depth_tensor(metres, baseline=0.075, focal=500.0)
    assert got.shape == (1, 224, 224) and got.dtype == torch.float32
    expected = (0.075 * 500 / 4 / 75 - 0.0418) / 0.0295
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)
    bare = depth_tensor(metres, baseline=0.075, focal=500.0, divisor=1.0)
    np.testing.assert_allclose(bare.numpy(), (9.375 - 0.0418) / 0.0295, rtol=1e-5)
    far, near = np.full((8, 8), 500.0, np.float32), np.full((8, 8), 1e-4, np.float32)
    at_50 = (0.075 * 500 / 50 / 75 - 0.0418) / 0.0295
    np.testing.assert_allclose(depth_tensor(far, focal=500.0).numpy(), at_50, rtol=1e-4)
    np.testing.assert_allclose(depth_tensor(near).numpy(), (1 - 0.0418) / 0.0295, rtol=1e-5)
    none = depth_tensor(np.zeros((8, 8), np.float32))
    np.testing.assert_allclose(none.numpy(), -0.0418 / 0.0295, rtol=1e-5)


@pytest.mark.parametrize(
    "metres",
    [np.zeros((0, 4)), np.zeros(5), np.full((4, 4), -1.0), np.full((4, 4), np.nan)],
)
def test_what_is_no_depth_map_is_refused(metres: Any) -> None:
    with pytest.raises(UserError, match="depth map"):
        depth_tensor(metres)


def test_thermal_pictures_are_not_normalised() -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    got = thermal_tensor(grey)
    assert got.shape == (1, 224, 224)
    assert got.min() < 0.01 and got.max() > 0.99 and got.max() <= 1.0
    assert (got[0, 0].diff() >= 0).all()
    with pytest.raises(UserError, match="uint8"):
        thermal_tensor(grey.astype(np.float32))


def test_readings_become_two_thousand_steps() -> None:
    ramp = np.linspace(0, 1, 500, dtype=np.float32)[:, None] * np.arange(1, 7, dtype=np.float32)
    got = imu_tensor(ramp)
    assert got.shape == (6, 2000) and got.dtype == torch.float32
    np.testing.assert_allclose(got[2], np.linspace(0, 3, 2000), atol=1e-5)
    exact = np.random.default_rng(0).normal(size=(2000, 6)).astype(np.float32)
    np.testing.assert_array_equal(imu_tensor(exact).numpy(), exact.T)
    np.testing.assert_allclose(imu_tensor(exact, rate=400.0).numpy(), exact.T, atol=1e-5)


def test_a_rate_sets_the_window() -> None:
    time = np.arange(20 * 100) / 100.0  # 20 s at 100 Hz
    readings = np.repeat(time[:, None], 6, axis=1).astype(np.float32)
    middle = imu_tensor(Motion(readings, 100.0))[0]
    assert (middle[0], middle[-1]) == (pytest.approx(7.5), pytest.approx(12.4975, abs=1e-3))
    early = imu_tensor(readings, rate=100.0, start=1.0)[0]
    assert (early[0], early[-1]) == (pytest.approx(1.0), pytest.approx(5.9975, abs=1e-3))
    short = imu_tensor(readings[:200], rate=100.0)[0]  # 2 s, then the last reading is held
    assert short[400] == pytest.approx(1.0, abs=1e-5)
    assert (short[800:] == short[-1]).all() and short[-1] == pytest.approx(1.99)


@pytest.mark.parametrize(
    ("readings", "options", "said"),
    [
        (np.zeros((10, 5)), {}, r"\[steps, 6\]"),
        (np.zeros((1, 6)), {}, "two steps"),
        (np.full((5, 6), np.nan), {}, "not finite"),
        (np.zeros((5, 6)), {"start": 1.0}, "rate"),
        (np.zeros((5, 6)), {"rate": 0.0}, "above 0"),
        (np.zeros((5, 6)), {"rate": float("nan")}, "above 0"),
        (np.zeros((5, 6)), {"start": 9.0, "rate": 10.0}, "no window"),
    ],
)
def test_what_are_no_readings_is_refused(readings: Any, options: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        imu_tensor(readings, **options)
