"""Everyday sounds made from scratch: noise, tones and impulses shaped into rain, sirens, barks.

Knows signal recipes only; every recipe draws its parameters from a random generator, so that one
name gives many different clips. They are rough likenesses of the real thing, and free of rights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

Wave = NDArray[np.float64]
Random = np.random.Generator
RATE = 16_000
"""Hertz of every clip."""


def _noise(r: Random, n: int) -> Wave:
    return r.standard_normal(n)


def _band(x: Wave, low: float, high: float, order: int = 2) -> Wave:
    nyquist = RATE / 2 * 0.999
    low, high = max(low, 20.0), min(max(high, low * 1.05), nyquist)
    return np.asarray(sosfilt(butter(order, [low, high], "band", fs=RATE, output="sos"), x))


def _low(x: Wave, cut: float) -> Wave:
    return np.asarray(sosfilt(butter(2, cut, "low", fs=RATE, output="sos"), x))


def _tone(freq: Wave | float, n: int) -> Wave:
    f = np.broadcast_to(np.asarray(freq, dtype=float), (n,))
    return np.sin(2 * np.pi * np.cumsum(f) / RATE)


def _saw(freq: Wave | float, n: int) -> Wave:
    f = np.broadcast_to(np.asarray(freq, dtype=float), (n,))
    return 2 * ((np.cumsum(f) / RATE) % 1.0) - 1


def _slow(r: Random, n: int, per_second: float, low: float = 0.0) -> Wave:
    """A slow random curve in low..1."""
    knots = r.random(max(4, int(n / RATE * per_second) + 3))
    return low + (1 - low) * np.interp(np.linspace(0, len(knots) - 1, n), range(len(knots)), knots)


def _decay(n: int, seconds: float) -> Wave:
    return np.exp(-np.arange(n) / RATE / seconds)


def _hits(r: Random, n: int, gap: float, jitter: float, make: Callable[[], Wave]) -> Wave:
    """`make()` placed every `gap` seconds, give or take `jitter` (a share of the gap)."""
    out, at = np.zeros(n), r.uniform(0, gap / 2)
    while at * RATE < n:
        piece, start = make(), int(at * RATE)
        piece = piece[: n - start]
        out[start : start + len(piece)] += piece * r.uniform(0.7, 1.0)
        at += gap * max(0.1, 1 + r.uniform(-jitter, jitter))
    return out


def _formants(source: Wave, formants: tuple[tuple[float, float], ...]) -> Wave:
    out = np.zeros_like(source)
    for freq, width in formants:
        radius = np.exp(-np.pi * width / RATE)
        angle = 2 * np.pi * min(freq, RATE * 0.45) / RATE
        out += lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], source)
    return out


def _bell_hit(r: Random, freq: float, seconds: float) -> Wave:
    n = int(seconds * 2 * RATE)
    partials = ((1, 1.0), (2.0, 0.6), (2.76, 0.5), (5.4, 0.25), (8.9, 0.1))
    return sum(
        (a * _tone(freq * p * r.uniform(0.995, 1.005), n) * _decay(n, seconds / p**0.5)
         for p, a in partials), np.zeros(n))  # fmt: skip


def _rain(r: Random, n: int) -> Wave:
    drops = np.where(r.random(n) < r.uniform(0.002, 0.03), r.standard_normal(n), 0.0)
    drops = _band(lfilter([1], [1, -0.6], drops), r.uniform(800, 2000), 7500)
    return drops * 3 + _band(_noise(r, n), r.uniform(400, 1500), r.uniform(5000, 7900)) * 0.5


def _wind(r: Random, n: int) -> Wave:
    parts = [_band(_noise(r, n), f, f * r.uniform(1.2, 1.8)) * _slow(r, n, 1.2, 0.05)
             for f in r.uniform(120, 900, 4)]  # fmt: skip
    return np.sum(parts, 0) + 0.3 * _low(_noise(r, n), 300)


def _thunder(r: Random, n: int) -> Wave:
    start = int(r.uniform(0, 0.3) * n)
    env = np.zeros(n)
    env[start:] = _decay(n - start, r.uniform(0.6, 1.8)) * _slow(r, n - start, 9, 0.2)
    crack = _band(_noise(r, n), 500, 4000) * env**4 * r.uniform(0, 0.6)
    return _low(_noise(r, n), r.uniform(90, 260)) * env * 6 + crack


def _siren(r: Random, n: int) -> Wave:
    t, low, high = np.arange(n) / RATE, r.uniform(400, 700), r.uniform(900, 1600)
    rate, phase = r.uniform(0.2, 3.0), r.uniform(0, 6)
    sweep = np.sin(2 * np.pi * rate * t + phase)
    if r.random() < 0.35:
        sweep = np.sign(sweep)
    freq = (low + high) / 2 + (high - low) / 2 * sweep
    return _tone(freq, n) + 0.4 * _tone(2 * freq, n) + 0.2 * _tone(3 * freq, n)


def _beeps(r: Random, n: int) -> Wave:
    freq, on = r.uniform(700, 3000), r.uniform(0.04, 0.2)
    burst = int(r.integers(1, 5))
    t = np.arange(n) / RATE
    period = on * 2 * burst + r.uniform(0, 0.8)
    inside = t % period
    gate = (inside < on * 2 * burst) & ((inside % (2 * on)) < on)
    wave = _tone(freq, n)
    return (np.sign(wave) if r.random() < 0.5 else wave) * gate


def _clock(r: Random, n: int) -> Wave:
    f1, f2 = r.uniform(1500, 5000, 2)
    flip = iter(range(10_000))

    def tick() -> Wave:
        k = int(0.03 * RATE)
        f = f1 if next(flip) % 2 else f2
        return (_tone(f, k) + 0.5 * _noise(r, k)) * _decay(k, 0.004)

    return _hits(r, n, float(r.choice([0.25, 0.5, 1.0])), 0.01, tick)


def _fire(r: Random, n: int) -> Wave:
    def crack() -> Wave:
        k = int(r.uniform(0.002, 0.02) * RATE)
        return _noise(r, k) * _decay(k, 0.004) * r.exponential(1.0)

    return _hits(r, n, r.uniform(0.02, 0.1), 0.95, crack) + _low(_noise(r, n), 400) * r.uniform(
        0.05, 0.4
    )


def _crickets(r: Random, n: int) -> Wave:
    out, t = np.zeros(n), np.arange(n) / RATE
    for _ in range(int(r.integers(1, 4))):
        trill = np.maximum(0, np.sin(2 * np.pi * r.uniform(20, 60) * t))
        chirp = ((t + r.uniform(0, 1)) % r.uniform(0.3, 1.0)) < r.uniform(0.1, 0.25)
        out += _tone(r.uniform(3500, 6000), n) * trill * chirp * r.uniform(0.4, 1)
    return out


def _buzz(r: Random, n: int) -> Wave:
    freq = r.uniform(150, 280) * (1 + 0.12 * (_slow(r, n, 3) - 0.5))
    return _low(_saw(freq, n), 4000) * _slow(r, n, 2, 0.1)


def _horn(r: Random, n: int) -> Wave:
    f = r.uniform(300, 480)
    wave = _saw(f, n) + _saw(f * r.choice([1.19, 1.26, 1.33]), n)
    t = np.arange(n) / RATE
    gate = (t % r.uniform(0.5, 2.5)) < r.uniform(0.3, 1.6)
    return _low(wave, 4500) * _low(gate.astype(float), 60)


def _engine(r: Random, n: int) -> Wave:
    rev = r.uniform(18, 70) * (1 + r.uniform(0, 1.2) * _slow(r, n, 0.8))
    pulses = np.maximum(0, _saw(rev, n)) ** 4 + 0.4 * np.maximum(0, _saw(rev / 2, n)) ** 4
    rough = pulses * (1 + 0.6 * _noise(r, n))
    return _low(rough - rough.mean(), r.uniform(500, 2500))


def _plane(r: Random, n: int) -> Wave:
    f = r.uniform(80, 220) * np.linspace(1.1, r.uniform(0.8, 1.0), n)
    roar = _band(_noise(r, n), 80, r.uniform(900, 2500))
    env = np.exp(-(((np.linspace(0, 1, n) - r.uniform(0.2, 0.8)) / 0.6) ** 2))
    return (roar + 0.4 * _saw(f, n) + 0.2 * _tone(f * r.uniform(6, 12), n)) * env


def _train(r: Random, n: int) -> Wave:
    def clack() -> Wave:
        k = int(0.25 * RATE)
        one = _low(_noise(r, k), 900) * _decay(k, 0.04)
        return one + 0.8 * np.roll(one, int(0.12 * RATE))

    rumble = _low(_noise(r, n), 200) * 0.8
    out = _hits(r, n, r.uniform(0.45, 0.9), 0.03, clack) * 2 + rumble
    if r.random() < 0.4:
        f = r.uniform(280, 400)
        whistle = _saw(f, n) + _saw(f * 1.19, n) + _saw(f * 1.5, n)
        t = np.arange(n) / RATE
        out += _low(whistle, 3000) * ((t % 3) < r.uniform(0.6, 1.6)) * 0.5
    return out


def _static(r: Random, n: int) -> Wave:
    return _band(_noise(r, n), r.uniform(20, 800), r.uniform(3500, 7900))


def _steps(r: Random, n: int) -> Wave:
    cut = r.uniform(300, 2500)

    def step() -> Wave:
        k = int(0.15 * RATE)
        heel = _low(_noise(r, k), cut) * _decay(k, 0.02)
        return heel + 0.4 * np.roll(_band(_noise(r, k), 800, 4000) * _decay(k, 0.03), k // 3)

    return _hits(r, n, r.uniform(0.35, 0.75), 0.08, step)


def _waves(r: Random, n: int) -> Wave:
    t, period = np.arange(n) / RATE, r.uniform(3, 7)
    env = np.maximum(0.1, np.sin(2 * np.pi * t / period + r.uniform(0, 6))) ** 1.5
    return _band(_noise(r, n), 150, 3500) * env + 0.4 * _low(_noise(r, n), 250)


def _stream(r: Random, n: int) -> Wave:
    def bubble() -> Wave:
        k = int(r.uniform(0.01, 0.06) * RATE)
        f = r.uniform(400, 2200) * (1 + np.linspace(0, r.uniform(0.1, 0.9), k))
        return _tone(f, k) * _decay(k, 0.015) * r.uniform(0.2, 1)

    base = _band(_noise(r, n), 500, 5000) * r.uniform(0.05, 0.4)
    return _hits(r, n, r.uniform(0.008, 0.04), 0.9, bubble) + base


def _call(r: Random, f0: float, curve: Wave, formants: tuple[tuple[float, float], ...],
          rough: float) -> Wave:  # fmt: skip
    n = len(curve)
    wave = _saw(f0 * curve * (1 + 0.01 * _noise(r, n)), n) + rough * _noise(r, n)
    return _formants(wave, formants) * np.sin(np.pi * np.linspace(0.02, 1, n)) ** 0.6


def _meow(r: Random, n: int) -> Wave:
    def one() -> Wave:
        k = int(r.uniform(0.5, 1.1) * RATE)
        curve = np.interp(np.linspace(0, 1, k), [0, 0.3, 1], [0.8, 1.25, 0.75])
        shift = r.uniform(0.9, 1.2)
        return _call(r, r.uniform(450, 750), curve,
                     ((900 * shift, 150), (2000 * shift, 200), (3200, 300)), 0.03)  # fmt: skip

    return _hits(r, n, r.uniform(1.2, 2.5), 0.2, one)


def _bark(r: Random, n: int) -> Wave:
    base = r.uniform(180, 600)

    def one() -> Wave:
        k = int(r.uniform(0.12, 0.28) * RATE)
        curve = np.interp(np.linspace(0, 1, k), [0, 0.25, 1], [0.9, 1.4, 0.6])
        return _call(r, base, curve, ((700, 200), (1300, 250), (2600, 400)), 0.5)

    return _hits(r, n, r.uniform(0.3, 0.9), 0.35, one)


def _moo(r: Random, n: int) -> Wave:
    def one() -> Wave:
        k = int(r.uniform(1.2, 2.4) * RATE)
        curve = np.interp(np.linspace(0, 1, k), [0, 0.3, 0.8, 1], [0.8, 1.1, 1.15, 0.8])
        return _call(r, r.uniform(95, 170), curve, ((350, 100), (700, 150), (1800, 300)), 0.05)

    return _hits(r, n, r.uniform(2.5, 4), 0.1, one)


def _sheep(r: Random, n: int) -> Wave:
    def one() -> Wave:
        k = int(r.uniform(0.7, 1.3) * RATE)
        curve = 1 + 0.08 * np.sin(2 * np.pi * r.uniform(6, 9) * np.arange(k) / RATE)
        return _call(r, r.uniform(220, 420), curve, ((800, 150), (1700, 200), (2700, 300)), 0.1)

    return _hits(r, n, r.uniform(1.4, 2.5), 0.2, one)


def _baby(r: Random, n: int) -> Wave:
    def one() -> Wave:
        k = int(r.uniform(0.7, 1.3) * RATE)
        curve = np.interp(np.linspace(0, 1, k), [0, 0.2, 0.7, 1], [0.8, 1.15, 1.1, 0.75])
        return _call(r, r.uniform(380, 560), curve, ((1100, 200), (3300, 400)), 0.1)

    return _hits(r, n, r.uniform(1.0, 1.6), 0.1, one)


def _owl(r: Random, n: int) -> Wave:
    f = r.uniform(280, 480)

    def one() -> Wave:
        k = int(r.uniform(0.3, 0.7) * RATE)
        return _tone(f * (1 + 0.04 * np.sin(np.linspace(0, 3, k))), k) * np.hanning(k)

    return _hits(r, n, r.uniform(0.6, 1.3), 0.3, one)


def _frog(r: Random, n: int) -> Wave:
    f, rate = r.uniform(250, 900), r.uniform(25, 60)

    def one() -> Wave:
        k = int(r.uniform(0.15, 0.45) * RATE)
        pulses = np.maximum(0, np.sin(2 * np.pi * rate * np.arange(k) / RATE)) ** 3
        return (_tone(f, k) + 0.5 * _tone(f * 2.1, k)) * pulses * np.hanning(k)

    return _hits(r, n, r.uniform(0.5, 1.2), 0.3, one)


def _heart(r: Random, n: int) -> Wave:
    def beat() -> Wave:
        k = int(0.5 * RATE)
        one = _tone(r.uniform(45, 80), k) * _decay(k, 0.05)
        return one + 0.7 * np.roll(one, int(0.28 * RATE)) * (np.arange(k) > 0.28 * RATE)

    return _low(_hits(r, n, r.uniform(0.65, 1.1), 0.03, beat), 200)


def _typing(r: Random, n: int) -> Wave:
    def key() -> Wave:
        k = int(0.04 * RATE)
        click = _band(_noise(r, k), r.uniform(1200, 2500), 6500) * _decay(k, 0.004)
        return click + 0.5 * _low(_noise(r, k), 400) * _decay(k, 0.01)

    return _hits(r, n, r.uniform(0.09, 0.22), 0.7, key)


def _saw_wood(r: Random, n: int) -> Wave:
    t, rate = np.arange(n) / RATE, r.uniform(1.0, 2.5)
    stroke = np.abs(np.sin(np.pi * rate * t)) ** 0.7
    teeth = np.maximum(0, _saw(r.uniform(80, 200) * (0.3 + stroke), n))
    return _band(_noise(r, n), 800, 6000) * stroke * (0.3 + teeth)


def _hammer(r: Random, n: int) -> Wave:
    f = r.uniform(600, 2500)

    def hit() -> Wave:
        k = int(0.25 * RATE)
        return (_noise(r, k) * _decay(k, 0.008) * 2 + _tone(f, k) * _decay(k, 0.03)
                + _low(_noise(r, k), 300) * _decay(k, 0.03))  # fmt: skip

    return _hits(r, n, r.uniform(0.3, 0.9), 0.1, hit)


def _knock(r: Random, n: int) -> Wave:
    f = r.uniform(120, 350)

    def hit() -> Wave:
        k = int(0.15 * RATE)
        return _tone(f, k) * _decay(k, 0.02) + _low(_noise(r, k), 1200) * _decay(k, 0.006)

    out = _hits(r, n, r.uniform(0.15, 0.35), 0.1, hit)
    return out * ((np.arange(n) / RATE % r.uniform(1.5, 3)) < 0.9)


def _drill(r: Random, n: int) -> Wave:
    f = r.uniform(120, 400) * (0.8 + 0.3 * _slow(r, n, 1.5))
    return _low(_saw(f, n) + 0.5 * _saw(f * 2.02, n) + 0.4 * _noise(r, n), 6000)


def _vacuum(r: Random, n: int) -> Wave:
    f = r.uniform(180, 420)
    hum = sum((_tone(f * k, n) / k for k in range(1, 6)), np.zeros(n))
    return 0.4 * hum + _band(_noise(r, n), 200, 6000)


def _whistle(r: Random, n: int) -> Wave:
    knots = r.choice([1.0, 1.12, 1.26, 1.33, 1.5, 1.68], max(3, int(n / RATE * 3)))
    f = r.uniform(900, 1700) * _low(np.repeat(knots, n // len(knots) + 1)[:n], 12)
    return _tone(f, n) * _slow(r, n, 4, 0.3) + 0.03 * _noise(r, n)


def _phone(r: Random, n: int) -> Wave:
    t, rate, f = np.arange(n) / RATE, r.uniform(15, 28), r.uniform(900, 1800)
    trill = np.where(np.sin(2 * np.pi * rate * t) > 0, _tone(f, n), _tone(f * 1.25, n))
    return trill * ((t % r.uniform(2.2, 4)) < r.uniform(1, 2))


def _doorbell(r: Random, n: int) -> Wave:
    f = r.uniform(500, 800)
    out = np.zeros(n)
    for start, freq in ((0.1, f), (r.uniform(0.5, 0.9), f / 1.26)):
        k = int(start * RATE)
        piece = _bell_hit(r, freq, 0.6)[: n - k]
        out[k : k + len(piece)] += piece
    return out


def _church(r: Random, n: int) -> Wave:
    f = r.uniform(150, 420)
    return _hits(r, n, r.uniform(1.2, 2.5), 0.05, lambda: _bell_hit(r, f, 1.6))


def _boom(r: Random, n: int) -> Wave:
    start = int(r.uniform(0, 0.2) * n)
    k = n - start
    out = np.zeros(n)
    out[start:] = _low(_noise(r, k), r.uniform(200, 900)) * _decay(k, r.uniform(0.3, 0.9)) * 3
    out[start:] += _noise(r, k) * _decay(k, 0.05)
    return np.tanh(out)


def _glass(r: Random, n: int) -> Wave:
    def shard() -> Wave:
        k = int(0.3 * RATE)
        return _tone(r.uniform(2000, 7500), k) * _decay(k, r.uniform(0.01, 0.06))

    shards = _hits(r, n, 0.015, 0.9, shard) * _decay(n, r.uniform(0.15, 0.4))
    return shards + _band(_noise(r, n), 2000, 7800) * _decay(n, 0.04) * 2


def _silence(r: Random, n: int) -> Wave:
    return _noise(r, n) * 10 ** r.uniform(-6, -4.3)


RECIPES: dict[str, Callable[[Random, int], Wave]] = {
    "rain": _rain, "wind": _wind, "thunder": _thunder, "siren": _siren, "alarm": _beeps,
    "clock": _clock, "fire": _fire, "cricket": _crickets, "bee": _buzz, "car horn": _horn,
    "car engine": _engine, "airplane": _plane, "train": _train, "static noise": _static,
    "footsteps": _steps, "sea waves": _waves, "stream": _stream, "cat": _meow, "dog": _bark,
    "cow": _moo, "sheep": _sheep, "crying baby": _baby, "owl": _owl, "frog": _frog,
    "heartbeat": _heart, "keyboard typing": _typing, "saw": _saw_wood, "hammer": _hammer,
    "door knock": _knock, "drill": _drill, "vacuum cleaner": _vacuum, "whistle": _whistle,
    "telephone": _phone, "doorbell": _doorbell, "church bell": _church, "explosion": _boom,
    "breaking glass": _glass, "silence": _silence,
}  # fmt: skip
"""Recipe by the label it belongs to."""


def make(name: str, seed: int, seconds: float) -> NDArray[np.float32]:
    """A clip [frames] of the sound `name`, peak at most 0.9; the same seed gives the same clip."""
    r = np.random.default_rng([seed, *name.encode()])
    wave = RECIPES[name](r, int(seconds * RATE))
    if name != "silence":
        wave = wave / (np.abs(wave).max() + 1e-9) * 0.9
    return wave.astype(np.float32)
