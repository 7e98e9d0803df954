"""The encoder of sound events on a small random Whisper, and the head that is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("whisper")
import torch
from numpy.typing import NDArray
from whisper.audio import log_mel_spectrogram
from whisper.model import AudioEncoder

import anybind.bundles
from anybind.content import Audio, Text, Waveform
from anybind.contracts import Encoder
from anybind.core_model.encoders.audio_events import (
    MAX_WINDOWS,
    RATE,
    WINDOW,
    AudioEventEncoder,
    EventHead,
    WindowFeatures,
    load_head,
    windows,
)
from anybind.errors import ModelError, UserError

SHIPPED = Path(anybind.bundles.__file__).parent / "nano" / "audio_events.safetensors"
LAYERS = (0, 2)


def small_encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(n_mels=80, n_ctx=1500, n_state=16, n_head=2, n_layer=2).eval()


def sound(seconds: float, rate: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(t)) * 0.02
    wave = 0.2 * np.sin(2 * np.pi * 440 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (wave + (noise if rate == RATE else 0)).astype(np.float32)


@pytest.fixture
def encoder() -> AudioEventEncoder:
    small = small_encoder()
    torch.manual_seed(1)
    head = EventHead(WindowFeatures(small, LAYERS).size, 12, 6).eval()
    settings = {"layers": LAYERS, "hidden": 12, "dim": 6, "space": "test"}
    return AudioEventEncoder(small, head, settings)


def audio(samples: NDArray[np.float32], rate: int = RATE) -> Audio:
    return Audio.of(Waveform(np.atleast_2d(samples), rate))


def test_features_are_whispers_own_on_a_short_window() -> None:
    small = small_encoder()
    piece = sound(4.0)
    level = float(np.sqrt(np.mean(piece**2)))
    mel = log_mel_spectrogram(piece * (0.05 / level))
    short = small_encoder()
    short.positional_embedding = small.positional_embedding[:200]
    with torch.no_grad():
        state = short(mel[None])[0]
    got = WindowFeatures(small, (2,))([piece])[0]
    wanted = torch.cat([state.mean(0), state.std(0, correction=0), state.amax(0)])
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_encoding_is_unit_and_does_not_depend_on_company(encoder: AudioEventEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert (encoder.modalities, encoder.space, encoder.dim) == (frozenset({"audio"}), "test", 6)
    parts = [audio(sound(s, seed=i)) for i, s in enumerate((0.02, 1.3, 4.0, 11.0))]
    together = encoder.encode(parts)
    assert together.unit.shape == together.raw.shape == (4, 6)
    assert together.unit.dtype == together.raw.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together.unit, axis=1), 1, atol=1e-5)
    scaled = together.raw / np.linalg.norm(together.raw, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, together.unit, atol=1e-5)
    for row, part in zip(together.unit, parts, strict=True):
        np.testing.assert_allclose(encoder.encode([part]).unit[0], row, atol=1e-4)
    assert encoder.encode([]).unit.shape == (0, 6)


def test_level_rate_and_channels_hardly_matter(encoder: AudioEventEncoder) -> None:
    base = encoder.encode([audio(sound(3.0))]).unit[0]
    other = encoder.encode([
        audio(sound(3.0) * 0.2),
        audio(np.stack([sound(3.0), sound(3.0)])),
        audio(sound(3.0, 44_100), 44_100),
    ]).unit  # fmt: skip
    assert (other[:2] @ base > 0.9999).all()
    # the clip at 44.1 kHz lacks the noise, so only about the same
    assert other[2] @ base > 0.8


def test_silence_and_broken_samples_give_finite_embeddings(encoder: AudioEventEncoder) -> None:
    broken = sound(1.0)
    broken[10], broken[20] = np.nan, np.inf
    unit = encoder.encode([audio(np.zeros(RATE, np.float32)), audio(broken)]).unit
    assert np.isfinite(unit).all()


def test_wrong_parts_are_refused(encoder: AudioEventEncoder) -> None:
    with pytest.raises(UserError):
        encoder.encode([Text.of("a violin")])
    with pytest.raises(UserError, match="no samples"):
        encoder.encode([audio(np.zeros((1, 0), np.float32))])
    encoder.close()
    with pytest.raises(ModelError, match="closed"):
        encoder.encode([audio(sound(1.0))])


def test_long_sounds_are_heard_to_their_end() -> None:
    assert [len(p) for p in windows(np.zeros(WINDOW, np.float32))] == [WINDOW]
    long = np.arange(WINDOW * 100, dtype=np.float32)
    pieces = windows(long)
    assert len(pieces) == MAX_WINDOWS
    assert pieces[0][0] == 0
    assert pieces[-1][-1] == long[-1]


def test_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    head = EventHead(10, 12, 6)
    with pytest.raises(ModelError, match="features"):
        AudioEventEncoder(small_encoder(), head, {"layers": LAYERS, "dim": 6, "space": "x"})
    with pytest.raises(ModelError, match="layers"):
        WindowFeatures(small_encoder(), (7,))
    for data in (b"", b"nothing", SHIPPED.read_bytes()[:2000]):
        (tmp_path / "h.safetensors").write_bytes(data)
        with pytest.raises(ModelError):
            load_head(tmp_path / "h.safetensors")


def test_shipped_head_fits_whisper_tiny_and_the_hub() -> None:
    head, settings = load_head(SHIPPED)
    assert settings["dim"] == 384
    assert settings["space"] == "minilm-l6-v2"
    assert head.inner.in_features == 3 * 384 * len(settings["layers"])
    assert SHIPPED.stat().st_size <= 1_500_000
    assert all(bool(p.isfinite().all()) for p in head.state_dict().values())
