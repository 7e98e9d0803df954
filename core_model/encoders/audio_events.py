"""Sound events into the joint space: Whisper's encoder, pooled over time, and a small trained head.

Knows windows, features and the head. Does not know how the head was trained
(`anybind.core_model.training.audio_events`) nor what the joint space is made of.

Whisper hears 30 s at a time; a sound event needs a few. The encoder runs on windows of 4 s with the
first 200 of its 1,500 positions: a seventh of the work. Features of a window are mean, standard
deviation and maximum over time of several layers, only over positions that hold sound.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anybind.content import AnyPart, Waveform
from anybind.contracts import Build, Encoding
from anybind.core_model.encoders.whisper import load_whisper
from anybind.errors import ModelError, UserError
from anybind.optional import require

if TYPE_CHECKING:
    from whisper.model import AudioEncoder

RATE = 16_000
WINDOW_SECONDS = 4.0
WINDOW = int(RATE * WINDOW_SECONDS)
MAX_WINDOWS = 8
"""Longer sounds are heard in this many windows, spread evenly."""
FORMAT = "anybind-audio-events-1"

_HOP = 160
_FFT = 400
_LOUDNESS = 0.05
_MAX_GAIN = 100.0


def mono_16k(wave: Waveform) -> NDArray[np.float32]:
    """One channel at 16 kHz, float32 [frames]; values that are not finite become 0."""
    import soxr

    samples = np.nan_to_num(wave.samples.mean(0), posinf=0.0, neginf=0.0).astype(np.float32)
    if wave.rate != RATE:
        samples = soxr.resample(samples, wave.rate, RATE)
    return np.ascontiguousarray(samples, np.float32)


def windows(samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Cut a sound [frames] into 1 to `MAX_WINDOWS` pieces of at most `WINDOW` frames."""
    if len(samples) <= WINDOW:
        return [samples]
    count = min(MAX_WINDOWS, -(-len(samples) // WINDOW))
    starts = np.linspace(0, len(samples) - WINDOW, count).astype(int)
    return [samples[start : start + WINDOW] for start in starts]


class WindowFeatures:
    """Turns windows of sound into fixed-length features with Whisper's encoder.

    `layers` counts from 0: the output of the convolutions, then after each block; the last one is
    taken after the closing norm. Blocks after the last layer asked for are not run.
    """

    def __init__(self, encoder: AudioEncoder, layers: Sequence[int]) -> None:
        self.encoder: Any = encoder  # its blocks and positions are typed as less than they are
        self.layers = tuple(layers)
        self.mels: Tensor = require("whisper.audio", "speech").mel_filters("cpu", 80)
        if not self.layers or not set(self.layers) <= set(range(len(self.encoder.blocks) + 1)):
            raise ModelError(f"layers {self.layers} are not among 0..{len(self.encoder.blocks)}")

    @property
    def size(self) -> int:
        """Length of the features of one window."""
        return 3 * len(self.layers) * int(self.encoder.positional_embedding.shape[1])

    def _mel(self, batch: Tensor) -> Tensor:
        """Whisper's log-mel spectrogram, each sound scaled on its own: [B, N] to [B, 80, N/160]."""
        spectrum = torch.stft(
            batch, _FFT, _HOP, window=torch.hann_window(_FFT), return_complex=True
        )
        power = spectrum[..., :-1].abs() ** 2
        log = (self.mels @ power).clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8.0)
        return (log + 4.0) / 4.0

    @torch.inference_mode()
    def __call__(self, pieces: Sequence[NDArray[np.float32]]) -> Tensor:
        """Features [B, size] of windows of at most `WINDOW` frames each."""
        batch = torch.zeros(len(pieces), WINDOW)
        for row, piece in zip(batch, pieces, strict=True):
            level = float(np.sqrt(np.mean(np.square(piece)))) if len(piece) else 0.0
            gain = min(_MAX_GAIN, _LOUDNESS / max(level, 1e-9))
            row[: len(piece)] = torch.from_numpy(piece) * gain
        encoder = self.encoder
        x = nn.functional.gelu(encoder.conv1(self._mel(batch)))
        x = nn.functional.gelu(encoder.conv2(x)).permute(0, 2, 1)
        positions = int(x.shape[1])
        x = x + encoder.positional_embedding[:positions]
        states = [x]
        for block in encoder.blocks[: max(self.layers)]:
            x = block(x)
            states.append(x)
        if len(states) > len(encoder.blocks):
            states[-1] = encoder.ln_post(x)

        heard = torch.tensor([max(8, -(-len(piece) // (2 * _HOP))) for piece in pieces])
        mask = (torch.arange(positions) < heard[:, None]).unsqueeze(-1)
        weight = mask / mask.sum(1, keepdim=True)
        pooled: list[Tensor] = []
        for layer in self.layers:
            state = states[layer]
            mean = (state * weight).sum(1)
            variance = ((state - mean[:, None]).square() * weight).sum(1)
            top = state.masked_fill(~mask, float("-inf")).amax(1)
            pooled += [mean, variance.sqrt(), top]
        return torch.cat(pooled, -1)


class EventHead(nn.Module):
    """Standardised features through one hidden layer into the joint space: [B, F] to [B, C]."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.inner = nn.Linear(size, hidden)
        self.outer = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(0.3)

    def forward(self, features: Tensor) -> Tensor:
        x = ((features - self.mean) * self.scale).clamp(-8, 8)
        return self.outer(self.drop(nn.functional.gelu(self.inner(self.drop(x)))))


def load_head(path: Path) -> tuple[EventHead, dict[str, Any]]:
    """The trained head and its settings (`layers`, `hidden`, `dim`, `space`).

    Raises:
        ModelError: the file is not such a head or does not fit its settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}
        if metadata.get("format") != FORMAT:
            raise ModelError(f"{path.name}: format is not {FORMAT!r}")
        settings: dict[str, Any] = json.loads(metadata["settings"])
        head = EventHead(state["mean"].shape[0], int(settings["hidden"]), int(settings["dim"]))
        head.load_state_dict(state, strict=True)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path.name} is not a head for sound events: {error}") from error
    return head.eval().requires_grad_(False), settings


class AudioEventEncoder:
    """The encoder of sound events (contract: `anybind.contracts.Encoder`)."""

    def __init__(self, encoder: AudioEncoder, head: EventHead, settings: dict[str, Any]) -> None:
        self._features: WindowFeatures | None = WindowFeatures(encoder, settings["layers"])
        self._head = head
        self._space = str(settings["space"])
        self._dim = int(settings["dim"])
        if self._features.size != head.inner.in_features:
            raise ModelError(
                f"the head takes {head.inner.in_features} features, Whisper's encoder gives "
                f"{self._features.size}"
            )

    @classmethod
    def from_files(cls, whisper: Path, head: Path) -> AudioEventEncoder:
        """From a converted Whisper file and a trained head (both safetensors).

        Raises:
            ModelError: a file is not what it should be, or the two do not fit.
            MissingExtra: openai-whisper is not installed.
        """
        model, settings = load_head(head)
        return cls(load_whisper(whisper).encoder, model, settings)

    @property
    def modalities(self) -> frozenset[str]:
        """Sounds only."""
        return frozenset({"audio"})

    @property
    def space(self) -> str:
        """The joint space the head was trained into."""
        return self._space

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return self._dim

    @torch.inference_mode()
    def encode(self, parts: Sequence[AnyPart]) -> Encoding:
        """Embed sounds: `raw` [B, C] is the mean of the head over windows, `unit` its direction.

        Raises:
            UserError: a part is not a sound, or holds no samples.
        """
        if self._features is None:
            raise ModelError("the encoder of sound events is closed")
        rows: list[Tensor] = []
        for part in parts:
            wave: object = part.data
            if not isinstance(wave, Waveform):
                raise UserError(f"the encoder of sound events takes audio, not {part.kind}")
            samples = mono_16k(wave)
            if not len(samples):
                raise UserError("the sound holds no samples")
            rows.append(self._head(self._features(windows(samples))).mean(0))
        raw = torch.stack(rows) if rows else torch.zeros(0, self._dim)
        unit = nn.functional.normalize(raw, dim=-1)
        return Encoding(unit=unit.numpy().astype(np.float32), raw=raw.numpy().astype(np.float32))

    def close(self) -> None:
        """Let go of the model."""
        self._features = None


def build(build: Build) -> AudioEventEncoder:
    """Factory: weights "whisper" (converted Whisper) and "projection" (the trained head)."""
    return AudioEventEncoder.from_files(build.weights["whisper"], build.weights["projection"])
