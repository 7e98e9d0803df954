"""Other takes of a sound: cut, speed, mixing, room, equaliser, band, overdrive, noise and level.

Knows signals only. What differs between two recordings of one thing, and does not between what they are
recordings of, belongs here: the microphone's colour, the room, the level, the pitch it was played at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from anybind.core_model.encoders.audio_events import RATE, WINDOW

Samples = NDArray[np.float32]
Wave = NDArray[np.float64]
Random = np.random.Generator


def augment(samples: Samples, r: Random, others: list[Samples]) -> Samples:
    """Another take of a sound [frames] at 16 kHz, of at most one window.

    `others` are sounds that may be heard behind it.
    """
    x = _cut(_speed(samples, r) if r.random() < 0.6 else samples, r).astype(np.float64)
    level = float(np.sqrt(np.mean(x**2))) + 1e-7
    if others and r.random() < 0.2:
        other = np.resize(others[int(r.integers(len(others)))], len(x))
        loud = np.sqrt(np.mean(other**2)) + 1e-7
        x = x + other * (level / loud) * 10 ** (r.uniform(-20, -8) / 20)
    if r.random() < 0.12:
        top = np.abs(x).max() + 1e-9
        x = np.tanh(x / top * r.uniform(1, 4)) * top
    if r.random() < 0.5:
        x = _room(x, r)
    if r.random() < 0.6:
        x = _equaliser(x, r)
    if r.random() < 0.35:
        low, high = r.uniform(30, 400), r.uniform(2500, 7900)
        spectrum, f = np.fft.rfft(x), np.fft.rfftfreq(len(x), 1 / RATE)
        x = np.fft.irfft(spectrum / (1 + (low / (f + 1)) ** 4) / (1 + (f / high) ** 4), len(x))
    if r.random() < 0.5:
        x = x + _noise(len(x), r) * level * 10 ** (-r.uniform(12, 50) / 20)
    if r.random() < 0.25:  # the sound does not always begin with the recording
        quiet = int(r.uniform(0, 0.8) * RATE)
        x = np.concatenate([r.standard_normal(quiet) * level * 1e-3, x])[:WINDOW]
    return (x * 10 ** (r.uniform(-15, 3) / 20)).astype(np.float32)


def _speed(x: Samples, r: Random) -> Samples:
    speed = r.uniform(0.8, 1.25)
    return np.interp(np.arange(0, len(x) - 1, speed), np.arange(len(x)), x).astype(np.float32)


def _cut(x: Samples, r: Random) -> Samples:
    if len(x) > WINDOW // 2:
        size = min(len(x), int(r.uniform(0.35, 1.0) * WINDOW))
        start = int(r.integers(0, len(x) - size + 1))
        cut = x[start : start + size]
        if np.sqrt(np.mean(cut**2)) > 0.2 * np.sqrt(np.mean(x**2)):  # not the pause after a sound
            x = cut
    return x[:WINDOW]


def _room(x: Wave, r: Random) -> Wave:
    n = int(r.uniform(0.08, 0.8) * RATE)
    room = r.standard_normal(n) * np.exp(-np.arange(n) / n * 6)
    room[0] = r.uniform(2, 12)
    return fftconvolve(x, room / np.sqrt(np.sum(room**2)))[: len(x)]


def _equaliser(x: Wave, r: Random) -> Wave:
    """A smooth curve of gains, of the size that microphones and loudspeakers have."""
    f = np.fft.rfftfreq(len(x), 1 / RATE)
    knots = np.geomspace(60, RATE / 2, 8)
    gains = r.normal(0, r.uniform(1, 6), 8) + np.linspace(-1, 1, 8) * r.normal(0, 5)
    curve = np.interp(np.log(f + 30), np.log(knots), gains)
    return np.fft.irfft(np.fft.rfft(x) * 10 ** (curve / 20), len(x))


def _noise(n: int, r: Random) -> Wave:
    noise = r.standard_normal(n)
    if r.random() < 0.5:
        noise = lfilter(
            [1.0], [1.0, -r.uniform(0.7, 0.99)], noise
        )  # deeper, like traffic or a room
        noise /= noise.std() + 1e-9
    return np.asarray(noise)
